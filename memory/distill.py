"""The lessons of a study without a language model: which single changes moved the metric, as claims with their text."""

from __future__ import annotations

from dataclasses import dataclass

from memory.claims import Change, Claim, Scope
from memory.effects import Evidence, evidence_of
from memory.landscape import Landscape
from trainers.space import Value

LESSONS = 8
"""Claims of one study, at most."""
WORTH = 1.0
"""Standard errors that an effect must have to be worth a claim; later trials test it, and noise does not survive."""


@dataclass(frozen=True)
class Lesson:
    """A claim that a study gives rise to, with what its own pairs say, and the trials that it is written from."""

    claim: Claim
    evidence: Evidence
    trials: tuple[str, ...]


def lessons_of(land: Landscape, metric: str, fields: tuple[str, ...]) -> list[Lesson]:
    """The clearest steps between two values of one field, in standard errors, each claimed in its better direction."""
    found: list[Lesson] = []
    for name in fields:
        for before, after in _steps(land, name):
            change = Change.model_validate({"field": name, "from": before, "to": after})
            claim = Claim(scope=Scope(backbone=land.backbone), change=change, metric=metric)
            seen = evidence_of(claim, land, advice=True)
            if seen is None or abs(seen.effect) < WORTH * seen.variance**0.5:
                continue
            if seen.effect < 0:
                claim = claim.model_copy(update={"sign": "-"})
            found.append(Lesson(claim, seen, _trials(claim, land)))
    found.sort(key=lambda one: -abs(one.evidence.effect) / max(one.evidence.variance, 1e-12) ** 0.5)
    return found[:LESSONS]


def _steps(land: Landscape, name: str) -> list[tuple[Value, Value]]:
    """Every two values that a pair stands between, from the one that was planned first, each once."""
    found: dict[tuple[Value, Value], None] = {}
    for step in land.steps(name):
        if step[::-1] not in found:
            found[step] = None
    return list(found)


def _trials(claim: Claim, land: Landscape) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for step, pairs in land.steps(claim.change.field).items():
        if claim.change.covers(*step) or claim.change.covers(*step[::-1]):
            names = [(pair.setting, name) for pair in pairs for name in (pair.first, pair.second)]
            found.update(dict.fromkeys(one.trial_id for name in names for one in land.runs[name]))
    return tuple(found)
