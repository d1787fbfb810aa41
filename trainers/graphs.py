"""Encoding batches on a GPU as CUDA graphs: kernels recorded once for each of a few shapes, then replayed.

Launching the kernels of a small encoder one by one takes a GPU longer than running them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.backbones import Encoder
from trainers.batches import Layout, Padding, moved, recency_of

log = logging.getLogger(__name__)

MOST_NUMBERS = 2**26
"""Where padding every sequence to the longest takes more attention weights than this, the groups of `Padding` do.

The same bounds the gradients of item tables, of which each recorded shape keeps its own.
"""
SHAPES = 8
"""Of the batches of a training, about."""
TOLERANCE = 1e-2
"""What is replayed may differ from what was recorded by this part of its norm: bf16, and sums in another order."""


def rounded(tokens: int) -> int:
    """A number of tokens up to the next of eight sizes between a power of two and its double."""
    step = 2 ** max(0, (tokens - 1).bit_length() - 4)
    return -(-tokens // step) * step


def fixed_shape(items: Tensor, offsets: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Items, recencies and slots (M,) for `FixedShape`, where M is `rounded` of the N real tokens.

    Each sequence has a row of `width` slots; the M - N spare tokens share the first slot of one more row.
    """
    lengths = offsets.diff()
    sequences, spare = len(lengths), rounded(len(items)) - len(items)
    skipped = width * torch.arange(sequences) - offsets[:-1]  # from a token's number to its slot
    slots = torch.arange(len(items)) + torch.repeat_interleave(skipped, lengths)
    places = [F.pad(recency_of(offsets), (0, spare)), F.pad(slots, (0, spare), value=width * sequences)]
    recency, slots = moved(torch.stack(places), items.device)
    return F.pad(items, (0, spare)), recency, slots


class FixedShape(nn.Module):
    """An encoder as a function of tensors alone, for so many `sequences` of at most `width` items and spare tokens."""

    def __init__(self, model: Encoder, sequences: int, width: int) -> None:
        super().__init__()
        self.model = model
        self.groups = ((sequences + 1, width),)

    def forward(self, items: Tensor, recency: Tensor, slots: Tensor) -> Tensor:
        """States (M, D); what it gives for spare tokens means nothing."""
        no_offsets = torch.empty(0, dtype=torch.int64)  # known by compiled kernels only, which no GPU has
        return self.model(items, Layout(no_offsets, recency, Padding(slots, self.groups)))


class GraphEncoder:
    """Encodes like `model`, by graphs where that is possible: on a GPU, for batches of exactly `sequences`.

    A graph is used only after it gave the states and gradients of the kernels that it recorded. What cannot be
    recorded is logged once, and from then on encoded by the model itself. A result must be used before the next.
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
        given = fixed_shape(items, offsets, self.longest)
        size = len(given[0])
        if size not in self.graphs:
            try:
                self.graphs[size] = self._record(given, len(items))
            except RuntimeError as error:  # out of memory too: the model itself needs less
                log.warning("no CUDA graphs in this training: %s", error)
                self.usable = False
                self.graphs.clear()
        if not self.usable:  # outside of the clause above, in which the error still holds what was recorded
            return self.model.encode(items, offsets)
        return self.graphs[size](*given)[: len(items)]

    def _record(self, given: tuple[Tensor, ...], tokens: int) -> Callable[..., Tensor]:
        """The graph for the shapes of `given`, of which so many `tokens` are real.

        Random numbers go on as if nothing had been recorded.
        """
        device = given[0].device
        kernels, graph = (FixedShape(self.model, self.sequences, self.longest) for _ in range(2))
        with torch.random.fork_rng([device]), torch.cuda.stream(torch.cuda.current_stream(device)):
            torch.cuda.make_graphed_callables(graph, given, allow_unused_input=True, pool=self._pool)
            state = torch.cuda.get_rng_state(device)
            wanted = states_and_gradients(kernels, given, tokens)
            torch.cuda.set_rng_state(state, device)
            check_equal(wanted, states_and_gradients(graph, given, tokens))
        return graph


def states_and_gradients(function: nn.Module, given: tuple[Tensor, ...], tokens: int) -> list[Tensor]:
    """The states (N, D) of the real tokens, and the gradient, in some direction, by each parameter that takes part."""
    states = function(*given)[:tokens].float()
    # no direction that a layer norm removes: it differs within a token, and from one to the next
    direction = (torch.arange(states.numel(), device=states.device) % 5 - 2.0).view_as(states)
    gradients = torch.autograd.grad((states * direction).sum(), list(function.parameters()), allow_unused=True)
    return [states.detach().clone(), *(gradient.clone() for gradient in gradients if gradient is not None)]


def check_equal(wanted: Iterable[Tensor], found: Iterable[Tensor]) -> None:
    """Raises RuntimeError where a tensor differs from what is wanted by more than TOLERANCE of its norm."""
    for one, other in zip(wanted, found, strict=True):
        size, error = one.float().norm(), (one.float() - other.float()).norm()
        if not error <= TOLERANCE * size:
            raise RuntimeError(f"what was replayed differs from what was recorded, by {float(error / size):.2g}")
