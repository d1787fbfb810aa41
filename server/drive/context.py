"""What a model is told when its context begins: the brief, all trials as a table, the newest ones whole."""

from __future__ import annotations

import json
from typing import Any

from server.answers import TrialAnswer
from server.drive.desk import Desk

WHOLE = 4
"""The newest trainings, told with curve and diagnosis; older ones are a line each."""


def opening(desk: Desk, memory: bool = True, described: bool = True) -> str:
    """As JSON. Without `memory` the brief says nothing of earlier studies, without `described` not what fields mean."""
    hidden = set[str]() if memory else {"memory", "starts", "beliefs", "previous"}
    brief = desk.study.brief.model_dump(mode="json", exclude_none=True, exclude=hidden)
    if not described:
        brief["space"] = {name: line.split(";")[0] for name, line in brief["space"].items()}
    facts = {"study_id": desk.study.study_id, "brief": brief}
    trials = list(desk.trials.values())
    trained = " and its default is trained" if trials else ""
    parts = [f"The study is open{trained}. The brief, as JSON:\n" + json.dumps(facts, ensure_ascii=False)]
    if older := trials[:-WHOLE]:
        lines = "\n".join(json.dumps(line(one, desk.study.brief.metric), ensure_ascii=False) for one in older)
        parts.append(f"Older trainings, a line each:\n{lines}")
    newest = [one.model_dump(mode="json", exclude_none=True) for one in trials[-WHOLE:]]
    if newest:
        parts.append(f"The trainings so far, the newest last:\n{json.dumps(newest, ensure_ascii=False)}")
    return "\n".join(parts)


def line(answer: TrialAnswer, metric: str) -> dict[str, Any]:
    """One training in few words."""
    told = {
        "trial_id": answer.trial_id, "number": answer.number, "parent": answer.parent, "changes": answer.changes,
        "seed": answer.seed, "status": None if answer.status == "ok" else answer.status,
        metric: answer.metrics.get(metric), "verdict": answer.verdict,
        "diagnosis": answer.diagnosis[0].split(":")[0] if answer.diagnosis else None,
    }  # fmt: skip
    return {name: value for name, value in told.items() if value is not None}
