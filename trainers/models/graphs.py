"""CUDA graphs that encode batches on a GPU: kernels are recorded once for each of a few shapes, then replayed.

Launching the kernels of a small encoder one by one takes longer than running them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.models.backbones import Encoder
from trainers.models.batches import Layout, Padding, moved, recency_of

log = logging.getLogger(__name__)

MOST_NUMBERS = 2**26
"""Largest number of attention weights for which all sequences are padded to the longest, as graphs need.

It also bounds the total size of the item-table gradients, of which each recorded shape keeps its own.
"""
SHAPES = 8
"""Approximate number of different batch shapes in a training."""
TOLERANCE = 1e-2
"""Largest difference of replayed from recorded results, relative to the norm: bf16, and sums in another order."""


def rounded(tokens: int) -> int:
    """`tokens` rounded up to the next of eight sizes between a power of two and its double."""
    step = 2 ** max(0, (tokens - 1).bit_length() - 4)
    return -(-tokens // step) * step


def fixed_shape(items: Tensor, offsets: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Items, recencies and slots (M,) for `FixedShape`, where M is the number N of real tokens, `rounded` up.

    Each sequence has a row of `width` slots; the M - N spare tokens share the first slot of an extra row.
    """
    lengths = offsets.diff()
    sequences, spare = len(lengths), rounded(len(items)) - len(items)
    skipped = width * torch.arange(sequences) - offsets[:-1]  # difference of a token's slot and its number
    slots = torch.arange(len(items)) + torch.repeat_interleave(skipped, lengths)
    places = [F.pad(recency_of(offsets), (0, spare)), F.pad(slots, (0, spare), value=width * sequences)]
    recency, slots = moved(torch.stack(places), items.device)
    return F.pad(items, (0, spare)), recency, slots


class FixedShape(nn.Module):
    """An encoder as a function of tensors only, for `sequences` rows of at most `width` items, and spare tokens."""

    def __init__(self, model: Encoder, sequences: int, width: int) -> None:
        super().__init__()
        self.model = model
        self.groups = ((sequences + 1, width),)

    def forward(self, items: Tensor, recency: Tensor, slots: Tensor) -> Tensor:
        """States (M, D) of tokens (M,); those of spare tokens are meaningless."""
        no_offsets = torch.empty(0, dtype=torch.int64)  # only the compiled kernels of the CPU read them
        return self.model(items, Layout(no_offsets, recency, Padding(slots, self.groups)))


class GraphEncoder:
    """Encodes like `model`, by graphs where possible: on a GPU, for batches of exactly `sequences` sequences.

    A graph is used only after it has reproduced the states and gradients of the kernels that it recorded. If recording
    fails, that is logged once and the model itself encodes from then on. Use a result before asking for the next.
    """

    def __init__(self, model: Encoder, sequences: int, longest: int, heads: int, device: torch.device) -> None:
        self.model = model
        self.sequences, self.longest = sequences, longest
        tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        sparse = any(table.sparse for table in tables)
        kept = SHAPES * sum(table.weight.numel() for table in tables)
        fits = (sequences + 1) * heads * longest**2 <= MOST_NUMBERS and kept <= MOST_NUMBERS
        self.usable = device.type == "cuda" and fits and not sparse
        self.graphs: dict[int, Callable[..., Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.usable else None

    def __call__(self, items: Tensor, offsets: Tensor) -> Tensor:
        """States (N, D) of `items` (N,) in training sequences that start at `offsets` (B+1,), held on the host."""
        if not self.usable or len(offsets) != self.sequences + 1:
            return self.model.encode(items, offsets)
        inputs = fixed_shape(items, offsets, self.longest)
        size = len(inputs[0])
        if size not in self.graphs:
            try:
                self.graphs[size] = self._record(inputs, len(items))
            except RuntimeError as error:  # this includes running out of memory: the model itself needs less
                log.warning("no CUDA graphs in this training: %s", error)
                self.usable = False
                self.graphs.clear()
        if not self.usable:  # outside the except clause, where the error keeps the recorded tensors alive
            return self.model.encode(items, offsets)
        return self.graphs[size](*inputs)[: len(items)]

    def _record(self, inputs: tuple[Tensor, ...], tokens: int) -> Callable[..., Tensor]:
        """The graph for inputs of these shapes, of which `tokens` tokens are real.

        Random numbers continue as if nothing had been recorded.
        """
        device = inputs[0].device
        kernels, graph = (FixedShape(self.model, self.sequences, self.longest) for _ in range(2))
        with torch.random.fork_rng([device]), torch.cuda.stream(torch.cuda.current_stream(device)):
            torch.cuda.make_graphed_callables(graph, inputs, allow_unused_input=True, pool=self._pool)
            state = torch.cuda.get_rng_state(device)
            expected = states_and_gradients(kernels, inputs, tokens)
            torch.cuda.set_rng_state(state, device)
            check_equal(expected, states_and_gradients(graph, inputs, tokens))
        return graph


def states_and_gradients(function: nn.Module, inputs: tuple[Tensor, ...], tokens: int) -> list[Tensor]:
    """States (N, D) of the N real tokens, and gradients of their sum in one direction, by each parameter in use."""
    states = function(*inputs)[:tokens].float()
    # not a direction that a layer norm removes: it differs within a token, and from token to token
    direction = (torch.arange(states.numel(), device=states.device) % 5 - 2.0).view_as(states)
    gradients = torch.autograd.grad((states * direction).sum(), list(function.parameters()), allow_unused=True)
    return [states.detach().clone(), *(gradient.clone() for gradient in gradients if gradient is not None)]


def check_equal(expected: Iterable[Tensor], actual: Iterable[Tensor]) -> None:
    """Raises RuntimeError if a tensor differs from the expected one by more than TOLERANCE of its norm."""
    for first, second in zip(expected, actual, strict=True):
        size, error = first.float().norm(), (first.float() - second.float()).norm()
        if not error <= TOLERANCE * size:
            raise RuntimeError(f"what was replayed differs from what was recorded, by {float(error / size):.2g}")
