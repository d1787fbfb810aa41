"""What policies see of a study: its trainings as observations, and the brief with what is left of the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memory.advice.starts import Belief, Start
from memory.records import Trial
from memory.statistics.elsewhere import Elsewhere
from memory.statistics.noise import Sigma
from server import answers
from server.answers import TrialAnswer
from server.policies.base import Lesson, Observation, PolicyContext
from server.study.diagnosis import curve_points
from server.study.history import StudyHistory
from trainers.contract.space import Config, Space
from trainers.contract.wire import Epoch

Curve = Sequence[Mapping[str, float]]


def observe(answer: TrialAnswer, config: Config, metric: str) -> Observation:
    """The observation of a trial, from the answer that a client received."""
    return observation(answer, config, answer.metrics.get(metric), answer.violations, answer.curve, answer.diagnosis)


def observed(history: StudyHistory, epochs: Mapping[str, Sequence[Epoch]] | None = None) -> list[Observation]:
    """The finished trainings of a study, oldest first; with curves and findings if `epochs` by trial are given."""
    metric, by_trial = history.study.metric, epochs or {}
    observations: list[Observation] = []
    for trial in history.trials:
        if trial.finished:
            trial_epochs = by_trial.get(trial.trial_id, ())
            diagnosis = history.diagnosis(trial, trial_epochs) if epochs is not None else ()
            score, violations = trial.validation.get(metric), history.violations(trial)
            curve = curve_points(trial_epochs, metric)
            observations.append(observation(trial, trial.config, score, violations, curve, diagnosis))
    return observations


def observation(
    trial: Trial | TrialAnswer, config: Config, score: float | None, violations: Sequence[str],
    curve: Curve = (), diagnosis: Sequence[str] = (),
) -> Observation:  # fmt: skip
    """One training as policies see it: without a score where it may not be compared, or if it violates a guardrail."""
    comparable = trial.status in ("ok", "timed_out") and not violations
    return Observation(
        trial_id=trial.trial_id,
        number=trial.number,
        config=config,
        seed=trial.seed,
        status=trial.status,
        score=score if comparable else None,
        reached=score if trial.status == "stopped" else None,
        changes=trial.changes,
        parent=trial.parent,
        replicate_of=trial.replicate_of,
        verdict=trial.verdict,
        curve=tuple(curve),
        diagnosis=tuple(diagnosis),
        seconds=(trial.seconds or 0.0) + (trial.eval_seconds or 0.0),
        weights_of=trial.weights_of,
        epochs=trial.epochs,
        best_epoch=trial.best_epoch,
        violations=tuple(violations),
    )


def default_first(space: Space, history: Sequence[Observation]) -> list[Observation]:
    """The history with a training of the default in front, if there is one: policies take the first for the default.

    Where another configuration was trained before it, the one that says most about the default comes first.
    """
    default = space.hash(space.default())
    if not history or space.hash(history[0].config) == default:
        return list(history)
    places = [place for place, trial in enumerate(history) if space.hash(trial.config) == default]
    if not places:
        return list(history)
    first = max(places, key=lambda place: history[place].score is not None)
    return [history[first], *history[:first], *history[first + 1 :]]


def policy_context(
    brief: answers.Brief, elsewhere: Sequence[Elsewhere], trials_left: int | None, seconds_left: float | None,
    noise: answers.Noise | None = None,
) -> PolicyContext:  # fmt: skip
    """The context of a policy, from the brief, other datasets' trainings, what is left of the budget and the noise."""
    facts = {name: float(value) for name, value in brief.dataset.items() if type(value) in (int, float)}
    lessons = tuple(Lesson(note.note_id, note.kind, note.text, note.dataset, note.backbone) for note in brief.memory)
    starts = tuple(Start(start.changes, start.gain, tuple(start.datasets)) for start in brief.starts)
    beliefs = tuple(Belief(belief.field, belief.value, belief.gain, tuple(belief.cites)) for belief in brief.beliefs)
    known = noise or brief.noise
    return PolicyContext(
        brief.metric, brief.backbone, facts, lessons, starts, beliefs, tuple(elsewhere), trials_left, seconds_left,
        Sigma(known.sigma, known.df), brief.min_gain,
    )  # fmt: skip
