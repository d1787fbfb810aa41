"""A dataset that is a newer version of another: what won there is tried first, and whether it still wins is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from memory.records import Study, Trial
from memory.store import Memory
from server import studies
from server.answers import Previous
from server.studies import Standing
from trainers.data import Dataset
from trainers.space import Config, Space, SpaceError


def previous_best(memory: Memory, dataset: Dataset, space: Space, metric: str) -> Previous | None:
    """What the newest finished study of the older version chose, as changes of the default of `space`.

    None where there is no older version, no such study of this backbone and metric, or nothing of it is admitted.
    """
    for study in memory.studies():  # newest first
        same = (study.dataset_hash, study.backbone, study.metric) == (dataset.updates, space.backbone, metric)
        if dataset.updates is None or not same or not study.finished:
            continue
        best = studies.chosen(study, memory.trials(study.study_id))
        if best is None:
            continue
        changes = _admitted(space, best.config)
        return None if changes is None else Previous(study_id=study.study_id, changes=changes)
    return None


def _admitted(space: Space, config: Config) -> Config | None:
    """The fields of `config` that differ from the default of `space`, those left out that it fixes or refuses."""
    wanted = space.default()
    for field in space.free():
        try:
            wanted[field.name] = field.check(config.get(field.name, field.default))
        except SpaceError:
            continue
    try:
        wanted = space.check(wanted)
    except SpaceError:
        return None
    default = space.default()
    return {
        field.name: wanted[field.name]
        for field in space.free()
        if wanted[field.name] != default[field.name] and space.active(field, wanted)
    }


def stored(study: Study) -> Previous | None:
    """What the study was told of the older version when it was opened."""
    found: dict[str, Any] | None = json.loads(study.brief).get("previous")
    return None if found is None else Previous.model_validate(found)


def still_wins(study: Study, trials: Sequence[Trial], chosen: Standing) -> str:
    """A sentence on whether what won on the older version still does; empty where there is none."""
    previous = stored(study)
    if previous is None:
        return ""
    what = ", ".join(f"{name}={json.dumps(value)}" for name, value in previous.changes.items()) or "the default"
    named = f"What won on the older version of the dataset (study {previous.study_id}: {what})"
    wanted = study.space.hash(study.space.apply(study.space.default(), previous.changes))
    if chosen.config_hash == wanted:
        return f" {named} still wins."
    own = next((found for found in studies.standings(study, trials) if found.config_hash == wanted), None)
    if own is None:
        return f" {named} has no score here."
    found = studies.compared(study, own, chosen, studies.noise_of(study, trials))
    told = {"worse": "is worse by more than seed noise"}.get(found.verdict, "is not told apart from what wins now")
    return f" {named} no longer leads on validation: it {told} ({found.delta:+.1%})."
