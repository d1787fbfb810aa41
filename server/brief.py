"""The start of a study: its space, its default configuration and the brief that an engineer plans from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memory import noise
from memory.credit import is_withheld
from memory.priors import Start
from memory.records import EarlyStop, Guardrail, Study
from memory.retrieval import Ranked, rank_notes
from memory.store import Memory, new_id
from server.answers import BeliefLine, Brief, Noise, NoteLine, Previous, StartLine
from trainers import registry
from trainers.data import Dataset, baselines
from trainers.fields import space_of
from trainers.metrics import filter_rule
from trainers.space import Condition, Field, Space
from trainers.spec import SPECS, FilterSeen, Preset, preset

NOTES_SHOWN = 8
BUDGETS = {"max_trials", "budget_seconds", "trial_seconds", "gpu_seconds"}


def study_space(
    backbone: str, preset_name: Preset, dataset: Dataset, wanted: Mapping[str, Any], trainers_dir: Path
) -> Space:
    """The space of a study: the preset's configuration as default, restricted to what was `wanted`.

    That of a trainer of the user's own has the defaults of its file, whatever the preset.
    """
    if backbone not in SPECS:
        return registry.find(trainers_dir, backbone).space.restrict(wanted)
    spec = preset(preset_name, backbone, dataset.facts)
    return space_of(SPECS[backbone], spec.model_dump()).restrict(wanted)


def new_study(
    dataset: Dataset,
    space: Space,
    *,
    metric: str,
    preset_name: Preset,
    filter_seen: FilterSeen,
    max_trials: int | None,
    budget_seconds: float | None,
    trial_seconds: float | None,
    gpu_seconds: float | None,
    policy: str,
    seed: int,
    early_stop: EarlyStop,
    withhold: float,
    guardrails: dict[str, Guardrail],
    previous: Previous | None = None,
) -> Study:
    """A study that is not stored yet. Its baselines take seconds on a large dataset: call it in a thread."""
    rule = filter_rule(filter_seen, dataset.facts)
    facts = {
        "baselines": baselines(dataset.path, rule),
        "filter": rule,
        "synthetic": dataset.synthetic,
        "cold": dataset.cold,
        "previous": previous.model_dump() if previous else None,
    }
    return Study(
        study_id=new_id("s"),
        created_at=datetime.now(UTC),
        dataset=dataset.name,
        dataset_hash=dataset.content_hash,
        split=dataset.split,
        facts=dataset.facts,
        backbone=space.backbone,
        metric=metric,
        preset=preset_name,
        space=space,
        filter_seen=filter_seen,
        max_trials=max_trials,
        budget_seconds=budget_seconds,
        trial_seconds=trial_seconds,
        gpu_seconds=gpu_seconds,
        policy=policy,
        seed=seed,
        early_stop=early_stop,
        withhold=withhold,
        guardrails=guardrails,
        brief=json.dumps(facts),
    )


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


def write_brief(memory: Memory, study: Study, snapshot_id: str | None = None) -> Brief:
    """The brief of a study. A read of memory, so it leaves a snapshot, unless it repeats the one given."""
    due = relevant_notes(memory, study)
    notes = [ranked for ranked in due if not is_withheld(study, ranked.note)]
    known = (study.space, study.facts, study.metric)
    names = {other.dataset_hash: other.dataset for other in memory.studies()}
    starts = memory.lore.starts(*known)
    claims = {belief: [memory.note(one) for one in belief.cites] for belief in memory.lore.beliefs(*known)}
    beliefs = [belief for belief, said in claims.items() if not any(is_withheld(study, note) for note in said)]
    memory.ledger.expose(study, [ranked.note for ranked in due] + [note for said in claims.values() for note in said])
    stored: dict[str, Any] = json.loads(study.brief)
    sigma = noise.prior(study.facts.measured_users)
    limits = study.model_dump(include=BUDGETS, exclude_none=True)
    facts = {name: rounded(value) for name, value in study.facts.model_dump().items() if value is not None}
    return Brief(
        dataset={"name": study.dataset, "split": study.split, "content_hash": study.dataset_hash, **facts}
        | {f"cold_{what}": number for what, number in stored.get("cold", {}).items()}
        | ({"synthetic": True} if stored["synthetic"] else {}),
        backbone=study.backbone,
        metric=study.metric,
        filter_seen=f"{study.filter_seen} ({stored['filter']})" if study.filter_seen == "auto" else study.filter_seen,
        space={field.name: field_line(field) for field in study.space.free()},
        default=study.space.default(),
        baselines={name: rounded_all(values) for name, values in stored["baselines"].items()},
        noise=noise_line(sigma, 1, 1),
        budget={name: float(limit) for name, limit in limits.items()},
        early_stop=study.early_stop,
        guardrails=study.limits,
        previous=stored.get("previous"),
        starts=[start_line(one, names) for one in starts],
        beliefs=[BeliefLine(field=b.field, value=b.value, gain=rounded(b.gain), cites=list(b.cites)) for b in beliefs],
        memory=[note_line(ranked) for ranked in notes],
        snapshot_id=snapshot_id or memory.take_snapshot(study.study_id, [ranked.note.heuristic_id for ranked in notes]),
    )


def shortened(brief: Brief, study: Study) -> Brief:
    """What start_study answers: baselines in the study's metric, and no words on fields without effect by default.

    The whole brief is a resource.
    """
    default, space = study.space.default(), dict(brief.space)
    for field in study.space.free():
        if not study.space.active(field, default):
            space[field.name] = space[field.name].split(";")[0]
    baselines = {name: {study.metric: values[study.metric]} for name, values in brief.baselines.items()}
    return brief.model_copy(update={"space": space, "baselines": baselines})


def start_line(start: Start, names: Mapping[str, str]) -> StartLine:
    """Advice with the names of the datasets that it comes from, by their content hash."""
    return StartLine(changes=start.changes, gain=rounded(start.gain), datasets=[names[one] for one in start.datasets])


def field_line(field: Field) -> str:
    """One field in few words: what is allowed, when it matters, what it is; its default stands beside, in `default`."""
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
    """A stored note with the reason why it is shown."""
    shown = ranked.note.model_dump(include={"heuristic_id", "kind", "text", "dataset", "backbone", "verdict"})
    return NoteLine(**shown, evidence=list(ranked.note.evidence), why=ranked.why)


def noise_line(sigma: noise.Sigma, candidate: int, against: int, found: noise.Comparison | None = None) -> Noise:
    """Seed noise for an answer, with the smallest believable gain: of `found`, or of so many trainings on each side."""
    width = noise.half_width(sigma, candidate, against)
    if found is not None and found.high > found.delta:
        width = found.high - found.delta
    return Noise(sigma=rounded(sigma.sigma), df=rounded(sigma.df), half_width=rounded(width))


def rounded(value: Any) -> Any:
    """Numbers to five significant digits: what a reader can use."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def rounded_all(values: Mapping[str, float]) -> dict[str, float]:
    """`rounded`, over the values of a mapping."""
    return {name: rounded(value) for name, value in values.items()}
