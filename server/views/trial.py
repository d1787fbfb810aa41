"""The answers of the tools about a trial: records in, answers out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from memory.records import Study, Trial
from memory.store import Memory
from server.answers import Retest, TrialAnswer, rounded, rounded_all
from server.replay.marker import REPLAY_VERSION
from server.study import admission, standings
from server.study.confirming import kept_seconds
from server.study.diagnosis import curve_points
from server.study.guardrail_words import guardrail_words
from server.study.history import StudyHistory, read_history
from server.study.standings import Standing
from server.study.verdict_words import leader_words, verdict_words
from server.study.verdicts import Judgement
from server.views.items import gain_line, noise_line, score_line
from trainers.contract.wire import Epoch


def read_trial_answer(
    memory: Memory, trial: Trial, *, duplicate: bool = False, detail: bool = False, failure: str | None = None
) -> TrialAnswer:
    """The answer on one trial, with what memory holds of its study. `trial` may have a newer status than memory."""
    history, epochs = read_history(memory, trial.study_id), memory.epochs(trial.trial_id)
    return trial_answer(history, trial, epochs, duplicate=duplicate, detail=detail, failure=failure)


def trial_answer(
    history: StudyHistory, trial: Trial, epochs: Sequence[Epoch], *, duplicate: bool = False, detail: bool = False,
    failure: str | None = None,
) -> TrialAnswer:  # fmt: skip
    """Everything that an engineer wants to know about one trial, and the next sensible call."""
    study, trials, best = history.study, history.trials, history.incumbent
    judged = history.judgement(trial)
    left = admission.trials_left(study, trials)
    answer: dict[str, Any] = {
        **trial.model_dump(include={"study_id", "trial_id", "status", "number", "seed", "changes", "hypothesis"}),
        **trial.model_dump(include={"parent", "replicate_of", "best_epoch", "parameters"}),
        "duplicate": duplicate,
        "epochs": max(trial.epochs, len(epochs)),
        "curve": curve_points(epochs, study.metric),
        "trials_left": left,
        "trainings": len(trials),
        "seconds_left": _rounded(admission.seconds_left(study, datetime.now(UTC), kept_seconds(study, trials))),
        "incumbent": score_line(study, best, leader_words(history.ranking)) if best else None,
        "message": failure or trial.message or None,
        "replayed": trial.versions.get(REPLAY_VERSION),
        "weights_of": trial.weights_of,
        "next": next_call(history, trial, judged, left) + _full_training_hint(study, trial),
    }
    if trial.finished:
        answer |= _outcome(history, trial, epochs, judged)
    else:
        answer["eta_seconds"] = _eta(trial, trials, epochs)
    if detail:
        answer |= {"config": trial.config, "epochs_detail": [epoch.model_dump() for epoch in epochs]}
    return TrialAnswer.model_validate(answer)


def _outcome(history: StudyHistory, trial: Trial, epochs: Sequence[Epoch], judged: Judgement) -> dict[str, Any]:
    comparison, against = judged.comparison, judged.against
    violations = history.violations(trial)
    words = verdict_words(judged, history.not_started(trial), history.study.facts.measured_users)
    if violations and comparison is None:
        words = _violation_words(history, trial, violations)
    elif trial.status == "stopped":
        words = "Not measured: it was ended early as hopeless beside earlier trainings, and is never chosen."
    return {
        "metrics": rounded_all(trial.validation),
        "measures": rounded_all(trial.measures),
        "violations": violations,
        "delta": _deltas(history, trial, against),
        "gain": gain_line(comparison) if comparison else None,
        "verdict": comparison.verdict if comparison else None,
        "verdict_words": words,
        "retest": [Retest(trial_id=retest.trial_id, seeds=list(retest.seeds)) for retest in judged.retest],
        "noise": noise_line(history.noise),
        "diagnosis": history.diagnosis(trial, epochs),
        "seconds": _rounded(trial.seconds),
        "eval_seconds": _rounded(trial.eval_seconds),
        "peak_memory_mb": _rounded(trial.peak_memory_mb),
    }


def _violation_words(history: StudyHistory, trial: Trial, violations: Sequence[str]) -> str:
    """Why a trial has no verdict; of the default also from where the study goes on."""
    study, best = history.study, history.incumbent
    limits = "; ".join(violations)
    if trial.config_hash != study.space.hash(study.space.default()):
        return f"It violates a guardrail ({limits}), so it gets no verdict and is never chosen."
    base = f"from number {best.number}" if best else "from the first configuration that does not"
    return f"The default violates a guardrail ({limits}), so it is never chosen; the study goes on {base}."


def _deltas(history: StudyHistory, trial: Trial, against: Standing | None) -> dict[str, float]:
    """Relative differences of this training's score from the means of parent, incumbent and default."""
    score = standings.score_of(history.study, trial)
    if score is None:
        return {}
    others = {standing.config_hash: standing for standing in history.ranked}
    parent = next((other for other in history.trials if other.trial_id == trial.parent), None)
    means = {
        "parent": others.get(parent.config_hash) if parent else None,
        "incumbent": against,
        "default": history.default,
    }
    return {
        name: rounded(score / standing.mean - 1)
        for name, standing in means.items()
        if standing and standing.mean > 0 and standing.config_hash != trial.config_hash
    }


def _eta(trial: Trial, trials: Sequence[Trial], epochs: Sequence[Epoch]) -> float | None:
    """Seconds until the trial ends, if it takes as many epochs as the median of the finished ones (else max_epochs)."""
    if not epochs:
        return None
    lengths = sorted(other.epochs for other in trials if other.scored)
    planned = lengths[len(lengths) // 2] if lengths else int(trial.config.get("max_epochs", 0))
    spent = sum(epoch.seconds + epoch.eval_seconds for epoch in epochs)
    return rounded(max(1, planned - len(epochs)) * spent / len(epochs))


def _rounded(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def next_call(history: StudyHistory, trial: Trial, judged: Judgement, left: int | None) -> str:
    """The next sensible call, written so that a client can copy it."""
    study, best = history.study, history.incumbent
    if trial.status in ("queued", "running"):
        return f"get_trial(trial_id={trial.trial_id!r}, wait_seconds=45) waits on; the trial goes on either way."
    if study.finished:
        return f"The study is finished: get_study(study_id={study.study_id!r}) shows its end."
    if trial.status == "interrupted":
        return "The same run_trial call starts a new attempt."
    if judged.retest:
        calls = ", then ".join(
            f"run_trial(study_id={study.study_id!r}, replicate_of={retest.trial_id!r}, seed={seed})"
            for retest in judged.retest
            for seed in retest.seeds
        )
        return f"{calls}: this would settle the verdict as {judged.settled_as!r} if the observed gain stays."
    if left == 0:
        return f"None left: write_heuristic what was learned, then finish_study(study_id={study.study_id!r})."
    if best is None and history.ranked:
        return (
            f"{guardrail_words(history)}: run_trial(study_id={study.study_id!r}, changes={{…}}) changes the default; "
            "the first configuration that violates none becomes the incumbent."
        )
    if best is None:
        return f"Nothing has scored yet: run_trial(study_id={study.study_id!r}, changes={{…}}), something safer."
    return (
        f"write_heuristic(study_id={study.study_id!r}, kind='reflection', evidence=[{trial.trial_id!r}], text=…), then "
        f"run_trial(study_id={study.study_id!r}, changes={{one field}}) on the incumbent {best.trial_ids[0]}."
    )


def _full_training_hint(study: Study, trial: Trial) -> str:
    """How to learn the score of a trial that was stopped early, for a client that doubts the rule."""
    if trial.status != "stopped":
        return ""
    return (
        f" Slow is not hopeless: run_trial(study_id={study.study_id!r}, replicate_of={trial.trial_id!r}) "
        'trains it to its end, and run_trial(…, early_stop="off") a new slow starter.'
    )
