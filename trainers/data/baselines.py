"""Validation metrics of models that need no training, for scale: popularity, last-item transition and itemKNN."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from trainers.data.dataset import TrainingData
from trainers.data.item_knn import item_knn_ranks
from trainers.data.store import load_training
from trainers.metrics import Filter, metrics_of

Ints = npt.NDArray[np.int64]
NAMES = ("popularity", "last_item_transition", "item_knn")
NOT_FOUND = 2**31 - 1
"""The rank of a target that the filter removed with the history."""


def baselines(dataset_folder: Path, rule: Filter) -> dict[str, dict[str, float]]:
    """Validation metrics of every baseline in NAMES under a filter rule, cached beside the dataset.

    Popularity scores an item by its training events. The transition model scores it by how often it came directly after
    the user's last training item, ties broken by popularity. itemKNN scores it by its similarity to the items of the
    history. Ranks are those of a full ranking: 1 + the items scored higher + the others scored equal.
    """
    cache = dataset_folder / f"baselines-{rule}.json"
    try:
        kept = cast(dict[str, dict[str, float]], json.loads(cache.read_text(encoding="utf-8")))
        if set(kept) == set(NAMES):
            return kept
    except (OSError, ValueError):
        pass
    data = load_training(dataset_folder)
    found = {name: metrics_of(ranks) for name, ranks in baseline_ranks(data, rule).items()}
    try:
        part = cache.with_name(f".{cache.name}-{os.getpid()}")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(cache)
    except OSError:
        pass  # a read-only home only means that they are computed again
    return found


def baseline_ranks(data: TrainingData, rule: Filter) -> dict[str, Ints]:
    """Ranks (F,) of the validation items by every model; memory grows with the events, never users x items."""
    users = len(data.offsets) - 1
    owner = np.repeat(np.arange(users), np.diff(data.offsets))
    items, target = data.items.astype(np.int64), np.zeros(users, dtype=np.int64)
    target[data.validated if data.validated is not None else slice(None)] = data.validation
    last = items[data.offsets[1:] - 1]
    popularity = np.bincount(items, minlength=data.num_items)
    pair = owner[1:] == owner[:-1]
    transitions = _Transitions.count(items[:-1][pair], items[1:][pair], popularity)

    at_least = np.cumsum(np.bincount(popularity)[::-1])[::-1]  # items with a popularity of at least the index
    ranks = {"popularity": at_least[popularity[target]], "last_item_transition": transitions.ranks(last, target)}
    histories = np.unique(owner * data.num_items + items)
    if rule == "no":
        return _asked(data, {**ranks, "item_knn": item_knn_ranks(data, target, histories[:0])})
    seen_by, seen = np.divmod(histories, data.num_items)
    is_target = seen == target[seen_by]
    higher = {
        "popularity": popularity[seen] >= popularity[target[seen_by]],
        "last_item_transition": transitions.at_least(last[seen_by], seen, target[seen_by]),
    }
    for name, masked in higher.items():
        ranks[name] = ranks[name] - np.bincount(seen_by[masked & ~is_target], minlength=users)
    ranks["item_knn"] = item_knn_ranks(data, target, histories)
    if rule == "yes":
        for found in ranks.values():
            found[seen_by[is_target]] = NOT_FOUND
    return _asked(data, ranks)


def _asked(data: TrainingData, ranks: dict[str, Ints]) -> dict[str, Ints]:
    """The ranks (F,) of the users who have a validation item."""
    return ranks if data.validated is None else {name: found[data.validated] for name, found in ranks.items()}


class _Transitions:
    """Counts of item pairs (before, after) as sorted sparse rows, compared by (count, popularity of after)."""

    def __init__(self, codes: Ints, counts: Ints, popularity: Ints) -> None:
        self.codes, self.counts, self.popularity = codes, counts, popularity
        self.at_popularity = np.cumsum(np.bincount(popularity)[::-1])[::-1]
        self.before, self.after = np.divmod(codes, len(popularity))
        self.base = int(popularity.max()) + 1
        self.levels, self.level = np.unique(counts * self.base + popularity[self.after], return_inverse=True)
        self.by_level = np.sort(self.before * len(self.levels) + self.level)
        self.by_popularity = np.sort(self.before * self.base + popularity[self.after])

    @classmethod
    def count(cls, before: Ints, after: Ints, popularity: Ints) -> _Transitions:
        codes, counts = np.unique(before * len(popularity) + after, return_counts=True)
        return cls(codes, counts.astype(np.int64), popularity)

    def counted(self, before: Ints, after: Ints) -> Ints:
        """How often each `after` directly followed each `before`."""
        wanted = before * len(self.popularity) + after
        place = np.searchsorted(self.codes, wanted)
        inside = np.minimum(place, max(len(self.codes) - 1, 0))
        if not len(self.codes):
            return np.zeros_like(wanted)
        return np.where(self.codes[inside] == wanted, self.counts[inside], 0)

    def at_least(self, before: Ints, item: Ints, other: Ints) -> npt.NDArray[np.bool_]:
        """Whether `item` scores as high as `other` after `before`."""
        one = self.counted(before, item) * self.base + self.popularity[item]
        return one >= self.counted(before, other) * self.base + self.popularity[other]

    def ranks(self, before: Ints, target: Ints) -> Ints:
        """The unfiltered rank of each `target` after each `before`: all items that score as high as it."""
        counted, popular = self.counted(before, target), self.popularity[target]
        row_end = np.searchsorted(self.before, before, side="right")
        level = np.searchsorted(self.levels, counted * self.base + popular)
        among_seen = row_end - np.searchsorted(self.by_level, before * len(self.levels) + level)
        row_start = np.searchsorted(self.before, before)
        below = np.searchsorted(self.by_popularity, before * self.base + popular) - row_start
        return np.where(counted > 0, among_seen, self.at_popularity[popular] + below)
