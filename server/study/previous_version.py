"""Newer versions of a dataset: a study tries the older version's winner first, and says whether it still wins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from memory.records import Study, Trial
from memory.store import Memory
from server.answers import Previous
from server.study import standings, verdicts
from server.study.history import read_history
from server.study.standings import Standing
from server.study.verdict_words import interval_words
from trainers.contract.space import Config, Space, SpaceError
from trainers.data import Dataset


def previous_best(memory: Memory, dataset: Dataset, space: Space, metric: str) -> Previous | None:
    """The choice of the newest finished study on the older version, as changes to the default of `space`.

    None if there is no older version, no such study of this backbone and metric, or `space` does not admit the choice.
    """
    for study in memory.studies():  # newest first
        same = (study.dataset_hash, study.backbone, study.metric) == (dataset.updates, space.backbone, metric)
        if dataset.updates is None or not same or not study.finished:
            continue
        best = read_history(memory, study.study_id).incumbent
        if best is None:
            continue
        changes = _admitted(space, best.config)
        return None if changes is None else Previous(study_id=study.study_id, changes=changes)
    return None


def _admitted(space: Space, config: Config) -> Config | None:
    """The fields of `config` that differ from the default of `space`, without those that `space` fixes or rejects."""
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


def _stored_previous(study: Study) -> Previous | None:
    """The winner on the older version, as stored when the study was opened."""
    fields: dict[str, Any] | None = json.loads(study.brief).get("previous")
    return None if fields is None else Previous.model_validate(fields)


def still_wins(study: Study, trials: Sequence[Trial], chosen: Standing) -> str:
    """A sentence on whether the older version's winner still wins; empty if there is no older version."""
    previous = _stored_previous(study)
    if previous is None:
        return ""
    changes = ", ".join(f"{name}={json.dumps(value)}" for name, value in previous.changes.items()) or "the default"
    winner = f"What won on the older version of the dataset (study {previous.study_id}: {changes})"
    wanted = study.space.hash(study.space.apply(study.space.default(), previous.changes))
    if chosen.config_hash == wanted:
        return f" {winner} still wins."
    standing = next((other for other in standings.ranked(study, trials) if other.config_hash == wanted), None)
    if standing is None:
        return f" {winner} has no score here."
    comparison = verdicts.ranking_of(study, trials).compare(standing, chosen)
    result = {"worse": "is worse than what wins now", "equivalent": "is equivalent to what wins now"}.get(
        comparison.verdict, "is not told apart from what wins now"
    )
    return f" {winner} does not lead here: it {result} ({interval_words(comparison)})."
