"""Search policies replayed on tables of finished trainings: trainings to a target, success and regret, by policy.

python -m benchmarks.replay --tables DIR [--policies random,tpe,playbook] [--seeds 30] [--trainings 40] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.replay_loop import METRIC, play
from benchmarks.replay_measures import Run, Scale, expected_running_time, interval, success_rate, worth_of
from benchmarks.tables import table
from server.executors.recorded import Table, TableError, read
from server.policies import POLICIES, load
from server.policies.base import Brief, Observation, Policy, Proposal, first_trial, tried
from server.policies.racing import Racing
from server.policies.sampling import changes_between, every
from trainers.data import Dataset, add
from trainers.fields import space_of
from trainers.space import Config, Space
from trainers.spec import SPECS

FIXED: Config = {
    "num_heads": 2, "batch_size": 256, "max_length": 50, "max_epochs": 60, "patience": 4, "num_negatives": 500,
}  # fmt: skip
"""What all trainings of the tables had beside their columns."""
PAPER: dict[str, Config] = {
    "sasrec": {
        "hidden_dim": 128, "num_blocks": 1, "dropout": 0.2, "learning_rate": 3e-4, "loss": "sampled_softmax",
    },
    "hstu": {
        "hidden_dim": 128, "num_blocks": 1, "dropout": 0.5, "learning_rate": 3e-4, "normalize_embeddings": True,
    },
}  # fmt: skip
STARTS = ("strong", "paper")
"""The cells of the grid that every study begins at: nearest to the presets of these names."""
TARGETS = (0.5, 0.75, 0.9)
REGRETS = (5, 10, 20, 30)
HEADROOM = 2.0
"""In standard errors of a difference of means: what the best must be above the start, or there is nothing to find."""
RACING = "+racing"


class Grid:
    """The configurations of the grid in their order, after the start."""

    reflects = False

    def propose(self, space: Space, history: Sequence[Observation], brief: Brief, rng: Random) -> Proposal | None:
        if not history:
            return Proposal({})
        seen = tried(space, history)
        config = next((one for one in every(space) if space.hash(one) not in seen), None)
        if config is None:
            return None
        return Proposal(changes_between(space, history[0].config, config), parent=first_trial(history))


@dataclass(frozen=True)
class Cell:
    """One table with the space that begins at one start."""

    title: str
    dataset: Dataset
    table: Table
    space: Space
    means: dict[str, float | None]
    scale: Scale

    @property
    def headroom(self) -> float:
        """How far the best is above the start, in standard errors of such a difference."""
        seeds = min(len(group) for group in self.table.trainings.values())
        error = self.table.sigmas[METRIC] * (2 / seeds) ** 0.5
        return (self.scale.best / self.scale.default - 1) / error if self.scale.default and error else 0.0


def cells_of(folder: Path, datasets: Path, start: str) -> list[Cell]:
    """Every dataset of the tables with every backbone."""
    found: list[Cell] = []
    for path in sorted(folder.glob("*.txt")):
        dataset = add(datasets, path.stem, path)
        for backbone, spec in SPECS.items():
            try:
                recorded = read(folder / "trainings.parquet", space_of(spec), path.stem, FIXED)
            except TableError as none:
                print(none, file=sys.stderr)
                continue
            space = _starting(recorded.space, PAPER[backbone] if start == "paper" else {})
            means = {key: recorded.mean(key, METRIC) for key in recorded.configs}
            default = means.get(space.hash(space.default()))
            scale = Scale(default or 0.0, max(mean or 0.0 for mean in means.values()))
            found.append(Cell(f"{path.stem} {backbone}", dataset, recorded, space, means, scale))
    return found


def _starting(grid: Space, wanted: Config) -> Space:
    """The grid with those of the wanted values as its default that it has."""
    fields = [
        one.model_copy(update={"default": wanted[one.name]}) if wanted.get(one.name) in one.choices else one
        for one in grid.fields
    ]
    return grid.model_copy(update={"fields": tuple(fields)})


def policy(name: str) -> Policy:
    """The arm called `name`; with +racing its leaders are confirmed first."""
    inner = Grid() if name.removesuffix(RACING) == "grid" else load(name.removesuffix(RACING))
    return Racing(inner) if name.endswith(RACING) else inner


def replayed(cells: Sequence[Cell], name: str, seeds: int, trainings: int) -> list[Run]:
    """Every cell with every seed, paired over policies by both."""
    runs: list[Run] = []
    for cell in cells:
        for seed in range(seeds):
            book = play(cell.table, cell.space, cell.dataset.facts, lambda: policy(name), seed, trainings)
            runs.append(Run(worth_of(book.steps, cell.means, cell.scale), cell.title, seed))
    return runs


def summary(runs: Sequence[Run], budget: int) -> dict[str, Any]:
    """The numbers of one policy."""
    times = {target: expected_running_time(runs, target, budget) for target in TARGETS}
    return {
        "ert": {f"{target:g}": times[target] for target in TARGETS},
        "interval": interval(runs, TARGETS[-1], budget, Random(0)),
        "success": {f"{target:g}": success_rate(runs, target) for target in TARGETS},
        "regret": {str(count): fmean(run.regret(count) for run in runs) for count in REGRETS},
        "runs": len(runs),
    }


def lines_of(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The table's lines: fewest trainings to the last target first."""
    lines: list[list[str]] = []
    for name, one in sorted(found.items(), key=lambda pair: pair[1]["ert"][f"{TARGETS[-1]:g}"] or float("inf")):
        low, high = one["interval"]
        ends = f"{_trainings(low)} – {_trainings(high)}"
        times = [_trainings(time) for time in one["ert"].values()]
        lines.append([name, *times, ends, f"{one['success'][f'{TARGETS[-1]:g}']:.0%}",
                      *(f"{regret:.2f}" for regret in one["regret"].values())])  # fmt: skip
    return lines


def _trainings(count: float | None) -> str:
    return "∞" if count is None else f"{count:.1f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.replay", description=__doc__)
    parser.add_argument(
        "--tables", type=Path, required=True, metavar="DIR", help="trainings.parquet and NAME.txt files"
    )
    parser.add_argument("--policies", default="grid,random,random+racing,tpe,tpe+racing,playbook", metavar="A,B")
    parser.add_argument("--seeds", type=int, default=30, metavar="N")
    parser.add_argument("--trainings", type=int, default=40, metavar="N", help="replicates count, too")
    parser.add_argument("--json", action="store_true", dest="as_json")
    given = parser.parse_args(arguments)
    names = given.policies.split(",")
    if unknown := {name.removesuffix(RACING) for name in names} - {"grid", *POLICIES}:
        parser.error(f"--policies: there is no {', '.join(sorted(unknown))}; there are grid, {', '.join(POLICIES)}")
    answer: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        for start in STARTS:
            cells = cells_of(given.tables, Path(scratch), start)
            kept = [cell for cell in cells if cell.headroom > HEADROOM]
            dropped = [cell.title for cell in cells if cell not in kept]
            found: dict[str, dict[str, Any]] = {}
            for name in names if kept else ():
                print(f"from {start}: {name}", file=sys.stderr)
                found[name] = summary(replayed(kept, name, given.seeds, given.trainings), given.trainings)
            answer[start] = {"cells": [cell.title for cell in kept], "dropped": dropped, "policies": found}
    print(json.dumps(answer, indent=1) if given.as_json else page(answer, given.seeds, given.trainings))
    return 0


def page(answer: dict[str, Any], seeds: int, trainings: int) -> str:
    """A table for each start."""
    heads = ["policy", *(f"ERT {target:.0%}" for target in TARGETS), f"95 % of ERT {TARGETS[-1]:.0%}"]
    heads += [f"success {TARGETS[-1]:.0%}", *(f"regret at {count}" for count in REGRETS)]
    parts: list[str] = []
    for start, found in answer.items():
        dropped = f" Without headroom, and left out: {', '.join(found['dropped'])}." if found["dropped"] else ""
        parts.append(
            f"## From `{start}`\n\nTrainings, replicates included, until the leader's mean in the table is so much of "
            f"the way from start to best; {seeds} seeds in each of {', '.join(found['cells']) or 'no cell'}; at most "
            f"{trainings} trainings a study.{dropped}\n\n{table(heads, lines_of(found['policies']))}\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
