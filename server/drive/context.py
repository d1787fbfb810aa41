"""What a model is told when its context begins: the brief, all trials as a table, the newest ones whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from server.answers import TrialAnswer
from server.drive.desk import Desk

WHOLE = 4
"""The newest trainings, told with curve and diagnosis; older ones are a line each."""


def opening(desk: Desk, latest: Sequence[str] = (), memory: bool = True) -> str:
    """As JSON, and what to do next. `latest` are answers to calls that the model made before its context was cut.

    Without `memory` the brief says nothing of earlier studies.
    """
    hidden = set[str]() if memory else {"memory", "starts", "beliefs", "previous"}
    brief = desk.study.brief.model_dump(mode="json", exclude_none=True, exclude=hidden)
    facts = {"study_id": desk.study.study_id, "brief": brief}
    trials = list(desk.trials.values())
    parts = [
        "The study is open and its default is trained. The brief, as JSON:\n" + json.dumps(facts, ensure_ascii=False)
    ]
    if older := trials[:-WHOLE]:
        lines = "\n".join(json.dumps(line(one, desk.study.brief.metric), ensure_ascii=False) for one in older)
        parts.append(f"Older trainings, a line each:\n{lines}")
    newest = [one.model_dump(mode="json", exclude_none=True) for one in trials[-WHOLE:]]
    parts.append(f"The trainings so far, the newest last:\n{json.dumps(newest, ensure_ascii=False)}")
    if latest:
        parts.append("Your last calls were answered with:\n" + "\n".join(latest))
    return "\n".join([*parts, "Go on with step 4."])


def line(answer: TrialAnswer, metric: str) -> dict[str, Any]:
    """One training in few words."""
    told = {
        "trial_id": answer.trial_id, "number": answer.number, "parent": answer.parent, "changes": answer.changes,
        "seed": answer.seed, "status": None if answer.status == "ok" else answer.status,
        metric: answer.metrics.get(metric), "verdict": answer.verdict,
        "diagnosis": answer.diagnosis[0].split(":")[0] if answer.diagnosis else None,
    }  # fmt: skip
    return {name: value for name, value in told.items() if value is not None}
