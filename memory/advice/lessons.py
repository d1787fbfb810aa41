"""Lessons of a study, drawn without a language model: the single changes that moved the metric, as claims."""

from __future__ import annotations

from dataclasses import dataclass

from memory.claim import Change, Claim, Scope
from memory.statistics.effects import Evidence, evidence_of
from memory.statistics.landscape import Landscape
from trainers.contract.space import Value

LESSONS = 8
"""The most claims that one study gives."""
WORTH = 1.0
"""An effect of at least this many standard errors is worth a claim. Later trials test it, so noise does not last."""


@dataclass(frozen=True)
class Lesson:
    """A claim from one study, the evidence of the study's own pairs, and the ids of the trials it is written from."""

    claim: Claim
    evidence: Evidence
    trials: tuple[str, ...]


def lessons_of(land: Landscape, metric: str, fields: tuple[str, ...]) -> list[Lesson]:
    """The clearest changes of one field, in standard errors, as claims of the sign that the evidence shows."""
    lessons: list[Lesson] = []
    for name in fields:
        for before, after in _steps(land, name):
            change = Change.model_validate({"field": name, "from": before, "to": after})
            claim = Claim(scope=Scope(backbone=land.backbone), change=change, metric=metric)
            evidence = evidence_of(claim, land, advice=True)
            if evidence is None or abs(evidence.effect) < WORTH * evidence.variance**0.5:
                continue
            if evidence.effect < 0:
                claim = claim.model_copy(update={"sign": "-"})
            lessons.append(Lesson(claim, evidence, _trial_ids(claim, land)))
    lessons.sort(key=lambda lesson: -abs(lesson.evidence.effect) / max(lesson.evidence.variance, 1e-12) ** 0.5)
    return lessons[:LESSONS]


def _steps(land: Landscape, name: str) -> list[tuple[Value, Value]]:
    """The steps of a field that its pairs compare, each once, from the value that was planned first."""
    steps: dict[tuple[Value, Value], None] = {}
    for step in land.steps(name):
        if step[::-1] not in steps:
            steps[step] = None
    return list(steps)


def _trial_ids(claim: Claim, land: Landscape) -> tuple[str, ...]:
    """The ids of all trials in the pairs that the claim's change covers, in either direction."""
    trials: dict[str, None] = {}
    for step, pairs in land.steps(claim.change.field).items():
        if claim.change.covers(*step) or claim.change.covers(*step[::-1]):
            names = [(pair.setting, name) for pair in pairs for name in (pair.first, pair.second)]
            trials.update(dict.fromkeys(run.trial_id for name in names for run in land.runs[name]))
    return tuple(trials)
