"""Exports the encoder as an ONNX model over rows padded on the right, for runtimes without torch."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainers.models.backbones import Encoder
from trainers.models.batches import Layout, newest

NEEDED = ("onnx", "onnxscript")
INSTALL = "pip install 'virtualmle[onnx]'"
OPSET = 20
MOST = 1e-3
"""The largest accepted difference between the states from torch and from ONNX, relative to the largest state."""


class NotEqual(RuntimeError):
    """The ONNX model does not compute the states of the encoder."""


class NotChecked(RuntimeError):
    """The ONNX model could not be compared with the encoder."""


def missing() -> list[str]:
    """The packages that must be installed before an encoder can be exported."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


@dataclass(frozen=True)
class PaddedLayout(Layout):
    """Rows of equal width, padded on the right, so that a causal encoder never sees padding from a real token."""

    width: int = 1

    @classmethod
    def rows(cls, lengths: Tensor, width: int) -> PaddedLayout:
        """The layout of sequences of `lengths` (B,), each in a row of `width` tokens; padding has recency 0."""
        recency = (lengths[:, None] - 1 - torch.arange(width)).clamp(min=0)
        return cls(torch.arange(lengths.shape[0] + 1) * width, recency.flatten(), None, width)

    def by_sequence(self, tokens: Tensor, attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Applies `attend` to all rows at once: (B * T, C) -> (B * T, E)."""
        numbers = torch.arange(tokens.shape[0]).unflatten(0, (-1, self.width))
        return attend(tokens.unflatten(0, (-1, self.width)), numbers).flatten(0, 1)


class PaddedEncoder(nn.Module):
    """Encodes each user's state after the newest item: items (B, T) and lengths (B,), both int64 -> (B, D)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        width = items.shape[1]
        states = self.encoder(items.flatten(), PaddedLayout.rows(lengths, width))  # (B * T, D)
        # whole rows by number: the reference implementation of ONNX cannot gather single numbers in rows of 64 and more
        return states.index_select(0, torch.arange(lengths.shape[0]) * width + lengths - 1)


def export(encoder: Encoder, max_length: int, path: Path) -> float:
    """Writes `encoder` to `path`: inputs `items` and `lengths`, output `states`, for any number and width of rows.

    Returns the largest difference between its states, by the reference implementation of ONNX, and those of the
    encoder, relative to the largest state. Raises NotEqual if the difference is more than rounding, NotChecked if it
    cannot be computed. After any error there is no file.
    """
    try:
        _write(encoder.cpu().eval(), max_length, path)
        difference = _checked_difference(encoder, max_length, path)
        if not difference <= MOST:
            raise NotEqual(
                f"it differs from the trained encoder by {difference:.2g}, more than {MOST:g}, and was removed"
            )
    except BaseException:
        for written in (path, path.with_name(f"{path.name}.data")):
            written.unlink(missing_ok=True)
        raise
    return difference


def _write(encoder: Encoder, max_length: int, path: Path) -> None:
    rows = {0: torch.export.Dim("users")}
    example = (torch.zeros(3, max_length, dtype=torch.long), torch.tensor([1, 2, max_length]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the exporter about itself
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


def _checked_difference(encoder: Encoder, max_length: int, path: Path) -> float:
    try:
        return largest_difference(encoder, max_length, path)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise NotChecked(
            f"it could not be compared with the trained encoder ({type(error).__name__}: {reason}), and was removed"
        ) from error


def largest_difference(encoder: Encoder, max_length: int, path: Path) -> float:
    """The largest difference of states by torch and by the ONNX model at `path`, relative to the largest state."""
    from onnx.reference import ReferenceEvaluator

    draw = np.random.default_rng(0)
    sequences = [draw.integers(encoder.num_items, size=length) for length in (1, 2, max_length // 2, max_length)]
    items, lengths = padded(sequences)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    with torch.inference_mode():
        states = newest(encoder.encode(torch.from_numpy(np.concatenate(sequences)), offsets), offsets).numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # its sigmoid computes branches that it does not use
        (onnx_states,) = ReferenceEvaluator(str(path)).run(None, {"items": items, "lengths": lengths})
    return float(np.abs(onnx_states - states).max() / max(float(np.abs(states).max()), 1e-6))


def padded(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Items (B, T) of sequences, padded with 0 on the right, and lengths (B,), as the model takes them."""
    lengths = np.array([len(sequence) for sequence in sequences])
    items = np.zeros((len(sequences), int(lengths.max())), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        items[row, : len(sequence)] = sequence
    return items, lengths
