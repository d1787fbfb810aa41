"""Lines that several answers share: a score, a dataset, a study, a note, a trial, a noise interval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from memory.records import Note, Study, Trial
from memory.statistics import noise
from memory.statistics.decide import Comparison
from server.answers import (
    DatasetLine,
    Gain,
    MemoryItem,
    Noise,
    Score,
    StudyLine,
    rounded,
    rounded_all,
)
from server.replay.marker import REPLAY_VERSION
from server.study import standings
from server.study.history import StudyHistory
from server.study.replayed import replay_of
from server.study.standings import Standing
from trainers.data import Dataset


def noise_line(sigma: noise.Sigma) -> Noise:
    """Seed noise in an answer."""
    return Noise(sigma=rounded(sigma.sigma), df=rounded(sigma.df))


def gain_line(comparison: Comparison) -> Gain:
    """The gain of a comparison in an answer."""
    return Gain(
        expected=rounded(comparison.gain), low=rounded(comparison.low), high=rounded(comparison.high),
        chance=rounded(comparison.chance),
    )  # fmt: skip


def score_line(study: Study, standing: Standing, why: str | None = None) -> Score:
    """A configuration's standing in an answer."""
    return Score(
        trial_ids=standing.trial_ids,
        number=standing.number,
        mean=rounded(standing.mean),
        changes=standings.changes_from(standing.config, study.space.default()),
        why=why,
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


def study_line(study: Study, trials: Sequence[Trial]) -> StudyLine:
    """A study in one line, with all its trials."""
    history = StudyHistory(study, trials)
    best, default = history.incumbent, history.default
    return StudyLine(
        **study.model_dump(include={"study_id", "dataset", "backbone", "metric", "policy", "early_stop", "finished"}),
        trainings=len(trials),
        replayed=True if replay_of(study) else None,
        best=rounded(best.mean) if best else None,
        default=rounded(default.mean) if default else None,
    )


def claim_words(note: Note) -> str | None:
    """A heuristic's claim and what the trials say about it; None without a claim."""
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
    return MemoryItem(id=note.note_id, level=note.kind, evidence=list(note.evidence), why=why, facts=facts, **shown)


def trial_item(study: Study, trial: Trial, full: bool) -> MemoryItem:
    """A trial as an item of memory: what was changed, and the result."""
    score = standings.score_of(study, trial)
    changed = ", ".join(f"{name}={json.dumps(value)}" for name, value in trial.changes.items())
    changed = changed or ("default" if trial.parent is None else "no changes")
    outcome = f"{study.metric} {score:.4f}" if score is not None else standings.ending(trial)
    source = trial.versions.get(REPLAY_VERSION)
    seed = f"seed {trial.seed}" + (f", replay: {source}" if source else "")
    kept = {"number", "seed", "status", "changes", "parent", "replicate_of", "best_epoch", "weights_of"}
    facts: dict[str, Any] = trial.model_dump(include=kept, exclude_none=True)
    facts |= {"epochs": trial.epochs, "seconds": rounded(trial.seconds), "validation": rounded_all(trial.validation)}
    if full:
        facts["config"] = trial.config
    return MemoryItem(
        id=trial.trial_id,
        level="trial",
        text=f"{changed} ({seed}): {outcome}" + (f"; {trial.hypothesis}" if trial.hypothesis else ""),
        study_id=study.study_id,
        dataset=study.dataset,
        backbone=study.backbone,
        verdict=trial.verdict,
        facts=facts,
    )
