"""itemKNN: scores an item by how often its users also had the items of a history (Deshpande & Karypis 2004)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trainers.data.dataset import TrainingData
from trainers.data.held_out import HeldOut

Ints = npt.NDArray[np.int64]
NEIGHBOURS = 100
"""Number of most similar items kept for each item."""
NEWEST = (50, 25, 12, 6)
"""Only a history's newest items are used: by the first of these limits with at most MOST_PAIRS pairs, or the last."""
MOST_PAIRS = 10_000_000
"""The most item pairs. They grow with the square of a history, and this runs beside the owner's other work."""
_PAIRS = 5_000_000
"""Number of pairs held in memory at once."""


def item_knn_ranks(data: TrainingData, held_out: HeldOut, seen: Ints) -> Ints:
    """Rank (U,) of each user's target in `held_out`: 1 + items scored higher + others scored equal.

    Similarities come from the training events of `data`, scores from the histories of `held_out`.

    The similarity of two items is the number of users who have both, divided by the square root of the product of
    their numbers of users. Items in `seen`, sorted codes user * num_items + item, are not counted.
    """
    V, targets = data.num_items, held_out.targets.astype(np.int64)
    lengths = np.diff(data.offsets)
    most = next((n for n in NEWEST if (np.minimum(lengths, n) ** 2).sum() <= MOST_PAIRS), NEWEST[-1])
    row, other, weight = _similar(_newest(data.items, data.offsets, V, most), V)
    history = _newest(held_out.items, held_out.offsets, V, most)
    first = np.searchsorted(row, np.arange(V + 1))
    ranks = np.zeros_like(targets)
    for start, stop, part in _blocks(history, V, np.diff(first)):
        user, item = np.divmod(part, V)
        count = first[item + 1] - first[item]
        entry = np.repeat(first[item] - np.cumsum(count) + count, count) + np.arange(int(count.sum()))
        codes, place = np.unique(np.repeat(user, count) * V + other[entry], return_inverse=True)
        scores = np.bincount(place, weight[entry], len(codes)).astype(np.float64)
        scores = np.round(scores, 9)  # sums that are equal may have been added in different orders
        kept = ~np.isin(codes, seen, assume_unique=True)
        ranks[start:stop] = _ranks(codes, scores, kept, targets[start:stop], start, V, seen)
    return ranks


def _ranks(
    codes: Ints, scores: npt.NDArray[np.float64], kept: npt.NDArray[np.bool_], targets: Ints, start: int, V: int,
    seen: Ints,
) -> Ints:  # fmt: skip
    """Ranks of the targets of users from `start` on, by scores (E,) of pairs `codes` (E,); other pairs score zero."""
    users = start + np.arange(len(targets))
    target_codes = users * V + targets
    place = np.minimum(np.searchsorted(codes, target_codes), max(0, len(codes) - 1))
    has_score = codes[place] == target_codes if len(codes) else np.zeros(len(target_codes), dtype=bool)
    goals = np.where(has_score, scores[place] if len(codes) else 0.0, 0.0)
    user = codes // V - start
    reaching = kept & (scores >= goals[user]) & (codes != target_codes[user])
    ahead = np.bincount(user[reaching], minlength=len(users))
    hidden = np.searchsorted(seen, (users + 1) * V) - np.searchsorted(seen, users * V)
    hidden = hidden - np.isin(target_codes, seen)
    return np.where(goals > 0, 1 + ahead, V - hidden)


def _newest(items: npt.NDArray[np.int32], offsets: Ints, V: int, most: int) -> Ints:
    """Sorted codes user * V + item of the `most` newest items of each user, each once."""
    lengths = np.diff(offsets)
    users = np.repeat(np.arange(len(lengths)), lengths)
    recent = np.repeat(offsets[1:], lengths) - np.arange(len(users)) <= most
    return np.unique(users[recent] * V + items[recent])


def _similar(history: Ints, V: int) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """Items (E,), their most similar items (E,) and the similarities (E,), ordered by item."""
    events = np.bincount(history % V, minlength=V)
    codes, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for pairs in _pairs(history, V):
        both = np.concatenate([codes, pairs])
        weights = np.concatenate([counts, np.ones(len(pairs), dtype=np.int64)])
        codes, place = np.unique(both, return_inverse=True)
        counts = np.bincount(place, weights, len(codes)).astype(np.int64)
    row, other = np.divmod(codes, V)
    weight = counts / np.sqrt(events[row] * events[other])
    order = np.lexsort((other, -weight, row))
    row = row[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < NEIGHBOURS
    return row[kept], other[order][kept], weight[order][kept]


def _pairs(history: Ints, V: int) -> Iterator[Ints]:
    """Codes item * num_items + other of every two items of a user, in both orders, in blocks of users."""
    users = history // V
    lengths = np.bincount(users)
    for *_, part in _blocks(history, V, None):
        user, item = np.divmod(part, V)
        length = lengths[user]
        ends = np.searchsorted(part, (user + 1) * V)
        item_again = np.repeat(item, length)
        start = np.repeat(ends - length, length)
        step = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
        other = item[start + step]
        different = item_again != other
        yield item_again[different] * V + other[different]


def _blocks(history: Ints, V: int, fan_out: Ints | None) -> Iterator[tuple[int, int, Ints]]:
    """Ranges of users, start to stop, that make at most about _PAIRS pairs each, with their part of `history`.

    An event makes as many pairs as `fan_out` (V,) says for its item; without it, as many as its user has items.
    """
    user, item = np.divmod(history, V)
    pairs = np.bincount(user)[user] if fan_out is None else fan_out[item]
    total = np.cumsum(pairs)
    users = int(user[-1]) + 1
    start = 0
    while start < users:
        first = int(np.searchsorted(user, start))
        before = int(total[first - 1]) if first else 0
        last = int(np.searchsorted(total, before + _PAIRS, side="right"))
        stop = max(start + 1, int(user[last]) if last < len(user) else users)
        yield start, stop, history[first : int(np.searchsorted(user, stop))]
        start = stop
