"""What tests store in a memory: trials that have not started, results and epochs."""

from __future__ import annotations

from typing import Any

from memory.records import NewTrial
from tests.support.examples import study
from trainers.contract.wire import Epoch, TrialResult

SPACE = study().space


def new_trial(changes: dict[str, Any] | None = None, **values: Any) -> NewTrial:
    """A trial of study s-1 with seed 0: the default with `changes`."""
    config = SPACE.apply(SPACE.default(), changes or {})
    given: dict[str, Any] = {
        "study_id": "s-1", "parent": None, "changes": changes or {}, "config": config,
        "config_hash": SPACE.hash(config), "seed": 0,
    }  # fmt: skip
    return NewTrial(**{**given, **values})


def result(trial_id: str, score: float = 0.05, **values: Any) -> TrialResult:
    """How a trial ended: well, unless `values` say otherwise."""
    given: dict[str, Any] = {"status": "ok", "validation": {"ndcg@10": score}, "best_epoch": 3, "epochs": 5}
    return TrialResult(**{"trial_id": trial_id, **given, **values})


def epoch(number: int, loss: float = 1.0) -> Epoch:
    """An epoch whose score is a hundredth of its number."""
    return Epoch(epoch=number, loss=loss, validation={"ndcg@10": number / 100}, seconds=2.0, eval_seconds=0.5)
