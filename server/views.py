"""What the tools say of trials, studies and memory: records in, answers out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from memory.noise import rescaled
from memory.records import Note, Study, Trial
from memory.store import Memory
from server import admission, studies
from server.answers import DatasetLine, MemoryItem, Retest, Score, StudyLine, TrialAnswer
from server.brief import noise_line, rounded, rounded_all
from server.diagnosis import curve_points, diagnose
from server.guardrails import violations
from server.studies import Judgement, Standing
from trainers.data import Dataset
from trainers.spec import Epoch


def earlier_groups(memory: Memory, study: Study) -> list[tuple[float, ...]]:
    """Replicate groups of the same metric and backbone from earlier studies, their noise scaled to this dataset."""
    found = memory.replicates(study.backbone, study.metric, study.created_at)
    return [rescaled(scores, users, study.facts.measured_users) for users, scores in found]


def judgement_of(memory: Memory, study: Study, trial: Trial) -> Judgement:
    """What a trial means against the best other configuration as it stood then."""
    return studies.verdict(study, trial, memory.trials(study.study_id), earlier_groups(memory, study))


def record_verdict(memory: Memory, trial_id: str) -> None:
    """Write the verdict of a trial that has just finished into the books, where there is one."""
    trial = memory.trial(trial_id)
    comparison = judgement_of(memory, memory.study(trial.study_id), trial).comparison
    if comparison is not None:
        memory.record_verdict(trial_id, comparison.verdict)


def trial_answer(
    memory: Memory, trial: Trial, *, duplicate: bool = False, detail: bool = False, failure: str | None = None
) -> TrialAnswer:
    """Everything an engineer wants to know of one trial, and the next sensible call."""
    study = memory.study(trial.study_id)
    trials = memory.trials(trial.study_id)
    epochs = memory.epochs(trial.trial_id)
    judged = judgement_of(memory, study, trial)
    best = studies.incumbent(study, trials)
    now = datetime.now(UTC)
    left = admission.trials_left(study, trials)
    answer: dict[str, Any] = {
        **trial.model_dump(include={"study_id", "trial_id", "status", "number", "seed", "changes", "hypothesis"}),
        **trial.model_dump(include={"parent", "replicate_of", "best_epoch", "parameters"}),
        "duplicate": duplicate,
        "epochs": max(trial.epochs, len(epochs)),
        "curve": curve_points(epochs, study.metric),
        "trials_left": left,
        "trainings": len(trials),
        "seconds_left": _rounded(admission.seconds_left(study, now)),
        "incumbent": score_line(study, best) if best else None,
        "message": failure or trial.message or None,
        "weights_of": trial.weights_of,
        "next": next_call(study, trial, judged, best, left) + _to_its_end(study, trial),
    }
    if trial.finished:
        answer |= _outcome(study, trial, trials, epochs, judged)
    else:
        answer["eta_seconds"] = _eta(trial, trials, epochs)
    if detail:
        answer |= {"config": trial.config, "epochs_detail": [epoch.model_dump() for epoch in epochs]}
    return TrialAnswer.model_validate(answer)


def _outcome(study: Study, trial: Trial, trials: list[Trial], epochs: list[Epoch], judged: Judgement) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(study.brief)
    comparison, against = judged.comparison, judged.against
    own = [t for t in trials if t.config_hash == trial.config_hash and studies.score_of(study, t) is not None]
    return {
        "metrics": rounded_all(trial.validation),
        "measures": rounded_all(trial.measures),
        "violations": violations(study.guardrails, own or [trial]),
        "delta": _deltas(study, trial, trials, against),
        "verdict": comparison.verdict if comparison else None,
        "verdict_words": comparison.words if comparison else None,
        "retest": [Retest(trial_id=one.trial_id, seeds=list(one.seeds)) for one in judged.retest],
        "noise": noise_line(judged.noise, max(1, len(own)), len(against.scores) if against else 1, comparison),
        "diagnosis": diagnose(trial, epochs, study.metric, judged.noise.sigma, stored["baselines"]),
        "seconds": _rounded(trial.seconds),
        "eval_seconds": _rounded(trial.eval_seconds),
        "peak_memory_mb": _rounded(trial.peak_memory_mb),
    }


def _deltas(study: Study, trial: Trial, trials: list[Trial], against: Standing | None) -> dict[str, float]:
    """Relative changes of this training's score against the means of parent, best other and default configuration."""
    score = studies.score_of(study, trial)
    if score is None:
        return {}
    others = {standing.config_hash: standing for standing in studies.standings(study, trials)}
    parent = next((t for t in trials if t.trial_id == trial.parent), None)
    means = {
        "parent": others.get(parent.config_hash) if parent else None,
        "incumbent": against,
        "default": studies.default_standing(study, trials),
    }
    return {
        name: rounded(score / standing.mean - 1)
        for name, standing in means.items()
        if standing and standing.mean > 0 and standing.config_hash != trial.config_hash
    }


def _eta(trial: Trial, trials: list[Trial], epochs: list[Epoch]) -> float | None:
    """Seconds to the end if this trial takes as many epochs as the finished ones did (else max_epochs)."""
    if not epochs:
        return None
    lengths = sorted(other.epochs for other in trials if other.scored)
    planned = lengths[len(lengths) // 2] if lengths else int(trial.config.get("max_epochs", 0))
    spent = sum(epoch.seconds + epoch.eval_seconds for epoch in epochs)
    return rounded(max(1, planned - len(epochs)) * spent / len(epochs))


def score_line(study: Study, standing: Standing) -> Score:
    """A configuration's standing in an answer."""
    return Score(
        trial_ids=standing.trial_ids,
        number=standing.number,
        mean=rounded(standing.mean),
        changes=studies.changes_from(standing.config, study.space.default()),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def next_call(study: Study, trial: Trial, judged: Judgement, best: Standing | None, left: int | None) -> str:
    """The next sensible call, written so that it can be made as it stands."""
    if trial.status in ("queued", "running"):
        return f"get_trial(trial_id={trial.trial_id!r}, wait_seconds=45) waits on; the trial goes on either way."
    if trial.status == "interrupted":
        return "The same run_trial call starts a new attempt."
    if judged.retest:
        calls = ", then ".join(
            f"run_trial(study_id={study.study_id!r}, replicate_of={one.trial_id!r}, seed={seed})"
            for one in judged.retest
            for seed in one.seeds
        )
        return f"{calls}: ahead, but not yet beyond seed noise; fresh seeds decide."
    if left == 0:
        return f"None left: write_heuristic what was learned, then finish_study(study_id={study.study_id!r})."
    if best is None:
        return f"Nothing has scored yet: run_trial(study_id={study.study_id!r}, changes={{…}}), something safer."
    return (
        f"write_heuristic(study_id={study.study_id!r}, kind='reflection', evidence=[{trial.trial_id!r}], text=…), then "
        f"run_trial(study_id={study.study_id!r}, changes={{one field}}) on the incumbent {best.trial_ids[0]}."
    )


def _to_its_end(study: Study, trial: Trial) -> str:
    """How to learn the score of a trial that was stopped early, for who doubts the rule."""
    if trial.status != "stopped":
        return ""
    return (
        f" Only if this one deserves more: run_trial(study_id={study.study_id!r}, replicate_of={trial.trial_id!r}) "
        'trains it to its end, and start_study(…, early_stop="off") every trial.'
    )


def dataset_line(dataset: Dataset) -> DatasetLine:
    """A dataset in one line."""
    facts = dataset.facts
    return DatasetLine(
        name=dataset.name,
        users=facts.users,
        items=facts.items,
        interactions=facts.interactions,
        mean_length=rounded(facts.mean_length),
        p90_length=rounded(facts.p90_length),
        content_hash=dataset.content_hash,
        synthetic=dataset.synthetic,
    )


def study_line(memory: Memory, study: Study) -> StudyLine:
    """A study in one line."""
    trials = memory.trials(study.study_id)
    best, default = studies.chosen(study, trials), studies.default_standing(study, trials)
    return StudyLine(
        **study.model_dump(include={"study_id", "dataset", "backbone", "metric", "policy", "early_stop", "finished"}),
        trainings=len(trials),
        best=rounded(best.mean) if best else None,
        default=rounded(default.mean) if default else None,
    )


def claim_words(note: Note) -> str | None:
    """A heuristic's claim as it is checked, and what the trials say of it; None without a claim."""
    if note.claim is None:
        return None
    forced = " Written against the data." if note.forced else ""
    if not note.n_pairs or note.effect is None:
        return f"{note.claim.words()}: no matched pair yet.{forced}"
    interval = f"{note.effect:+.1%} ({note.low:+.1%} to {note.high:+.1%})"
    pairs = "1 pair" if note.n_pairs == 1 else f"{note.n_pairs} pairs"
    places = "1 dataset" if note.n_datasets == 1 else f"{note.n_datasets} datasets"
    return f"{note.claim.words()}: {note.verdict}, {interval} over {pairs} on {places}.{forced}"


def note_item(note: Note, why: str | None = None) -> MemoryItem:
    """A note as an item of memory."""
    shown = note.model_dump(include={"study_id", "dataset", "backbone", "text", "verdict"})
    facts: dict[str, Any] | None = None
    if note.claim is not None:
        kept = {"transfer", "n_pairs", "n_datasets", "effect", "low", "high", "forced"}
        facts = {"claim": note.claim.words()} | note.model_dump(include=kept, exclude_none=True)
        facts = {name: rounded(value) for name, value in facts.items()}
    return MemoryItem(
        id=note.heuristic_id, level=note.kind, evidence=list(note.evidence), why=why, facts=facts, **shown
    )


def trial_item(study: Study, trial: Trial, full: bool) -> MemoryItem:
    """A trial as an item of memory: what was changed and what came of it."""
    score = studies.score_of(study, trial)
    changed = ", ".join(f"{name}={json.dumps(value)}" for name, value in trial.changes.items())
    changed = changed or ("default" if trial.parent is None else "no changes")
    outcome = f"{study.metric} {score:.4f}" if score is not None else studies.ended(trial)
    kept = {"number", "seed", "status", "changes", "parent", "replicate_of", "best_epoch", "weights_of"}
    facts: dict[str, Any] = trial.model_dump(include=kept, exclude_none=True)
    facts |= {"epochs": trial.epochs, "seconds": rounded(trial.seconds), "validation": rounded_all(trial.validation)}
    if full:
        facts["config"] = trial.config
    return MemoryItem(
        id=trial.trial_id,
        level="trial",
        text=f"{changed} (seed {trial.seed}): {outcome}" + (f"; {trial.hypothesis}" if trial.hypothesis else ""),
        study_id=study.study_id,
        dataset=study.dataset,
        backbone=study.backbone,
        verdict=trial.verdict,
        facts=facts,
    )
