"""The first message of a model's context: the brief, the older trials as a table, the newest trials whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from server.answers import TrialAnswer
from server.drive.study_client import StudyClient


@dataclass(frozen=True)
class Length:
    """How much of a study a context begins with."""

    whole: int
    """How many of the newest trainings are shown with curve and diagnosis; older ones are one line each."""
    lines: int
    """How many older trainings are shown."""
    answer: int
    """How many characters of each answer to the last calls are shown."""
    described: bool = True
    """Whether fields are explained, and notes of earlier studies shown."""


FULL = Length(whole=4, lines=1_000_000, answer=1_000_000)
LENGTHS = (FULL, Length(whole=1, lines=100, answer=4_000), Length(whole=0, lines=20, answer=1_000, described=False))
"""From the whole to the shortest that an engineer can work with."""


def opening(study_client: StudyClient, memory: bool = True, described: bool = True, length: Length = FULL) -> str:
    """The brief and the trials, as JSON. `memory`: the brief shows earlier studies; `described`: it explains fields."""
    memory, described = memory and length.described, described and length.described
    hidden = set[str]() if memory else {"memory", "starts", "beliefs", "previous"}
    brief = study_client.study.brief.model_dump(mode="json", exclude_none=True, exclude=hidden)
    if not described:
        brief["space"] = {name: line.split(";")[0] for name, line in brief["space"].items()}
    facts = {"study_id": study_client.study.study_id, "brief": brief}
    trials = list(study_client.trials.values())
    trained = " and its default is trained" if trials else ""
    parts = [f"The study is open{trained}. The brief, as JSON:\n" + json.dumps(facts, ensure_ascii=False)]
    whole = min(length.whole, len(trials))
    if older := trials[: len(trials) - whole][-length.lines :]:
        metric = study_client.study.brief.metric
        lines = "\n".join(json.dumps(short_row(trial, metric), ensure_ascii=False) for trial in older)
        parts.append(f"Older trainings, a line each:\n{lines}")
    newest = [trial.model_dump(mode="json", exclude_none=True) for trial in trials[len(trials) - whole :]]
    if newest:
        parts.append(f"The trainings so far, the newest last:\n{json.dumps(newest, ensure_ascii=False)}")
    return "\n".join(parts)


def short_row(answer: TrialAnswer, metric: str) -> dict[str, Any]:
    """One training in a few values."""
    values = {
        "trial_id": answer.trial_id, "number": answer.number, "parent": answer.parent, "changes": answer.changes,
        "seed": answer.seed, "status": None if answer.status == "ok" else answer.status,
        metric: answer.metrics.get(metric), "verdict": answer.verdict,
        "diagnosis": answer.diagnosis[0].split(":")[0] if answer.diagnosis else None,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}
