"""Metrics of baselines, which need no training: popularity, last-item transition and itemKNN."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from trainers.contract.metrics import Filter, metrics_of
from trainers.contract.regular_files import read_regular
from trainers.data.dataset import TrainingData
from trainers.data.held_out import HeldOut
from trainers.data.item_knn import item_knn_ranks
from trainers.data.store import load_training

Ints = npt.NDArray[np.int64]
NAMES = ("popularity", "last_item_transition", "item_knn")
NOT_FOUND = 2**31 - 1
"""The rank of a target that the filter removed because it is in the history."""


def baselines(dataset_folder: Path, rule: Filter) -> dict[str, dict[str, float]]:
    """Validation metrics of every baseline in NAMES under a filter rule, cached in the folder of the dataset.

    Popularity scores an item by its training events. The transition model scores it by how often it came directly after
    the user's last training item; popularity breaks ties. itemKNN scores it by its similarity to the items of the
    history. Items are ranked among the whole catalogue: 1 + the items scored higher + the others scored equal.
    """
    cache = dataset_folder / f"baselines-{rule}.json"
    try:
        cached = cast(dict[str, dict[str, float]], json.loads(read_regular(cache)))
        if set(cached) == set(NAMES):
            return cached
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    data = load_training(dataset_folder)
    metrics = {name: metrics_of(ranks) for name, ranks in baseline_ranks(data, rule).items()}
    try:
        part = cache.with_name(f".{cache.name}-{os.getpid()}")
        part.write_text(json.dumps(metrics), encoding="utf-8")
        part.replace(cache)
    except OSError:
        pass  # in a read-only home, the baselines are computed every time
    return metrics


def baseline_ranks(data: TrainingData, rule: Filter, held_out: HeldOut | None = None) -> dict[str, Ints]:
    """Ranks (F,) of the items to find by baseline; memory grows with the events, never with users x items.

    `held_out`: None for the validation items. The counts come from the training events of `data` in either case.
    """
    held_out = data.held_out() if held_out is None else held_out
    offsets, target = held_out.offsets, held_out.targets.astype(np.int64)
    users = len(target)
    owner = np.repeat(np.arange(users), np.diff(offsets))
    items = held_out.items.astype(np.int64)
    last = items[offsets[1:] - 1]
    events = data.items.astype(np.int64)
    popularity = np.bincount(events, minlength=data.num_items)
    of_user = np.repeat(np.arange(len(data.offsets) - 1), np.diff(data.offsets))
    pair = of_user[1:] == of_user[:-1]
    transitions = _Transitions.count(events[:-1][pair], events[1:][pair], popularity)

    at_least = np.cumsum(np.bincount(popularity)[::-1])[::-1]  # items with a popularity of at least the index
    ranks = {"popularity": at_least[popularity[target]], "last_item_transition": transitions.ranks(last, target)}
    histories = np.unique(owner * data.num_items + items)
    if rule == "no":
        return {**ranks, "item_knn": item_knn_ranks(data, held_out, histories[:0])}
    seen_by, seen = np.divmod(histories, data.num_items)
    is_target = seen == target[seen_by]
    higher = {
        "popularity": popularity[seen] >= popularity[target[seen_by]],
        "last_item_transition": transitions.at_least(last[seen_by], seen, target[seen_by]),
    }
    for name, masked in higher.items():
        ranks[name] = ranks[name] - np.bincount(seen_by[masked & ~is_target], minlength=users)
    ranks["item_knn"] = item_knn_ranks(data, held_out, histories)
    if rule == "yes":
        for model_ranks in ranks.values():
            model_ranks[seen_by[is_target]] = NOT_FOUND
    return ranks


class _Transitions:
    """Counts of item pairs (before, after) as sorted sparse rows; pairs compare by (count, popularity of after)."""

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
        """How often each `after` (N,) directly followed its `before` (N,)."""
        pairs = before * len(self.popularity) + after
        place = np.searchsorted(self.codes, pairs)
        inside = np.minimum(place, max(len(self.codes) - 1, 0))
        if not len(self.codes):
            return np.zeros_like(pairs)
        return np.where(self.codes[inside] == pairs, self.counts[inside], 0)

    def at_least(self, before: Ints, item: Ints, other: Ints) -> npt.NDArray[np.bool_]:
        """Whether each `item` (N,) scores at least as high as its `other` (N,) after `before` (N,)."""
        score = self.counted(before, item) * self.base + self.popularity[item]
        return score >= self.counted(before, other) * self.base + self.popularity[other]

    def ranks(self, before: Ints, target: Ints) -> Ints:
        """The unfiltered rank (N,) of each `target` after its `before`: the items that score at least as high."""
        counted, popular = self.counted(before, target), self.popularity[target]
        row_end = np.searchsorted(self.before, before, side="right")
        level = np.searchsorted(self.levels, counted * self.base + popular)
        among_seen = row_end - np.searchsorted(self.by_level, before * len(self.levels) + level)
        row_start = np.searchsorted(self.before, before)
        below = np.searchsorted(self.by_popularity, before * self.base + popular) - row_start
        return np.where(counted > 0, among_seen, self.at_popularity[popular] + below)
