"""Studies and trials made by hand, for tests of everything that only reads them."""

from datetime import UTC, datetime
from typing import Any

from memory.records import Study, Trial
from trainers.contract.facts import DatasetFacts
from trainers.contract.fields import space_of
from trainers.contract.space import Config
from trainers.contract.specs import SPECS

FACTS = DatasetFacts(
    users=5000, items=500, interactions=40_000, mean_length=8.0, p50_length=7.0, p90_length=12.0, p95_length=15.0,
    density=0.016, item_gini=0.5, repeat_rate=0.0, timestamp_tie_rate=None, ascending_id_rate=0.5,
)  # fmt: skip
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def study(**values: Any) -> Study:
    """An open study of SASRec with seed 0 on 5,000 users."""
    given: dict[str, Any] = {
        "study_id": "s-1", "created_at": BEGAN, "dataset": "demo", "dataset_hash": "abc", "split": "leave-one-out",
        "facts": FACTS, "backbone": "sasrec", "metric": "ndcg@10", "preset": "strong",
        "space": space_of(SPECS["sasrec"]), "filter_seen": "auto", "max_trials": None, "budget_seconds": None,
        "trial_seconds": None, "policy": "client", "seed": 0,
        "brief": '{"baselines": {}, "synthetic": false, "filter": "yes"}',
    }  # fmt: skip
    return Study(**{**given, **values})


def trial(number: int, score: float | None, *, changes: Config | None = None, seed: int = 0, **values: Any) -> Trial:
    """Trial `t-{number}` or `t-{number}-{seed}` of `study()`, finished with `score`, or crashed where that is None."""
    space = space_of(SPECS["sasrec"])
    config = space.apply(space.default(), changes or {})
    given: dict[str, Any] = {
        "study_id": "s-1", "parent": None, "changes": changes or {}, "config": config,
        "config_hash": space.hash(config), "seed": seed, "trial_id": f"t-{number}" + (f"-{seed}" if seed else ""),
        "number": number, "created_at": BEGAN, "status": "crashed" if score is None else "ok",
        "validation": {} if score is None else {"ndcg@10": score},
    }  # fmt: skip
    return Trial(**{**given, **values})


ENCODERS = [
    ("sasrec", {}),
    ("sasrec", {"num_blocks": 1, "num_heads": 1, "tie_embeddings": False, "scale_embeddings": True}),
    ("hstu", {}),
    ("hstu", {"num_blocks": 1, "num_heads": 4, "tie_embeddings": False, "scale_embeddings": True}),
    ("hstu", {"linear_dim": 8, "attention_dim": 12, "normalize_embeddings": True}),
    ("sasrec", {"position": "relative", "feed_forward": "swiglu", "share_blocks": True}),
    ("sasrec", {"position": "rotary", "block_norm": "post", "num_heads": 4, "pooling": "mean", "pooling_window": 4}),
    ("sasrec", {"normalize_embeddings": True, "temperature": 0.2, "tie_embeddings": False}),
    ("hstu", {"position": "relative", "feed_forward": "gelu", "block_norm": "post"}),
    ("hstu", {"position": "rotary", "attention_dim": 9, "feed_forward": "swiglu", "share_blocks": True}),
    ("hstu", {"pooling": "mean", "pooling_window": 2, "num_blocks": 3}),
]
"""Encoders that differ in every part: backbone, and what differs from a small spec."""
