"""itemKNN: an item is scored by how often its users also had the items of a history (Deshpande & Karypis 2004)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trainers.data.dataset import TrainingData

Ints = npt.NDArray[np.int64]
NEIGHBOURS = 100
"""Most similar items kept for each item."""
NEWEST = (50, 25, 12, 6)
"""Of a longer history only so many items count, the first number that leaves at most MOST_PAIRS pairs, or the last."""
MOST_PAIRS = 10_000_000
"""Their number grows with the square of a history, and this runs beside everything else that the owner does."""
_PAIRS = 5_000_000
"""Pairs held at once."""


def item_knn_ranks(data: TrainingData, targets: Ints, seen: Ints) -> Ints:
    """Rank (users,) of the item in `targets` (users,) for each user: 1 + items scored higher + others scored equal.

    The similarity of two items is the number of users who have both over the root of the product of their users. Items
    in `seen`, sorted numbers user * num_items + item, are not counted.
    """
    V = data.num_items
    history = _newest(data)
    row, other, weight = _similar(history, V)
    first = np.searchsorted(row, np.arange(V + 1))
    ranks = np.zeros_like(targets)
    for start, stop, part in _blocks(history, V, np.diff(first)):
        user, item = np.divmod(part, V)
        count = first[item + 1] - first[item]
        entry = np.repeat(first[item] - np.cumsum(count) + count, count) + np.arange(int(count.sum()))
        codes, place = np.unique(np.repeat(user, count) * V + other[entry], return_inverse=True)
        scores = np.bincount(place, weight[entry], len(codes)).astype(np.float64)
        scores = np.round(scores, 9)  # equal sums may be added in another order
        kept = ~np.isin(codes, seen, assume_unique=True)
        ranks[start:stop] = _ranks(codes, scores, kept, targets[start:stop], start, V, seen)
    return ranks


def _ranks(
    codes: Ints, scores: npt.NDArray[np.float64], kept: npt.NDArray[np.bool_], targets: Ints, start: int, V: int,
    seen: Ints,
) -> Ints:  # fmt: skip
    """Ranks of the targets of users from `start` on by scores (E,) of pairs `codes` (E,); any other scores zero."""
    numbers = start + np.arange(len(targets))
    wanted = numbers * V + targets
    place = np.minimum(np.searchsorted(codes, wanted), max(0, len(codes) - 1))
    found = codes[place] == wanted if len(codes) else np.zeros(len(wanted), dtype=bool)
    goals = np.where(found, scores[place] if len(codes) else 0.0, 0.0)
    user = codes // V - start
    reaching = kept & (scores >= goals[user]) & (codes != wanted[user])
    ahead = np.bincount(user[reaching], minlength=len(numbers))
    hidden = np.searchsorted(seen, (numbers + 1) * V) - np.searchsorted(seen, numbers * V)
    hidden = hidden - np.isin(wanted, seen)
    return np.where(goals > 0, 1 + ahead, V - hidden)


def _newest(data: TrainingData) -> Ints:
    """Sorted numbers user * num_items + item of the newest training items of each user, each once."""
    lengths = np.diff(data.offsets)
    users = np.repeat(np.arange(len(lengths)), lengths)
    most = next((n for n in NEWEST if (np.minimum(lengths, n) ** 2).sum() <= MOST_PAIRS), NEWEST[-1])
    recent = np.repeat(data.offsets[1:], lengths) - np.arange(len(users)) <= most
    return np.unique(users[recent] * data.num_items + data.items[recent])


def _similar(history: Ints, V: int) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """Items, their most similar items and the similarities, ordered by item."""
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
    """Numbers item * num_items + other of every two items of a user, both ways, in blocks of users."""
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
    """Users from start to stop in runs that make at most about _PAIRS pairs, each with its part of `history`.

    An event makes `fan_out` of its item pairs; without that, as many as its user has items.
    """
    user, item = np.divmod(history, V)
    made = np.bincount(user)[user] if fan_out is None else fan_out[item]
    total = np.cumsum(made)
    users = int(user[-1]) + 1
    start = 0
    while start < users:
        first = int(np.searchsorted(user, start))
        before = int(total[first - 1]) if first else 0
        last = int(np.searchsorted(total, before + _PAIRS, side="right"))
        stop = max(start + 1, int(user[last]) if last < len(user) else users)
        yield start, stop, history[first : int(np.searchsorted(user, stop))]
        start = stop
