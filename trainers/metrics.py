"""Ranking metrics from ranks alone (one target a user), and the rule for filtering seen items. No torch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from trainers.spec import DatasetFacts, FilterSeen

Filter = Literal["yes", "no", "reference"]
REPEATS_ALLOWED = 0.01
"""`auto` filters the history unless a larger share of the training events repeats an item of the same user."""


LIST = 10
"""Items recommended to a user, where lists are measured."""


def filter_rule(filter_seen: FilterSeen, facts: DatasetFacts) -> Filter:
    """What `filter_seen` means for a dataset: `auto` is decided by its repeat rate, never by a target."""
    if filter_seen == "auto":
        return "no" if facts.repeat_rate > REPEATS_ALLOWED else "yes"
    return filter_seen


def metrics_of(ranks: npt.NDArray[np.integer]) -> dict[str, float]:
    """Means over users of recall, ndcg and mrr at their cut-offs; `ranks` (users,) count from 1, the best.

    With one target, recall@k is the share ranked within k, the ideal DCG is 1, and ndcg@k is mean 1/log2(1 + rank).
    """
    ranks = np.asarray(ranks, dtype=np.int64)
    found: dict[str, float] = {}
    for k in (5, 10, 20):
        found[f"recall@{k}"] = float(np.mean(ranks <= k))
    for k in (5, 10, 20):
        found[f"ndcg@{k}"] = float(np.mean(np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0.0)))
    found["mrr@10"] = float(np.mean(np.where(ranks <= 10, 1.0 / ranks, 0.0)))
    return found


def values_of(ranks: npt.NDArray[np.integer], metric: str) -> npt.NDArray[np.float64]:
    """What each user adds to the mean of a metric, such as ndcg@10; `ranks` (users,) may be clipped beyond 20."""
    ranks = np.asarray(ranks, dtype=np.int64)
    name, _, cut = metric.partition("@")
    worth = {"recall": np.ones(len(ranks)), "ndcg": 1 / np.log2(1.0 + ranks), "mrr": 1.0 / ranks}[name]
    return np.where(ranks <= int(cut), worth, 0.0)


def measures_of(lists: npt.NDArray[np.integer], events: npt.NDArray[np.integer]) -> dict[str, float]:
    """Coverage and popularity of `lists` (users, k) of recommended items, which -1 fills where no item was left.

    `events` (items,): how often each item stands in the training split.
    """
    items = lists[lists >= 0]
    return {
        f"coverage@{LIST}": len(np.unique(items)) / len(events),
        f"popularity@{LIST}": float(np.mean(events[items])) if len(items) else 0.0,
    }
