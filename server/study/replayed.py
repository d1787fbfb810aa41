"""Studies in a replay home: what they may ask for, their space, and which configurations were recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from memory.records import Study
from server.replay.nearest import nearest, with_nearest_default
from server.replay.recorded import Table, TableError
from server.replay.tables import Tables
from server.study.admission import ProtocolError
from server.study.requests import StudyRequest
from trainers.contract.presets import preset
from trainers.contract.space import Config, Space, Value
from trainers.data import Dataset

NOTICE = "Replay: results come from recorded trainings, and nothing is trained."


class Replay(BaseModel):
    """What the record of a study keeps of its replay.

    `seed` is the one that was asked for, with which policies draw. `words` is the notice in the brief.
    """

    model_config = ConfigDict(frozen=True)

    tables: str
    seed: int
    words: str


class RecordedStudy(BaseModel):
    """The parts of a new study that the tables decide. `seed` is the first seed that its trials take."""

    model_config = ConfigDict(frozen=True)

    space: Space
    seed: int
    replay: Replay


def replay_of(study: Study) -> Replay | None:
    """The replay that answers the study's trials; None where they are trained."""
    stored = json.loads(study.brief).get("replay")
    return None if stored is None else Replay.model_validate(stored)


def check_request(tables: Tables, request: StudyRequest) -> None:
    """Raises ProtocolError for a dataset, backbone, metric, guardrail or filter that was not recorded."""
    recorded = tables.recorded
    if request.dataset not in recorded:
        raise ProtocolError(
            f"{request.dataset!r} was not recorded, and a replay home trains nothing; recorded are "
            f"{', '.join(sorted(recorded))}."
        )
    if request.backbone not in recorded[request.dataset]:
        raise ProtocolError(
            f"{request.backbone!r} was not recorded on {request.dataset!r}, and a replay home trains nothing; recorded "
            f"there: {', '.join(recorded[request.dataset])}."
        )
    metrics = _table(tables, request.dataset, request.backbone).metrics
    if request.metric not in metrics:
        raise ProtocolError(
            f"{request.metric} was not recorded for {request.backbone} on {request.dataset!r}; recorded are "
            f"{', '.join(metrics) or 'no metrics'}."
        )
    for name in request.guardrails or {}:
        if name not in (*metrics, "parameters"):
            raise ProtocolError(
                f"{name} was not recorded, so nothing could be held to a guardrail on it; recorded are "
                f"{', '.join((*metrics, 'parameters'))}."
            )
    if request.filter_seen != "auto":
        raise ProtocolError(
            f"filter_seen={request.filter_seen!r} cannot be chosen here: recorded trainings keep the filter that they "
            "were ranked with. Leave it out."
        )


def recorded_study(tables: Tables, request: StudyRequest, dataset: Dataset) -> RecordedStudy:
    """The space, the default and the first seed of a study, all from the table. Raises ProtocolError, SpaceError."""
    if not tables.is_recorded(dataset.name, dataset.content_hash):
        raise ProtocolError(
            f"{dataset.name!r} is not the dataset that was recorded under this name: remove it with `virtualmle data "
            f"remove {dataset.name}`, and the next `--replay` imports the recorded one."
        )
    table = _table(tables, request.dataset, request.backbone)
    wanted: Config = preset(request.preset, request.backbone, dataset.facts).model_dump()
    space = with_nearest_default(table, table.space.restrict(request.space or {}), wanted)
    seed = request.seed if request.seed or request.seed in table.seeds else table.seeds[0]
    seeds = ", ".join(map(str, table.seeds))
    words = [
        NOTICE,
        f"The space holds the {len(table.configs)} recorded configurations, with the seeds {seeds}; another seed is "
        "drawn around their mean, and the answer says `simulated seed`. Limits in seconds count the wall clock.",
        f"Fields other than {', '.join(table.named)} are not in the tables and stand at their defaults.",
        *_moved(table, request, space, wanted),
        *([f"The study begins with seed {seed}, since seed {request.seed} was not recorded."] * (seed != request.seed)),
    ]
    return RecordedStudy(
        space=space, seed=seed, replay=Replay(tables=str(tables.folder), seed=request.seed, words=" ".join(words))
    )


def _moved(table: Table, request: StudyRequest, space: Space, wanted: Mapping[str, Value]) -> list[str]:
    """Says that the default is not the preset, and where recorded fields differ; nothing where it is the preset."""
    default = space.default()
    differ = [
        field.name
        for field in space.fields
        if space.active(field, default) and default[field.name] != wanted[field.name]
    ]
    if not differ:
        return []
    moved = [f"{name} {wanted[name]} → {default[name]}" for name in differ if name in table.named]
    with_moves = f", with {', '.join(moved)}" if moved else ""
    return [
        f"The preset {request.preset!r} itself was not recorded: the default is the nearest recorded configuration"
        f"{with_moves}."
    ]


def check_recorded(tables: Tables, study: Study, config: Config) -> None:
    """Raises ProtocolError for a configuration of the study's space that was not recorded."""
    table = _table(tables, tables.name_of(study.dataset_hash), study.backbone)
    if table.space.hash(config) in table.configs:
        return
    free = [field for field in study.space.free() if study.space.active(field, config)]
    asked = ", ".join(f"{field.name}={json.dumps(config[field.name])}" for field in free)
    near = nearest(table, study.space, config)
    offer = (
        {field.name: near[field.name] for field in study.space.free() if near[field.name] != config[field.name]}
        if near
        else {}
    )
    raise ProtocolError(
        f"{asked} was not recorded, and a replay home trains nothing. {len(table.configs)} configurations were; the "
        f"nearest one differs by {json.dumps(offer)}."
    )


def _table(tables: Tables, dataset: str, backbone: str) -> Table:
    try:
        return tables.table(dataset, backbone)
    except TableError as error:
        raise ProtocolError(str(error)) from None
