"""Opens a study: its space, baselines and budgets, from a request and a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memory.records import Study
from memory.store import Memory, new_id
from server.replay.tables import Tables
from server.settings import Settings
from server.study.admission import check_dataset, check_trainer, small_words
from server.study.guardrails import check_guardrails
from server.study.previous_version import previous_best
from server.study.replayed import check_request, recorded_study
from server.study.requests import StudyRequest
from trainers.contract.fields import space_of
from trainers.contract.metrics import filter_rule
from trainers.contract.presets import Preset, preset
from trainers.contract.space import Space
from trainers.contract.specs import SPECS
from trainers.data import Dataset, baselines, check_content, ensure
from trainers.external import registry


def study_space(
    backbone: str, preset_name: Preset, dataset: Dataset, wanted: Mapping[str, Any], trainers_dir: Path
) -> Space:
    """The space of a study: the preset's configuration as default, restricted to `wanted`.

    A trainer of the user's own takes its defaults from its file, whatever the preset. Raises SpaceError, TrainerError.
    """
    if backbone not in SPECS:
        return registry.find(trainers_dir, backbone).space.restrict(wanted)
    spec = preset(preset_name, backbone, dataset.facts)
    return space_of(SPECS[backbone], spec.model_dump()).restrict(wanted)


def open_study(memory: Memory, settings: Settings, request: StudyRequest, tables: Tables | None = None) -> Study:
    """Checks a request, computes the baselines of its dataset and stores the study. Takes seconds on a large dataset.

    `tables` answer the trials of a replay home: they decide the study's space and its first seed.

    Raises DataError, GuardrailError, SpaceError, TrainerError or ProtocolError if the request cannot be met; nothing
    is stored then.
    """
    if tables is not None:
        check_request(tables, request)
    dataset = ensure(settings.datasets_dir, request.dataset)
    check_content(dataset)
    if tables is None:
        check_dataset(dataset, request.allow_small)
    guardrails = check_guardrails(request.guardrails or {})
    recorded = None if tables is None else recorded_study(tables, request, dataset)
    if recorded is not None:
        space, request = recorded.space, request.model_copy(update={"seed": recorded.seed})
    else:
        space = study_space(request.backbone, request.preset, dataset, request.space or {}, settings.trainers_dir)
        check_trainer(request.backbone, request.filter_seen, settings.executor)
    rule = filter_rule(request.filter_seen, dataset.facts)
    previous = previous_best(memory, dataset, space, request.metric)
    facts = {
        "baselines": baselines(dataset.path, rule),
        "filter": rule,
        "synthetic": dataset.synthetic,
        "cold": dataset.cold,
        "recipe": dataset.recipe,
        "warnings": dataset.report.warnings or small_words(dataset),
        "previous": previous.model_dump() if previous else None,
        **({"replay": recorded.replay.model_dump()} if recorded is not None else {}),
        "request": request.model_dump(include={"space", "drive_options"}, exclude_none=True),
    }
    kept = request.model_dump(exclude={"dataset", "space", "guardrails", "withhold", "drive_options", "allow_small"})
    study = Study(
        **kept,
        study_id=new_id("s"),
        created_at=datetime.now(UTC),
        dataset=dataset.name,
        dataset_hash=dataset.content_hash,
        split=dataset.split,
        facts=dataset.facts,
        space=space,
        guardrails=guardrails,
        withhold=settings.withhold if request.withhold is None else request.withhold,
        brief=json.dumps(facts),
    )
    memory.add_study(study)
    return study
