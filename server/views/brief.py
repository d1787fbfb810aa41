"""The start of a study: its space, its default configuration and the brief that an engineer plans from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from memory.advice.starts import Start
from memory.claims.credit import is_withheld
from memory.records import Study
from memory.statistics.retrieval import Ranked, rank_notes
from memory.store import Memory
from server.answers import BeliefLine, Brief, NoteLine, StartLine, rounded, rounded_all
from server.study.history import read_history
from server.views.items import noise_line
from trainers.contract.metrics import filter_words
from trainers.contract.space import Condition, Field

NOTES_SHOWN = 8
BUDGETS = {"max_trials", "budget_seconds", "trial_seconds", "gpu_seconds", "confirm_seeds"}


def relevant_notes(memory: Memory, study: Study, query: str | None = None, limit: int = NOTES_SHOWN) -> list[Ranked]:
    """What earlier studies learned that may matter for this one, best first."""
    return rank_notes(
        [note for note in memory.notes() if note.study_id != study.study_id],
        facts=study.facts,
        backbone=study.backbone,
        study_facts={other.study_id: other.facts for other in memory.studies()},
        query=query,
        limit=limit,
    )


def write_brief(memory: Memory, study: Study) -> Brief:
    """The brief of a study for a client that plans from it; it names the snapshot of the notes that it shows."""
    brief = read_brief(memory, study)
    shown = [line.note_id for line in brief.memory]
    return brief.model_copy(update={"snapshot_id": memory.snapshots.take(study.study_id, shown)})


def read_brief(memory: Memory, study: Study) -> Brief:
    """The brief of a study, for the server's own use: without a snapshot."""
    relevant = relevant_notes(memory, study)
    notes = [ranked for ranked in relevant if not is_withheld(study, ranked.note)]
    target = (study.space, study.facts, study.metric)
    names = {other.dataset_hash: other.dataset for other in memory.studies()}
    starts = memory.advice.starts(*target)
    claims = {belief: [memory.note(note_id) for note_id in belief.cites] for belief in memory.advice.beliefs(*target)}
    beliefs = [belief for belief, cited in claims.items() if not any(is_withheld(study, note) for note in cited)]
    memory.exposures.expose(
        study, [ranked.note for ranked in relevant] + [note for cited in claims.values() for note in cited]
    )
    stored: dict[str, Any] = json.loads(study.brief)
    rule = read_history(memory, study.study_id).ranking.rule
    limits = study.model_dump(include=BUDGETS, exclude_none=True)
    facts = {name: rounded(value) for name, value in study.facts.model_dump().items() if value is not None}
    return Brief(
        dataset={"name": study.dataset, "split": study.split, "content_hash": study.dataset_hash, **facts}
        | {f"cold_{name}": number for name, number in stored.get("cold", {}).items()}
        | ({"synthetic": True} if stored["synthetic"] else {})
        | ({"recipe": stored["recipe"]} if stored.get("recipe") else {}),
        warnings=stored.get("warnings", []),
        backbone=study.backbone,
        metric=study.metric,
        filter_seen=filter_words(study.filter_seen, study.facts),
        space={field.name: field_line(field) for field in study.space.free()},
        default=study.space.default(),
        baselines={name: rounded_all(values) for name, values in stored["baselines"].items()},
        noise=noise_line(rule.noise),
        min_gain=rounded(rule.matters),
        budget={name: float(limit) for name, limit in limits.items()},
        replay=stored.get("replay", {}).get("words"),
        early_stop=study.early_stop,
        guardrails=study.limits,
        previous=stored.get("previous"),
        starts=[start_line(start, names) for start in starts],
        beliefs=[BeliefLine(field=b.field, value=b.value, gain=rounded(b.gain), cites=list(b.cites)) for b in beliefs],
        memory=[note_line(ranked) for ranked in notes],
    )


def shortened(brief: Brief, study: Study) -> Brief:
    """The brief as start_study answers it: baselines in the study's metric only, and no text on inactive fields.

    A field is inactive here if it has no effect in the default configuration. The whole brief is a resource.
    """
    default, space = study.space.default(), dict(brief.space)
    for field in study.space.free():
        if not study.space.active(field, default):
            space[field.name] = space[field.name].split(";")[0]
    baselines = {name: {study.metric: values[study.metric]} for name, values in brief.baselines.items()}
    return brief.model_copy(update={"space": space, "baselines": baselines})


def start_line(start: Start, names: Mapping[str, str]) -> StartLine:
    """Advice with the names of the datasets that it comes from; `names` has them by content hash."""
    return StartLine(
        changes=start.changes,
        gain=rounded(start.gain),
        datasets=[names[content_hash] for content_hash in start.datasets],
    )


def field_line(field: Field) -> str:
    """One field in few words: allowed values, when it matters, what it is. Its default is in the brief's `default`."""
    if field.choices or field.kind == "bool":
        allowed = "|".join(json.dumps(choice).strip('"') for choice in field.choices or (False, True))
    else:
        allowed = ("0 or " if field.zero else "") + f"{field.low or 0:g}..{field.high or 0:g}"
    log = " log" if field.scale == "log" and not field.choices else ""
    when = " or ".join(_when(condition) for condition in field.when)
    return f"{allowed}{log}{f' if {when}' if when else ''}; {field.about}"


def _when(condition: Condition) -> str:
    values = "|".join(json.dumps(value).strip('"') for value in condition.values)
    return f"{condition.field}={values}" if values else f"{condition.field}>{condition.above:g}"


def note_line(ranked: Ranked) -> NoteLine:
    """A stored note, with the reason why it is shown."""
    shown = ranked.note.model_dump(include={"note_id", "kind", "text", "dataset", "backbone", "verdict"})
    return NoteLine(**shown, evidence=list(ranked.note.evidence), why=ranked.why)
