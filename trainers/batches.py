"""Packed rows: the real tokens of many users in one row, and their slots where attention needs whole sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.fields import Spec

if TYPE_CHECKING:  # a model that was taken home runs without what reads datasets
    from trainers.data import TrainingData

Stream = Literal["weights", "order", "negatives", "dropout"]
STREAMS: tuple[Stream, ...] = ("weights", "order", "negatives", "dropout")


def keyed(seed: int, epoch: int, stream: Stream) -> int:
    """The seed of one stream of random numbers in one epoch, so that an epoch depends on none before it."""
    key = np.random.SeedSequence((seed % 2**64, epoch, STREAMS.index(stream)))
    return int(key.generate_state(1, np.uint64)[0] >> 1)


def rows_of(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Indices start, start + 1, … of every run (start, length), one run after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, which is on the host, on `device`; a GPU is not waited for, since it copies from pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def newest(states: Tensor, offsets: Tensor) -> Tensor:
    """The state at the newest item of every sequence: (N, D) -> (B, D)."""
    return states.index_select(0, moved(offsets[1:] - 1, states.device))


def recency_of(offsets: Tensor) -> Tensor:
    """How far each token (N,) is from the newest of its sequence, which is 0; they start at `offsets` (B+1,)."""
    return torch.repeat_interleave(offsets[1:] - 1, offsets.diff()) - torch.arange(int(offsets[-1]))


@dataclass(frozen=True)
class Layout:
    """Where packed sequences begin, how far their tokens are from the newest, and how to pad them where needed."""

    offsets: Tensor  # (B+1,) on the host
    recency: Tensor  # (N,) distance from the newest item of the sequence, which is 0; on the device
    given_padding: Padding | None = None  # instead of groups by length

    @classmethod
    def of(cls, offsets: Tensor, device: torch.device) -> Layout:
        """The layout of sequences that start at `offsets` (B+1,), a tensor on the host; none is empty."""
        return cls(offsets, moved(recency_of(offsets), device))

    @cached_property
    def padding(self) -> Padding:
        """The groups of padded sequences, computed when first asked for."""
        return self.given_padding or Padding.of(self.offsets.numpy(), self.recency.device)

    def by_sequence(self, tokens: Tensor, attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Applies `attend` to every group of padded sequences: (N, C) -> (N, E).

        `attend` gets tokens (B, T, C) and their row numbers (B, T) among the packed, and gives (B, T, E).
        """
        slots, sizes = self.padding.slots, [count * width for count, width in self.padding.groups]
        padded = tokens.new_zeros(sum(sizes), tokens.shape[1]).index_copy(0, slots, tokens)
        numbers = slots.new_zeros(sum(sizes)).index_copy_(0, slots, torch.arange(len(slots), device=slots.device))
        groups = [
            attend(group.view(count, width, -1), rows.view(count, width)).reshape(count * width, -1)
            for group, rows, (count, width) in zip(
                padded.split(sizes), numbers.split(sizes), self.padding.groups, strict=True
            )
        ]
        return torch.cat(groups).index_select(0, slots)


@dataclass(frozen=True)
class Padding:
    """Where the tokens of packed sequences go when an operation needs them sequence by sequence.

    Sequences of like length form a group, padded on the right to its longest, so that little is wasted and a causal
    operation never sees padding from a real token. Computed on the host: no device has to be asked for a shape.
    """

    slots: Tensor  # (N,) row of each token among the padded rows
    groups: tuple[tuple[int, int], ...]  # (sequences, width) of each group, in the order of the padded rows

    @classmethod
    def of(cls, bounds: npt.NDArray[np.int64], device: torch.device) -> Padding:
        """The groups of sequences that start at `bounds` (B+1,)."""
        lengths = np.diff(bounds)
        doublings = np.ceil(np.log2(lengths))
        first = np.empty_like(lengths)
        groups: list[tuple[int, int]] = []
        padded = 0
        for doubling in np.unique(doublings):
            members = np.flatnonzero(doublings == doubling)
            width = int(lengths[members].max())
            first[members] = padded + width * np.arange(len(members))
            groups.append((len(members), width))
            padded += width * len(members)
        return cls(moved(torch.from_numpy(rows_of(first, lengths)), device), tuple(groups))


@dataclass(frozen=True)
class Batch:
    """Users of one step: what the encoder reads, and what its states must predict."""

    items: Tensor  # (N,) on the device
    offsets: Tensor  # (B+1,) on the host
    targets: Tensor  # (N,), or (B,) where only the newest position predicts; on the device


class TrainingRows:
    """The training split as next-item prediction: users in a new order every epoch, cut to their newest items."""

    def __init__(self, data: TrainingData, spec: Spec, device: torch.device) -> None:
        lengths = np.diff(data.offsets)
        if spec.train_window:
            lengths = np.minimum(lengths, spec.train_window)
        inputs = np.minimum(lengths - 1, spec.max_length)
        users = np.flatnonzero(inputs > 0)
        if not len(users):
            raise ValueError("no user has two training items, so there is nothing to learn the next item from")
        self.items = data.items
        self.lengths = inputs[users].astype(np.int64)
        self.ends = data.offsets[1:][users] - 1  # index of the newest training item: the last target, never an input
        self.batch_size = spec.batch_size
        self.newest_only = spec.train_targets == "last_position"
        self.device = device

    @property
    def batches(self) -> int:
        """The steps of an epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; the whole epoch moves to the device at once."""
        order = np.random.default_rng(keyed(seed, epoch, "order")).permutation(len(self.lengths))
        lengths, ends = self.lengths[order], self.ends[order]
        rows = rows_of(ends - lengths, lengths)
        offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
        items = self._on_device(rows)
        targets = self._on_device(ends if self.newest_only else rows + 1)
        for start in range(0, len(order), self.batch_size):
            bounds = offsets[start : start + self.batch_size + 1]
            tokens = slice(int(bounds[0]), int(bounds[-1]))
            predicted = slice(start, start + self.batch_size) if self.newest_only else tokens
            yield Batch(items[tokens], bounds - bounds[0], targets[predicted])

    def _on_device(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.items[rows].astype(np.int64)).to(self.device)
