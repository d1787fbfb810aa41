"""The numbers behind a study's pictures: best so far with its noise band, learning curves, importance of fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory.records import Study
from memory.store import Memory
from server.charts.svg import Series, series
from server.policies.base import Observation
from server.policies.importance import importance
from server.policies.inputs import observed
from server.study.guardrail_words import guardrail_words
from server.study.history import StudyHistory, read_history

CURVES = 40
"""How many of the newest trainings show their curve, besides those of the best configuration and of the default."""


@dataclass(frozen=True)
class Curve:
    """Validation scores of one training by epoch; `role` is best, default or other."""

    trial_id: str
    number: int
    role: str
    epochs: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class StudyNumbers:
    """`shares`: how much each field set good configurations apart, the largest first; empty until that is known."""

    series: Series
    curves: tuple[Curve, ...]
    shares: tuple[tuple[str, float], ...]
    guardrails: str | None = None
    """Which configurations violate a guardrail, in words; None where none does."""


def numbers(memory: Memory, study: Study) -> StudyNumbers:
    """Reads everything that is drawn. Importance takes up to a second, so call this in a thread."""
    history = read_history(memory, study.study_id)
    observations = observed(history)
    title = f"{study.backbone} on {study.dataset}"
    return StudyNumbers(
        series(observations, history.noise, study.metric, title, study.space.default()),
        tuple(_curves(memory, history)),
        _shares(study, observations),
        guardrail_words(history),
    )


_cached_shares: dict[str, tuple[int, tuple[tuple[str, float], ...]]] = {}
"""The number of trainings and their shares, by study: a cache, since an open page asks every few seconds."""


def _shares(study: Study, history: Sequence[Observation]) -> tuple[tuple[str, float], ...]:
    cached = _cached_shares.get(study.study_id)
    if cached is None or cached[0] != len(history):
        cached = _cached_shares[study.study_id] = len(history), tuple(importance(study, history))
    return cached[1]


def _curves(memory: Memory, history: StudyHistory) -> list[Curve]:
    study, best = history.study, history.incumbent
    roles = {0: "default", **({best.number: "best"} if best and best.number else {})}
    trained = [trial for trial in history.trials if trial.weights_of is None]
    shown = {trial.trial_id for trial in trained[-CURVES:]} | {
        trial.trial_id for trial in trained if trial.number in roles
    }
    points_of = memory.curves(study.study_id, study.metric)
    curves: list[Curve] = []
    for trial in trained:
        if trial.trial_id in shown and (points := points_of.get(trial.trial_id)):
            epochs, scores = zip(*points, strict=True)
            curves.append(Curve(trial.trial_id, trial.number, roles.get(trial.number, "other"), epochs, scores))
    return curves
