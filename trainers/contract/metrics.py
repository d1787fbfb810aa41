"""Ranking metrics computed from ranks (one target per user), and the rule for filtering seen items. No torch."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from trainers.contract.facts import DatasetFacts
from trainers.contract.wire import FilterSeen

Metric = Literal["recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Filter = Literal["yes", "no", "reference"]
REPEATING_USERS = 0.05
"""`auto` leaves histories in where at least this share of users repeat an item; one bot decides nothing."""
_REPEATS_ALLOWED = 0.01
"""What decided before the users were counted: the share of training events that repeat an item of the same user."""


LIST_LENGTH = 10
"""Length of the recommendation lists whose coverage and popularity are measured."""


def filter_rule(filter_seen: FilterSeen, facts: DatasetFacts) -> Filter:
    """The filter that `filter_seen` means for a dataset; `auto` depends on its training events, never on a target."""
    if filter_seen != "auto":
        return filter_seen
    if facts.repeating_users is None:
        return "no" if facts.repeat_rate > _REPEATS_ALLOWED else "yes"
    return "no" if facts.repeating_users >= REPEATING_USERS else "yes"


def filter_words(filter_seen: FilterSeen, facts: DatasetFacts) -> str:
    """The filter as every place shows it; for `auto` with what it decided, and why."""
    if filter_seen != "auto":
        return filter_seen
    rule = filter_rule(filter_seen, facts)
    if facts.repeating_users is None:
        return f"auto ({rule})"
    return f"auto ({rule}: {facts.repeating_users:.1%} of users repeat an item)"


def metrics_of(ranks: npt.NDArray[np.integer]) -> dict[str, float]:
    """Mean recall, ndcg and mrr over users at each cut-off; `ranks` (users,) start at 1, the best.

    With one target, recall@k is the share of users with rank <= k. The ideal DCG is 1, so ndcg@k is the mean of
    1/log2(1 + rank), where ranks above k count as 0.
    """
    ranks = np.asarray(ranks, dtype=np.int64)
    metrics: dict[str, float] = {}
    for k in (5, 10, 20):
        metrics[f"recall@{k}"] = float(np.mean(ranks <= k))
    for k in (5, 10, 20):
        metrics[f"ndcg@{k}"] = float(np.mean(np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0.0)))
    metrics["mrr@10"] = float(np.mean(np.where(ranks <= 10, 1.0 / ranks, 0.0)))
    return metrics


def values_of(ranks: npt.NDArray[np.integer], metric: str) -> npt.NDArray[np.float64]:
    """Each user's value (users,) of a metric such as ndcg@10; `ranks` (users,) may be clipped above 20."""
    ranks = np.asarray(ranks, dtype=np.int64)
    name, _, cut = metric.partition("@")
    worth = {"recall": np.ones(len(ranks)), "ndcg": 1 / np.log2(1.0 + ranks), "mrr": 1.0 / ranks}[name]
    return np.where(ranks <= int(cut), worth, 0.0)


def measures_of(lists: npt.NDArray[np.integer], events: npt.NDArray[np.integer]) -> dict[str, float]:
    """Coverage and popularity of the recommended items in `lists` (users, k), where -1 means that no item was left.

    `events` (items,) counts how often each item occurs in the training split.
    """
    items = lists[lists >= 0]
    return {
        f"coverage@{LIST_LENGTH}": len(np.unique(items)) / len(events),
        f"popularity@{LIST_LENGTH}": float(np.mean(events[items])) if len(items) else 0.0,
    }
