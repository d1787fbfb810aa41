"""Writes the summary of a study that has none: what was tried, what is best, what mattered, what is open."""

from __future__ import annotations

from collections.abc import Sequence

from memory.records import Note, Study, Trial
from memory.store import Memory
from server.policies.importance import importance
from server.policies.inputs import observed
from server.policies.phrases import changed, counted, data_words
from server.policies.single_changes import effects
from server.study import standings
from server.study.guardrail_words import guardrail_words
from server.study.history import StudyHistory, read_history

NAMED = 5
"""Largest number of fields to name in one sentence."""


def summarize(memory: Memory, study: Study) -> None:
    """Writes a summary of the study, unless it already has one, is finished, or has trained nothing."""
    history, notes = read_history(memory, study.study_id), memory.notes(study_id=study.study_id)
    trained = any(trial.finished for trial in history.trials)
    if trained and not study.finished and not any(note.kind == "summary" for note in notes):
        memory.add_note(study.study_id, "summary", summary_text(history, notes))


def summary_text(history: StudyHistory, notes: Sequence[Note]) -> str:
    """A summary in a few sentences. `notes` are the study's notes, with their current verdicts."""
    study, observations = history.study, observed(history)
    configurations = counted(len({observation.number for observation in observations}), "configuration")
    parts = [
        f"{data_words(study.facts.model_dump())}: {configurations} of {study.backbone} in "
        f"{counted(len(observations), 'training')}."
    ]
    if not history.ranked:
        ends = ", ".join(sorted({observation.status for observation in observations}))
        return " ".join([*parts, f"None scored ({ends})."])
    parts += _best(history)
    for verdict, words in ((True, "Helped"), (False, "Hurt")):
        names = [
            f"{effect.field} {effect.before} → {effect.after} ({effect.relative:+.1%})"
            for effect in effects(observations, history.noise)
            if effect.believable and effect.relative is not None and (effect.relative > 0) == verdict
        ]
        parts.append(f"{words} beyond noise: {', '.join(names) or 'nothing'}.")
    if shares := importance(study, observations):
        largest = ", ".join(f"{name} {share:.0%}" for name, share in shares[:NAMED])
        parts.append(f"Of what set good configurations apart (PED-ANOVA): {largest}.")
    for verdict in ("supported", "refuted"):
        ids = [note.note_id for note in notes if note.verdict == verdict and note.claim_text]
        parts += [f"Claims {verdict} so far: {', '.join(ids)}."] if ids else []
    return " ".join([*parts, _never_tried(study, history.trials)])


def _best(history: StudyHistory) -> list[str]:
    """The chosen configuration beside the default. A configuration that violates a guardrail is never praised."""
    study, best, default = history.study, history.incumbent, history.default
    words = guardrail_words(history)
    violating = [f"{words}."] if words else []
    if best is None:
        return violating
    changes = standings.changes_from(best.config, study.space.default())
    reached = f"{study.metric} {best.mean:.4f} over {counted(len(best.scores), 'training')}"
    sentences = [f"Best: {changed(changes)}, {reached}."]
    if default and default.mean and best.number != default.number:
        gain = best.mean / default.mean - 1
        sentences.append(f"That is {gain:+.1%} on validation against the default's {default.mean:.4f}.")
    return [*sentences, *violating]


def _never_tried(study: Study, trials: Sequence[Trial]) -> str:
    """The free fields that no trial set to another value."""
    default = study.space.default()
    varied = {name for trial in trials for name, value in trial.config.items() if value != default[name]}
    never = [field.name for field in study.space.free() if field.name not in varied]
    more = f" and {len(never) - NAMED} more" if len(never) > NAMED else ""
    return f"Never tried: {', '.join(never[:NAMED]) or 'nothing that was free'}{more}."
