"""Counts of the training split that scores are mixed with: popularity, what follows what, and what stands near what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:  # a model that was taken home runs without what reads datasets
    from trainers.data import TrainingData


Norm = Literal["sqrt", "count", "none"]
Ints = npt.NDArray[np.int64]
_STEPS = 2**31 - 1
"""In so many steps weights are told apart, so that a row and a weight are one whole number to sort by."""


@dataclass(frozen=True)
class Pairs:
    """Counted pairs of items, each once: `counts` (P,) says how often `after` (P,) was met by `before` (P,)."""

    before: Ints
    after: Ints
    counts: Ints

    @classmethod
    def count(cls, before: Ints, after: Ints, num_items: int) -> Pairs:
        """Ordered by `before`, then by `after`."""
        codes = torch.from_numpy(before * num_items + after).sort().values  # torch sorts whole numbers by their digits
        found, counts = (part.numpy() for part in torch.unique_consecutive(codes, return_counts=True))
        return cls(*np.divmod(found, num_items), counts)

    def weights(self, norm: Norm, events: Ints) -> npt.NDArray[np.float64]:
        """Counts (P,) as they are, by the total of their row, or by the root of both items' `events` (V,)."""
        if norm == "none":
            return self.counts.astype(np.float64)
        if norm == "count":
            return self.counts / np.bincount(self.before, self.counts, len(events))[self.before]
        return self.counts / np.sqrt(events[self.before] * events[self.after])


def popularity(data: TrainingData) -> npt.NDArray[np.float32]:
    """log(1 + events) of every item (V,) in the training split, the most popular item's being 1."""
    logs = np.log1p(np.bincount(data.items, minlength=data.num_items))
    return (logs / logs.max()).astype(np.float32)


def transitions(data: TrainingData) -> Pairs:
    """How often an item came directly after another in the same sequence."""
    return Pairs.count(*_at_distance(data, 1), data.num_items)


def neighbours(data: TrainingData, window: int) -> Pairs:
    """How often two items stood at most `window` places apart in the same sequence, whichever came first."""
    longest = int(np.diff(data.offsets).max())
    found = [_at_distance(data, distance) for distance in range(1, min(window, longest - 1) + 1)]
    earlier, later = (np.concatenate(part) for part in zip(*found, strict=True))
    different = earlier != later
    earlier, later = earlier[different], later[different]
    return Pairs.count(np.concatenate([earlier, later]), np.concatenate([later, earlier]), data.num_items)


def related(pairs: Pairs, norm: Norm, top_k: int, data: TrainingData) -> Tensor:
    """A sparse matrix (V, V): in the row of an item, the weights of the `top_k` items that go with it most.

    Of equal weights the lower item number comes first; they are equal where they differ by less than 2**-31 of the
    largest.
    """
    events = np.bincount(data.items, minlength=data.num_items)
    weights = pairs.weights(norm, events)
    lightness = _STEPS - (weights * (_STEPS / max(weights.max(initial=0.0), 1e-300))).astype(np.int64)
    order = torch.from_numpy(pairs.before * (_STEPS + 1) + lightness).sort(stable=True).indices.numpy()
    row_starts = np.searchsorted(pairs.before, np.arange(data.num_items))
    place = np.arange(len(order)) - row_starts[pairs.before]  # in the row, from the largest weight
    kept = order[place < top_k]
    places = torch.from_numpy(np.stack([pairs.before[kept], pairs.after[kept]]))
    values = torch.from_numpy(weights[kept].astype(np.float32))
    size = (data.num_items, data.num_items)
    return torch.sparse_coo_tensor(places, values, size, check_invariants=False).coalesce()


def _at_distance(data: TrainingData, distance: int) -> tuple[Ints, Ints]:
    """Items of which one stands `distance` places after the other: the earlier ones, and the later ones."""
    users = np.repeat(np.arange(len(data.offsets) - 1), np.diff(data.offsets))
    same = users[:-distance] == users[distance:]
    items = data.items.astype(np.int64)
    return items[:-distance][same], items[distance:][same]
