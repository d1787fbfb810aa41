"""What a replayed study knows of the others: memory as they left it, its placebos, and the brief that tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.replay_cells import Cell
from benchmarks.replay_loop import METRIC, Replayed
from memory.distill import lessons_of
from memory.elsewhere import elsewhere_of
from memory.landscape import Landscape, Setting
from memory.landscape import Run as Training
from memory.priors import beliefs_of, starts_of
from server.policies.base import Brief
from trainers.space import Space
from trainers.spec import DatasetFacts

NONE = "none"
ARMS = (NONE, "best", "claims", "memory", "permuted", "flipped")
SETTING = Setting("replay", "replay")


def landscape_of(book: Replayed, dataset_hash: str, facts: DatasetFacts, space: Space) -> Landscape:
    """What a replayed study leaves in memory."""
    land = Landscape(dataset_hash, space.backbone, facts)
    default = space.hash(space.default())
    hashes = {trial.trial_id: trial.config_hash for trial in book.trials}
    for order, trial in enumerate(book.trials):
        if not trial.scored:
            continue
        parent = hashes.get(trial.parent or "")
        run = Training(
            trial_id=f"{dataset_hash}:{trial.trial_id}", setting=SETTING, config_hash=trial.config_hash,
            seed=trial.seed, weights=f"{dataset_hash}:{trial.trial_id}", scores=trial.validation,
            order=order, parent=parent if parent != trial.config_hash else None,
            is_default=trial.config_hash == default,
        )  # fmt: skip
        land.add(run, trial.config, space.rests(trial.config))
    return land


def permuted(land: Landscape, draw: Random) -> Landscape:
    """The runs of each configuration given to another one, the default's left where they are."""
    names = [key for key, runs in land.runs.items() if not runs[0].is_default]
    dealt = draw.sample(names, len(names))
    runs = {
        key: [replace(one, config_hash=key[1]) for one in land.runs[other]]
        for key, other in zip(names, dealt, strict=True)
    }
    return replace(land, runs={**land.runs, **runs}, _noises={}, effects={}, gains={})


def flipped(land: Landscape) -> Landscape:
    """Every gain over the default turned into as large a loss."""
    default = fmean(one.scores[METRIC] for runs in land.runs.values() for one in runs if one.is_default)
    turned = {
        key: [replace(one, scores={METRIC: max(0.0, 2 * default - one.scores[METRIC])}) for one in runs]
        for key, runs in land.runs.items()
    }
    return replace(land, runs=turned, _noises={}, effects={}, gains={})


def advised(arm: str, lands: Sequence[Landscape], cell: Cell, seed: int, brief: Brief) -> Brief:
    """The brief with what memory of the other datasets knows, in one arm."""
    if arm == NONE:
        return brief
    if arm == "permuted":
        lands = [permuted(land, Random(f"{seed}:{land.dataset_hash}")) for land in lands]
    if arm == "flipped":
        lands = [flipped(land) for land in lands]
    facts, space = cell.facts, cell.space
    starts = starts_of(lands, facts, space, METRIC) if arm != "claims" else []
    beliefs = beliefs_of(_claims(lands, space), lands, facts, space, METRIC) if arm != "best" else []
    elsewhere = elsewhere_of(lands, facts, METRIC) if arm not in ("best", "claims") else []
    return replace(brief, starts=tuple(starts), beliefs=tuple(beliefs), elsewhere=tuple(elsewhere))


def _claims(lands: Sequence[Landscape], space: Space) -> list[Any]:
    fields = tuple(field.name for field in space.free())
    found = {lesson.claim.text(): lesson.claim for land in lands for lesson in lessons_of(land, METRIC, fields)}
    return [(f"h-{number}", claim) for number, claim in enumerate(found.values())]
