"""Datasets and studies that nobody has: what benchmarks need around scores that are not trained."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from memory.records import Study
from trainers.space import Space
from trainers.spec import DatasetFacts

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
METRIC = "ndcg@10"


def facts(users: int = 5000, mean_length: float = 8.0) -> DatasetFacts:
    """Meta-features of a small shop."""
    return DatasetFacts(
        users=users, items=500, interactions=int(users * mean_length), mean_length=mean_length, p50_length=7.0,
        p90_length=12.0, p95_length=15.0, density=0.016, item_gini=0.5, repeat_rate=0.0, timestamp_tie_rate=None,
        ascending_id_rate=0.5,
    )  # fmt: skip


def study(space: Space, dataset: str, known: DatasetFacts, **more: Any) -> Study:
    """An open study without limits, with seed 0."""
    given: dict[str, Any] = {
        "study_id": "s-invented", "created_at": BEGAN, "dataset": dataset, "dataset_hash": dataset,
        "split": "leave-one-out", "facts": known, "backbone": space.backbone, "metric": METRIC, "preset": "strong",
        "space": space, "filter_seen": "auto", "max_trials": None, "budget_seconds": None, "trial_seconds": None,
        "policy": "invented", "seed": 0, "brief": '{"baselines": {}, "synthetic": false, "filter": "yes"}',
    }  # fmt: skip
    return Study.model_validate({**given, **more})
