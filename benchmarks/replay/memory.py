"""Memory for a replayed study: what other studies left, its placebos, and the policy context with its advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.replay.cells import Cell
from benchmarks.replay.loop import METRIC, Replayed
from memory.advice.lessons import lessons_of
from memory.advice.starts import beliefs_of, starts_of
from memory.statistics.elsewhere import elsewhere_of
from memory.statistics.landscape import Landscape, Setting
from memory.statistics.landscape import Run as Training
from server.policies.base import PolicyContext
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Space

NONE = "none"
ARMS = (NONE, "best", "claims", "memory", "permuted", "flipped")
SETTING = Setting("replay", "replay")


def landscape_of(replay: Replayed, dataset_hash: str, facts: DatasetFacts, space: Space) -> Landscape:
    """The landscape that a replayed study leaves in memory."""
    land = Landscape(dataset_hash, space.backbone, facts)
    default = space.hash(space.default())
    hashes = {trial.trial_id: trial.config_hash for trial in replay.trials}
    for order, trial in enumerate(replay.trials):
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


def permuted(land: Landscape, random: Random) -> Landscape:
    """A placebo: the runs of each configuration are given to another one. The default keeps its runs."""
    names = [key for key, runs in land.runs.items() if not runs[0].is_default]
    shuffled = random.sample(names, len(names))
    runs = {
        key: [replace(run, config_hash=key[1]) for run in land.runs[other]]
        for key, other in zip(names, shuffled, strict=True)
    }
    return replace(land, runs={**land.runs, **runs}, _noises={}, effects={}, gains={})


def flipped(land: Landscape) -> Landscape:
    """A placebo: every gain over the default becomes an equally large loss."""
    default = fmean(run.scores[METRIC] for runs in land.runs.values() for run in runs if run.is_default)
    flipped_runs = {
        key: [replace(run, scores={METRIC: max(0.0, 2 * default - run.scores[METRIC])}) for run in runs]
        for key, runs in land.runs.items()
    }
    return replace(land, runs=flipped_runs, _noises={}, effects={}, gains={})


def advised(arm: str, lands: Sequence[Landscape], cell: Cell, seed: int, context: PolicyContext) -> PolicyContext:
    """The context with the advice that one arm takes from memory of the other datasets."""
    if arm == NONE:
        return context
    if arm == "permuted":
        lands = [permuted(land, Random(f"{seed}:{land.dataset_hash}")) for land in lands]
    if arm == "flipped":
        lands = [flipped(land) for land in lands]
    facts, space = cell.facts, cell.space
    starts = starts_of(lands, facts, space, METRIC) if arm != "claims" else []
    beliefs = beliefs_of(_claims(lands, space), lands, facts, space, METRIC) if arm != "best" else []
    elsewhere = elsewhere_of(lands, facts, METRIC) if arm not in ("best", "claims") else []
    return replace(context, starts=tuple(starts), beliefs=tuple(beliefs), elsewhere=tuple(elsewhere))


def _claims(lands: Sequence[Landscape], space: Space) -> list[Any]:
    fields = tuple(field.name for field in space.free())
    claims = {lesson.claim.text(): lesson.claim for land in lands for lesson in lessons_of(land, METRIC, fields)}
    return [(f"h-{number}", claim) for number, claim in enumerate(claims.values())]
