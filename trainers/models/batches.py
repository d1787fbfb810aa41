"""Packed batches: the real tokens of many users in one row, padded only where attention needs whole sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.contract.fields import Spec

if TYPE_CHECKING:  # an exported model runs without the code that reads datasets
    from trainers.data import TrainingData

Stream = Literal["weights", "order", "negatives", "dropout"]
STREAMS: tuple[Stream, ...] = ("weights", "order", "negatives", "dropout")


def keyed(seed: int, epoch: int, stream: Stream) -> int:
    """The seed of one random stream in one epoch; no epoch depends on the ones before it."""
    key = np.random.SeedSequence((seed % 2**64, epoch, STREAMS.index(stream)))
    return int(key.generate_state(1, np.uint64)[0] >> 1)


def rows_of(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Indices (N,) start, start + 1, … of each of R runs, one after another; `starts` and `lengths` are (R,)."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, which is on the host, moved to `device`; copies to a GPU are asynchronous, from pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def newest(states: Tensor, offsets: Tensor) -> Tensor:
    """The state at the newest item of each sequence: states (N, D), offsets (B+1,) -> (B, D)."""
    return states.index_select(0, moved(offsets[1:] - 1, states.device))


def recency_of(offsets: Tensor) -> Tensor:
    """Each token's distance (N,) from the newest of its sequence, which has 0; sequences start at `offsets` (B+1,)."""
    return torch.repeat_interleave(offsets[1:] - 1, offsets.diff()) - torch.arange(int(offsets[-1]))


@dataclass(frozen=True)
class Layout:
    """Where packed sequences start, how far each token is from the newest, and how to pad them if needed."""

    offsets: Tensor  # (B+1,) on the host
    recency: Tensor  # (N,) distance from the newest item of the sequence, which is 0; on the device
    given_padding: Padding | None = None  # used instead of groups by length

    @classmethod
    def of(cls, offsets: Tensor, device: torch.device) -> Layout:
        """The layout of non-empty sequences that start at `offsets` (B+1,), a tensor on the host."""
        return cls(offsets, moved(recency_of(offsets), device))

    @cached_property
    def padding(self) -> Padding:
        """The groups of padded sequences, computed on first use."""
        return self.given_padding or Padding.of(self.offsets.numpy(), self.recency.device)

    def by_sequence(self, tokens: Tensor, attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Applies `attend` to each group of padded sequences: (N, C) -> (N, E).

        `attend` gets tokens (B, T, C) and their numbers (B, T) among the packed tokens, and returns (B, T, E).
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
    """Where the tokens of packed sequences go when an operation needs one row per sequence.

    Sequences of similar length form a group, padded on the right to its longest. This wastes little, and a causal
    operation never sees padding from a real token. Shapes are computed on the host, without waiting for a device.
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
    """The users of one step: the items that the encoder reads, and the targets that its states must predict."""

    items: Tensor  # (N,) on the device
    offsets: Tensor  # (B+1,) on the host
    targets: Tensor  # (N,), or (B,) where only the newest position predicts; on the device


class TrainingRows:
    """The training split as next-item prediction: users in a new order each epoch, cut to their newest items.

    Raises ValueError if no user has two training items.
    """

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
        """The number of steps in an epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, all of which move to the device at once."""
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
