"""Counts of the training split to mix into scores: popularity, direct successors, and items near each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:  # an exported model runs without the code that reads datasets
    from trainers.data import TrainingData


Norm = Literal["sqrt", "count", "none"]
Ints = npt.NDArray[np.int64]
_STEPS = 2**31 - 1
"""Number of steps that weights are rounded to, so that a row and a weight fit in one integer to sort by."""


@dataclass(frozen=True)
class Pairs:
    """Distinct pairs of items: `counts` (P,) says how often `after` (P,) occurred with `before` (P,)."""

    before: Ints
    after: Ints
    counts: Ints

    @classmethod
    def count(cls, before: Ints, after: Ints, num_items: int) -> Pairs:
        """The distinct pairs among (before, after), both (N,), ordered by `before`, then by `after`."""
        codes = torch.from_numpy(before * num_items + after).sort().values  # torch has a radix sort for integers
        distinct, counts = (part.numpy() for part in torch.unique_consecutive(codes, return_counts=True))
        return cls(*np.divmod(distinct, num_items), counts)

    def weights(self, norm: Norm, events: Ints) -> npt.NDArray[np.float64]:
        """Counts (P,) as they are, over the total of their row, or over the root of both items' `events` (V,)."""
        if norm == "none":
            return self.counts.astype(np.float64)
        if norm == "count":
            return self.counts / np.bincount(self.before, self.counts, len(events))[self.before]
        return self.counts / np.sqrt(events[self.before] * events[self.after])


def popularity(data: TrainingData) -> npt.NDArray[np.float32]:
    """log(1 + events) of every item (V,) in the training split, scaled to 1 for the most popular item."""
    logs = np.log1p(np.bincount(data.items, minlength=data.num_items))
    return (logs / logs.max()).astype(np.float32)


def transitions(data: TrainingData) -> Pairs:
    """How often each item came directly after another in the same sequence."""
    return Pairs.count(*_at_distance(data, 1), data.num_items)


def neighbours(data: TrainingData, window: int) -> Pairs:
    """How often two items were at most `window` places apart in the same sequence, whichever came first."""
    longest = int(np.diff(data.offsets).max())
    pairs = [_at_distance(data, distance) for distance in range(1, min(window, longest - 1) + 1)]
    earlier, later = (np.concatenate(part) for part in zip(*pairs, strict=True))
    different = earlier != later
    earlier, later = earlier[different], later[different]
    return Pairs.count(np.concatenate([earlier, later]), np.concatenate([later, earlier]), data.num_items)


def related(pairs: Pairs, norm: Norm, top_k: int, data: TrainingData) -> Tensor:
    """A sparse matrix (V, V) whose row for an item holds the weights of the `top_k` items with the largest ones.

    Of equal weights, the lower item number comes first. Weights count as equal if they differ by less than 2**-31 of
    the largest.
    """
    events = np.bincount(data.items, minlength=data.num_items)
    weights = pairs.weights(norm, events)
    lightness = _STEPS - (weights * (_STEPS / max(weights.max(initial=0.0), 1e-300))).astype(np.int64)
    order = torch.from_numpy(pairs.before * (_STEPS + 1) + lightness).sort(stable=True).indices.numpy()
    row_starts = np.searchsorted(pairs.before, np.arange(data.num_items))
    place = np.arange(len(order)) - row_starts[pairs.before]  # position in the row, from the largest weight
    kept = order[place < top_k]
    places = torch.from_numpy(np.stack([pairs.before[kept], pairs.after[kept]]))
    values = torch.from_numpy(weights[kept].astype(np.float32))
    size = (data.num_items, data.num_items)
    return torch.sparse_coo_tensor(places, values, size, check_invariants=False).coalesce()


def _at_distance(data: TrainingData, distance: int) -> tuple[Ints, Ints]:
    """Pairs of items `distance` places apart in a sequence: the earlier items (P,), and the later ones (P,)."""
    users = np.repeat(np.arange(len(data.offsets) - 1), np.diff(data.offsets))
    same = users[:-distance] == users[distance:]
    items = data.items.astype(np.int64)
    return items[:-distance][same], items[distance:][same]
