"""The summary of a study that nobody wrote one for: what was tried, what is best, what mattered, what is open."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from memory.noise import Sigma
from memory.records import Note, Study, Trial
from memory.store import Memory
from server import studies
from server.effects import effects
from server.policies.base import MissingExtra, Observation, standings
from server.policies.tpe import TPE
from server.words import changed, counted, data_words

FEWEST = 8
"""Scored configurations below which no field can be said to have mattered more than another."""
NAMED = 5
"""Fields of a kind, at most."""


def observed(study: Study, trials: Sequence[Trial]) -> list[Observation]:
    """Finished trials as policies see them."""
    return [
        Observation(
            trial_id=trial.trial_id, number=trial.number, config=trial.config, seed=trial.seed, status=trial.status,
            score=studies.score_of(study, trial), changes=trial.changes, parent=trial.parent,
            replicate_of=trial.replicate_of, verdict=trial.verdict, seconds=trial.seconds, epochs=trial.epochs,
            best_epoch=trial.best_epoch, reused=trial.weights_of is not None,
        )
        for trial in trials
        if trial.finished
    ]  # fmt: skip


def summarize(memory: Memory, study: Study) -> None:
    """Writes a summary of the study, unless it has one or is finished, or trained nothing."""
    trials, notes = memory.trials(study.study_id), memory.notes(study_id=study.study_id)
    if study.finished or any(note.kind == "summary" for note in notes) or not any(one.finished for one in trials):
        return
    memory.add_note(study.study_id, "summary", distilled(study, trials, notes, studies.noise_of(study, trials)))


def distilled(study: Study, trials: Sequence[Trial], notes: Sequence[Note], sigma: Sigma) -> str:
    """A few sentences. `notes` are the study's own; their verdicts are those of now."""
    history = observed(study, trials)
    found = studies.standings(study, trials)
    parts = [
        f"{data_words(study.facts.model_dump())}: {counted(len({one.number for one in history}), 'configuration')} of "
        f"{study.backbone} in {counted(len(history), 'training')}."
    ]
    if not found:
        ends = ", ".join(sorted({trial.status for trial in history}))
        return " ".join([*parts, f"None scored ({ends})."])
    best, default = studies.chosen(study, trials) or found[0], studies.default_standing(study, trials)
    changes = studies.changes_from(best.config, study.space.default())
    reached = f"{study.metric} {best.mean:.4f} over {counted(len(best.scores), 'training')}"
    parts.append(f"Best: {changed(changes)}, {reached}.")
    if default and default.mean and best.number != default.number:
        gain = best.mean / default.mean - 1
        parts.append(f"That is {gain:+.1%} on validation against the default's {default.mean:.4f}.")
    for verdict, words in ((True, "Helped"), (False, "Hurt")):
        names = [
            f"{one.field} {one.before} → {one.after} ({one.relative:+.1%})"
            for one in effects(history, sigma)
            if one.believable and one.relative is not None and (one.relative > 0) == verdict
        ]
        parts.append(f"{words} beyond noise: {', '.join(names) or 'nothing'}.")
    if shares := importance(study, history):
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares[:NAMED])
        parts.append(f"Of what set good configurations apart (PED-ANOVA): {told}.")
    for verdict in ("supported", "refuted"):
        ids = [note.heuristic_id for note in notes if note.verdict == verdict and note.claim_text]
        parts += [f"Claims {verdict} so far: {', '.join(ids)}."] if ids else []
    return " ".join([*parts, _never_tried(study, trials)])


def _never_tried(study: Study, trials: Sequence[Trial]) -> str:
    """The free fields that no trial set to another value."""
    default = study.space.default()
    varied = {name for trial in trials for name, value in trial.config.items() if value != default[name]}
    never = [field.name for field in study.space.free() if field.name not in varied]
    more = f" and {len(never) - NAMED} more" if len(never) > NAMED else ""
    return f"Never tried: {', '.join(never[:NAMED]) or 'nothing that was free'}{more}."


def importance(study: Study, history: Sequence[Observation]) -> list[tuple[str, float]]:
    """How much each varied field set good configurations apart, by Optuna's PED-ANOVA (Watanabe et al. 2023); shares.

    Empty without Optuna, or where too little was tried. Fields that were inactive in a configuration have no share.
    """
    scored = [one.config for one in standings(history) if one.mean is not None]
    if len(scored) < FEWEST:
        return []
    try:
        seen = TPE().told(study.space, history, 0)
    except MissingExtra:
        return []
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    default = study.space.default()
    with warnings.catch_warnings(action="ignore"):  # of fields that few trials varied: their shares are small
        shares = get_param_importances(seen, evaluator=PedAnovaImportanceEvaluator())
    varied = {
        name: share for name, share in shares.items() if any(one.get(name) != default.get(name) for one in scored)
    }
    total = sum(varied.values())
    ranked = sorted(varied.items(), key=lambda pair: -pair[1])
    return [(name, share / total) for name, share in ranked if share > 0]
