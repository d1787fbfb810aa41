"""The numbers of a study's pictures: best so far with its noise band, learning curves, importance of fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory.records import Study, Trial
from memory.store import Memory
from server import studies
from server.drive.picture import Series, series
from server.policies.base import Observation
from server.summary import importance, observed
from server.views import earlier_groups

CURVES = 40
"""The newest trainings whose curves are shown, beside those of the best configuration and of the default."""


@dataclass(frozen=True)
class Curve:
    """Validation of one training by epoch; `role` is best, default or other."""

    trial_id: str
    number: int
    role: str
    epochs: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class StudyNumbers:
    """`shares` of fields in what set good configurations apart, the largest first; empty until that can be said."""

    series: Series
    curves: tuple[Curve, ...]
    shares: tuple[tuple[str, float], ...]


def numbers(memory: Memory, study: Study) -> StudyNumbers:
    """Reads everything that is drawn; importance takes up to a second: call it in a thread."""
    trials = memory.trials(study.study_id)
    history = observed(study, trials)
    sigma = studies.noise_of(study, trials, earlier_groups(memory, study))
    title = f"{study.backbone} on {study.dataset}"
    return StudyNumbers(
        series(history, sigma, study.metric, title), tuple(_curves(memory, study, trials)), _shares(study, history)
    )


_known_shares: dict[str, tuple[int, tuple[tuple[str, float], ...]]] = {}
"""By study: of so many trainings. A page that is open asks every few seconds."""


def _shares(study: Study, history: Sequence[Observation]) -> tuple[tuple[str, float], ...]:
    known = _known_shares.get(study.study_id)
    if known is None or known[0] != len(history):
        known = _known_shares[study.study_id] = len(history), tuple(importance(study, history))
    return known[1]


def _curves(memory: Memory, study: Study, trials: Sequence[Trial]) -> list[Curve]:
    best = studies.chosen(study, trials)
    roles = {0: "default", **({best.number: "best"} if best and best.number else {})}
    trained = [trial for trial in trials if trial.weights_of is None]
    shown = {trial.trial_id for trial in trained[-CURVES:]} | {t.trial_id for t in trained if t.number in roles}
    known = memory.curves(study.study_id, study.metric)
    found: list[Curve] = []
    for trial in trained:
        if trial.trial_id in shown and (points := known.get(trial.trial_id)):
            epochs, scores = zip(*points, strict=True)
            found.append(Curve(trial.trial_id, trial.number, roles.get(trial.number, "other"), epochs, scores))
    return found
