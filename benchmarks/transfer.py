"""What memory of other datasets saves on a new one, by replaying tables of finished trainings.

python -m benchmarks.transfer --tables DIR [--policies playbook,hybrid,tpe+racing] [--seeds 30] [--trainings 40]
                              [--jobs 2] [--json] [--write]

Leave-one-dataset-out, with frozen memory. On each other dataset a study of the policy `hybrid` without memory was
trained first (--learned trainings), with the same seed; what it leaves is all that memory holds. Arms: `none`; `best`,
the best configurations of the other datasets without claims, which is the honest rival; `claims`, what a deterministic
distiller claims of single fields; `memory`, both, as the server advises them; and two placebos, `permuted` (the scores
of each other dataset dealt out among its configurations anew) and `flipped` (its gains over the default turned into
losses). Start, targets and counting are those of benchmarks.replay.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.replay import HEADROOM, STARTS, Cell, cells_of, policy
from benchmarks.replay_loop import METRIC, Replayed, play
from benchmarks.replay_measures import RESAMPLES, Run, expected_running_time, success_rate, worth_of
from benchmarks.tables import table
from memory.distill import lessons_of
from memory.elsewhere import elsewhere_of
from memory.landscape import Landscape, Setting
from memory.landscape import Run as Training
from memory.priors import beliefs_of, starts_of
from server.policies.base import Brief
from trainers.space import Space
from trainers.spec import DatasetFacts

PAGE = Path(__file__).parents[1] / "docs" / "transfer.md"
ARMS = ("none", "best", "claims", "memory", "permuted", "flipped")
TARGET = 0.9
HEAD = """# What memory of other datasets saves

Leave-one-dataset-out on tables of finished trainings: a study of the policy `hybrid` was replayed on each other dataset
first, with the same seed, and what it left is all that memory holds. `best` are the best configurations of the other
datasets without claims, `claims` what a distiller claims of single fields, `memory` both, `permuted` and `flipped` are
placebos (scores dealt out anew among configurations; gains turned into losses). "Times fewer" is the ERT of the same
policy without memory by that with it, paired by cell and seed: below 1, memory costs trainings. "Later than none"
counts the studies that it made slower.

"""
TEACHER = "hybrid"
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
    """The brief with what memory of the other datasets advises, in one arm."""
    if arm == "none":
        return brief
    if arm == "permuted":
        lands = [permuted(land, Random(f"{seed}:{land.dataset_hash}")) for land in lands]
    if arm == "flipped":
        lands = [flipped(land) for land in lands]
    facts, space = cell.dataset.facts, cell.space
    starts = starts_of(lands, facts, space, METRIC) if arm != "claims" else []
    beliefs = beliefs_of(_claims(lands, space), lands, facts, space, METRIC) if arm != "best" else []
    elsewhere = elsewhere_of(lands, facts, METRIC) if arm not in ("best", "claims") else []
    return replace(brief, starts=tuple(starts), beliefs=tuple(beliefs), elsewhere=tuple(elsewhere))


def _claims(lands: Sequence[Landscape], space: Space) -> list[Any]:
    fields = tuple(field.name for field in space.free())
    found = {lesson.claim.text(): lesson.claim for land in lands for lesson in lessons_of(land, METRIC, fields)}
    return [(f"h-{number}", claim) for number, claim in enumerate(found.values())]


def replayed(
    cells: Sequence[Cell], policies: Sequence[str], trainings: int, learned: int, seed: int
) -> list[tuple[str, str, Run]]:
    """Of one seed: every policy with every arm on every cell that has headroom."""
    lands = {
        cell.title: landscape_of(
            play(cell.table, cell.space, cell.dataset.facts, lambda: policy(TEACHER), seed, learned),
            cell.dataset.content_hash,
            cell.dataset.facts,
            cell.space,
        )
        for cell in cells
    }
    found: list[tuple[str, str, Run]] = []
    for cell in cells:
        if cell.headroom <= HEADROOM:
            continue
        others = [
            lands[other.title]
            for other in cells
            if other.space.backbone == cell.space.backbone and other.title != cell.title
        ]
        for arm in ARMS:
            advise = partial(advised, arm, others, cell, seed)
            for name in policies:
                book = play(cell.table, cell.space, cell.dataset.facts, partial(policy, name), seed, trainings, advise)
                found.append((name, arm, Run(worth_of(book.steps, cell.means, cell.scale), cell.title, seed)))
    return found


def summary(runs: Sequence[Run], none: Sequence[Run], budget: int) -> dict[str, Any]:
    """One policy with one arm, beside the same policy without memory on the same cells and seeds."""
    time, base = (expected_running_time(one, TARGET, budget) for one in (runs, none))
    pairs = list(zip(runs, none, strict=True))
    later = [_waited(run, budget) > _waited(other, budget) for run, other in pairs]
    low, high = _ratio_interval(pairs, budget, Random(0))
    return {
        "ert": time, "ratio": base / time if time and base else None, "interval": (low, high),
        "success": success_rate(runs, TARGET), "later": fmean(later),
        "regret": {str(count): fmean(run.regret(count) for run in runs) for count in (2, 5, 10, 20)},
        "runs": len(runs),
    }  # fmt: skip


def _waited(run: Run, budget: int) -> int:
    hit = run.hit(TARGET)
    return budget + 1 if hit is None else hit


def _ratio_interval(pairs: Sequence[tuple[Run, Run]], budget: int, draw: Random) -> tuple[float | None, float | None]:
    """A bootstrap interval of how many times fewer trainings, over paired seeds within each cell."""
    cells: dict[str, list[tuple[Run, Run]]] = {}
    for pair in pairs:
        cells.setdefault(pair[0].cell, []).append(pair)
    found: list[float] = []
    for _ in range(RESAMPLES):
        sample = [pair for group in cells.values() for pair in draw.choices(group, k=len(group))]
        with_memory = expected_running_time([run for run, _ in sample], TARGET, budget)
        without = expected_running_time([other for _, other in sample], TARGET, budget)
        if with_memory and without:
            found.append(without / with_memory)
    if not found:
        return None, None
    found.sort()
    return found[round((len(found) - 1) * 0.025)], found[round((len(found) - 1) * 0.975)]


def summaries(runs: Sequence[tuple[str, str, Run]], policies: Sequence[str], budget: int) -> dict[str, Any]:
    """By policy and arm."""
    chosen: Callable[[str, str], list[Run]] = lambda name, arm: [  # noqa: E731
        run for its, other, run in runs if (its, other) == (name, arm)
    ]
    return {name: {arm: summary(chosen(name, arm), chosen(name, "none"), budget) for arm in ARMS} for name in policies}


def page(answer: dict[str, Any], seeds: int, trainings: int) -> str:
    """A table for each start."""
    heads = ["policy", "memory", "ERT 90%", "times fewer", "95 %", "success", "later than none",
             "regret at 2", "5", "10", "20"]  # fmt: skip
    parts: list[str] = []
    for start, found in answer.items():
        dropped = f" Without headroom, and left out: {', '.join(found['dropped'])}." if found["dropped"] else ""
        lines = [
            [name, arm, _number(one["ert"]), _number(one["ratio"], 2), _ends(one["interval"]), f"{one['success']:.0%}",
             f"{one['later']:.0%}", *(f"{regret:.2f}" for regret in one["regret"].values())]
            for name, arms in found["policies"].items()
            for arm, one in arms.items()
        ]  # fmt: skip
        parts.append(
            f"## From `{start}`\n\n{seeds} seeds in each of {', '.join(found['cells']) or 'no cell'}; at most "
            f"{trainings} trainings a study.{dropped}\n\n{table(heads, lines, 2)}\n"
        )
    return "\n".join(parts)


def _number(value: float | None, digits: int = 1) -> str:
    return "∞" if value is None else f"{value:.{digits}f}"


def _ends(interval: tuple[float | None, float | None]) -> str:
    return " – ".join(_number(end, 2) for end in interval)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tables", type=Path, required=True, metavar="DIR", help="trainings.parquet and NAME.txt files"
    )
    parser.add_argument("--policies", default="playbook,hybrid,tpe+racing", metavar="A,B")
    parser.add_argument("--seeds", type=int, default=30, metavar="N")
    parser.add_argument("--trainings", type=int, default=40, metavar="N", help="replicates count, too")
    parser.add_argument("--learned", type=int, default=30, metavar="N", help="trainings on each other dataset")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    given = parser.parse_args(arguments)
    names = given.policies.split(",")
    answer: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch, ProcessPoolExecutor(given.jobs) as pool:
        for start in STARTS:
            cells = cells_of(given.tables, Path(scratch), start)
            work = partial(replayed, cells, names, given.trainings, given.learned)
            runs = [one for part in pool.map(work, range(given.seeds)) for one in part]
            kept = [cell.title for cell in cells if cell.headroom > HEADROOM]
            dropped = [cell.title for cell in cells if cell.title not in kept]
            found = summaries(runs, names, given.trainings) if kept else {}
            answer[start] = {"cells": kept, "dropped": dropped, "policies": found}
    text = page(answer, given.seeds, given.trainings)
    if given.write:
        words = f"python -m benchmarks.transfer --tables DIR --seeds {given.seeds} --policies {given.policies}"
        PAGE.write_text(f"{HEAD}{text}\nAgain: `{words}`\n", encoding="utf-8")
    print(json.dumps(answer, indent=1) if given.as_json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
