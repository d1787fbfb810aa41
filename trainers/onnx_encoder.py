"""The encoder as an ONNX model: sequences in rows, padded on the right, as runtimes without torch want them."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainers.backbones import Encoder
from trainers.batches import Layout, newest

NEEDED = ("onnx", "onnxscript")
INSTALL = "pip install 'virtualmle[onnx]'"
OPSET = 20
MOST = 1e-3
"""The largest difference between a state by torch and by ONNX, relative to the largest state, that is let out."""


class NotEqual(RuntimeError):
    """The ONNX model does not compute what the encoder does."""


def missing() -> list[str]:
    """The packages that have to be installed before an encoder can be exported."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


@dataclass(frozen=True)
class PaddedLayout(Layout):
    """Rows of equal width, padded on the right: a causal encoder never sees padding from a real token."""

    width: int = 1

    @classmethod
    def rows(cls, lengths: Tensor, width: int) -> PaddedLayout:
        """The layout of sequences of `lengths` (B,), each in a row of `width` tokens; padding counts as newest."""
        recency = (lengths[:, None] - 1 - torch.arange(width)).clamp(min=0)
        return cls(torch.arange(len(lengths) + 1) * width, recency.flatten(), None, width)

    def by_sequence(self, tokens: Tensor, attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Applies `attend` to all rows at once: (B * T, C) -> (B * T, E)."""
        numbers = torch.arange(len(tokens)).unflatten(0, (-1, self.width))
        return attend(tokens.unflatten(0, (-1, self.width)), numbers).flatten(0, 1)


class PaddedEncoder(nn.Module):
    """The state of each user after the newest item: items (B, T) and lengths (B,), both int64 -> (B, D)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        width = items.shape[1]
        states = self.encoder(items.flatten(), PaddedLayout.rows(lengths, width))  # (B * T, D)
        last = (lengths - 1)[:, None, None].expand(-1, 1, states.shape[1])
        return states.unflatten(0, (-1, width)).gather(1, last).squeeze(1)


def export(encoder: Encoder, max_length: int, path: Path) -> float:
    """Writes `encoder` to `path`; inputs `items` and `lengths`, output `states`, for any number and width of rows.

    Returns the largest difference between its states and the encoder's, relative to the largest one, as the reference
    implementation of ONNX computes them. Raises NotEqual where that is no rounding.
    """
    encoder = encoder.cpu().eval()
    rows = {0: torch.export.Dim("users")}
    example = (torch.zeros(3, max_length, dtype=torch.long), torch.tensor([1, 2, max_length]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about itself
        program = torch.onnx.export(
            PaddedEncoder(encoder),
            example,
            input_names=["items", "lengths"],
            output_names=["states"],
            dynamic_shapes={"items": {**rows, 1: torch.export.Dim("width", max=max_length)}, "lengths": rows},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))
    difference = largest_difference(encoder, max_length, path)
    if not difference <= MOST:
        path.unlink()
        raise NotEqual(f"the ONNX encoder differs from the trained one by {difference:.2g}, and was thrown away")
    return difference


def largest_difference(encoder: Encoder, max_length: int, path: Path) -> float:
    """Between the states of drawn sequences by torch and by the ONNX model at `path`, relative to the largest one."""
    from onnx.reference import ReferenceEvaluator

    draw = np.random.default_rng(0)
    sequences = [draw.integers(encoder.num_items, size=length) for length in (1, 2, max_length // 2, max_length)]
    items, lengths = padded(sequences)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    with torch.inference_mode():
        states = newest(encoder.encode(torch.from_numpy(np.concatenate(sequences)), offsets), offsets).numpy()
    (found,) = ReferenceEvaluator(str(path)).run(None, {"items": items, "lengths": lengths})
    return float(np.abs(found - states).max() / max(float(np.abs(states).max()), 1e-6))


def padded(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Items (B, T) of sequences, filled up with 0 on the right, and lengths (B,), as the model takes them."""
    lengths = np.array([len(sequence) for sequence in sequences])
    items = np.zeros((len(sequences), int(lengths.max())), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        items[row, : len(sequence)] = sequence
    return items, lengths
