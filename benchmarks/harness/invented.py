"""Invented datasets and studies, for benchmarks whose scores are simulated."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from memory.records import Study
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Space

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
METRIC = "ndcg@10"


def facts(users: int = 5000, mean_length: float = 8.0) -> DatasetFacts:
    """The meta-features of a small shop."""
    return DatasetFacts(
        users=users, items=500, interactions=int(users * mean_length), mean_length=mean_length, p50_length=7.0,
        p90_length=12.0, p95_length=15.0, density=0.016, item_gini=0.5, repeat_rate=0.0, timestamp_tie_rate=None,
        ascending_id_rate=0.5,
    )  # fmt: skip


def study(space: Space, dataset: str, dataset_facts: DatasetFacts, **more: Any) -> Study:
    """An open study without limits and with seed 0. `more` replaces any of its fields."""
    values: dict[str, Any] = {
        "study_id": "s-invented", "created_at": BEGAN, "dataset": dataset, "dataset_hash": dataset,
        "split": "leave-one-out", "facts": dataset_facts, "backbone": space.backbone, "metric": METRIC,
        "preset": "strong",
        "space": space, "filter_seen": "auto", "max_trials": None, "budget_seconds": None, "trial_seconds": None,
        "policy": "invented", "seed": 0, "brief": '{"baselines": {}, "synthetic": false, "filter": "yes"}',
    }  # fmt: skip
    return Study.model_validate({**values, **more})
