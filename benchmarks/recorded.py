"""Makes memory/statistics/recorded.json: what recorded tables of trainings say of seed noise and of gains.

python -m benchmarks.recorded --tables DIR[,DIR…] [--leave-out DATASET] [--out FILE]

A table is a folder as benchmarks.table makes it: trainings.parquet, and the users of each dataset in NAME.txt. Of every
dataset and backbone with several seeds it takes
- seed noise near the best: the scatter of configurations within 15 % of the best, scaled to 5,000 users; the median
  over tables, and degrees of freedom by how much the tables differ beyond what their replicates explain;
- its excess: how much more configurations scatter further below the best, which more users do not lessen;
- gains: by how much configurations differ from a good one that shares all but one or two fields, measured on seeds
  that did not pick the good one, as a mixture of half-normals (expectation maximisation, noise taken off).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, pvariance

import duckdb
import numpy as np

from memory.statistics.noise import PRIOR_USERS, log_score, started
from memory.statistics.recorded import FILE, Gains, Recorded, Table

COMMAND = "python -m benchmarks.recorded"
METRIC = "ndcg@10"
NEAR = 0.15
"""A configuration is near the best if its mean score is at most this share below it."""
LEVELS = (0.92, 0.825, 0.75, 0.6, 0.35)
"""Scores over the best at which the excess is stated."""
EDGES = (1.01, 0.85, 0.8, 0.7, 0.5, 0.2)
SCALES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5.12)
GOOD = 0.3
"""The share of configurations, by their first seed, from which gains are measured."""
FIELDS = 2
"""Gains are measured between configurations that differ in at most this many fields."""
EVEN = 0.1
"""The share of the mixture that is spread evenly over its scales, since tables never hold every gain."""
ROUNDS = 300
LEAST_BETWEEN = 0.25
"""The least variance of the log variance between tables, as a quarter of sigma; few tables may agree by chance."""
Key = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """The trainings of one dataset and backbone: log scores by configuration, oldest seed first."""

    dataset: str
    backbone: str
    users: int
    scores: Mapping[Key, Sequence[float]]

    @property
    def best(self) -> float:
        return max(fmean(values) for values in self.scores.values())

    @property
    def scale(self) -> float:
        """What brings its noise to PRIOR_USERS users."""
        return math.sqrt(self.users / PRIOR_USERS)


def cells(folder: Path) -> list[Cell]:
    """The cells of a folder of tables."""
    path = str(folder / "trainings.parquet").replace("'", "''")
    with duckdb.connect() as connection:
        names = [str(row[0]) for row in connection.execute(f"DESCRIBE SELECT * FROM '{path}'").fetchall()]
        fields = names[names.index("seed") + 1 : names.index("status")]
        chosen = ", ".join(f'"{name}"' for name in ["dataset", "backbone", "seed", METRIC, *fields])
        rows = connection.execute(f"SELECT {chosen} FROM '{path}' ORDER BY seed").fetchall()
    found: dict[tuple[str, str], dict[Key, list[float]]] = defaultdict(lambda: defaultdict(list))
    users: dict[str, int] = {}
    for dataset, backbone, _, score, *values in rows:
        if dataset not in users:
            with (folder / f"{dataset}.txt").open(encoding="utf-8") as lines:
                users[dataset] = sum(1 for _ in lines)
        found[dataset, backbone][tuple(map(str, values))].append(log_score(score or 0.0, users[dataset]))
    return [Cell(dataset, backbone, users[dataset], scores) for (dataset, backbone), scores in found.items()]


def variance(cell: Cell, high: float, low: float) -> tuple[float, int]:
    """Pooled variance over seeds of the configurations whose mean is `low` to `high` of the best, with its freedom."""
    squares, df = 0.0, 0
    for values in cell.scores.values():
        logs = started(values)
        level = math.exp(fmean(values) - cell.best)
        if len(logs) > 1 and low <= level < high:
            squares += pvariance(logs) * len(logs)
            df += len(logs) - 1
    return (squares / df if df else 0.0), df


def noise(found: Sequence[Cell]) -> tuple[float, float]:
    """Seed noise near the best at PRIOR_USERS users, and its degrees of freedom."""
    near = [(cell, *variance(cell, 1.01, 1 - NEAR)) for cell in found]
    near = [(cell, value, df) for cell, value, df in near if df > 1 and value > 0]
    logs = [math.log(value * cell.scale**2) for cell, value, _ in near]
    sampling = fmean(2 / df for _, _, df in near)  # the variance of a log variance with df degrees of freedom
    between = max(pvariance(logs) * len(logs) / (len(logs) - 1) - sampling, LEAST_BETWEEN)
    return math.exp(median(logs) / 2), round(2 / between, 1)


def excess(found: Sequence[Cell]) -> tuple[tuple[float, float], ...]:
    """Noise beyond that near the best, by log level, ascending: what configurations of each level scatter more.

    Both variances are geometric means over tables, weighted by degrees of freedom at that level.
    """
    points: list[tuple[float, float]] = [(0.0, 0.0)]
    for place, level in enumerate(LEVELS):
        logs: list[tuple[float, float, int]] = []
        for cell in found:
            near, near_df = variance(cell, 1.01, 1 - NEAR)
            here, df = variance(cell, EDGES[place], EDGES[place + 1])
            if near_df > 1 and df > 1 and near > 0 and here > 0:
                logs.append((math.log(here), math.log(near), df))
        beyond = points[-1][1]
        if total := sum(df for *_, df in logs):
            here, near = (math.exp(sum(one[side] * one[2] for one in logs) / total) for side in (0, 1))
            beyond = max(math.sqrt(max(here - near, 0.0)), beyond)
        points.append((math.log(level), beyond))
    return tuple((round(level, 4), round(beyond, 4)) for level, beyond in reversed(points))


def differences(cell: Cell, sigma: float) -> list[tuple[float, float]]:
    """(difference of log means, its standard error) from good configurations to their neighbours."""
    usable = {key: values for key, values in cell.scores.items() if len(values) > 1}
    good = sorted(usable, key=lambda key: -usable[key][0])[: max(1, round(GOOD * len(usable)))]
    pairs: list[tuple[float, float]] = []
    for one in good:
        for other in usable:
            if one != other and sum(a != b for a, b in zip(one, other, strict=True)) <= FIELDS:
                first, second = usable[one][1:], usable[other][1:]
                error = sigma / cell.scale * math.sqrt(1 / len(first) + 1 / len(second))
                pairs.append((fmean(second) - fmean(first), error))
    return pairs


def mixture(pairs: Sequence[tuple[float, float]]) -> Gains:
    """The half-normals behind noisy differences, by expectation maximisation."""
    side = np.geomspace(1e-4, 5, 400)
    grid = np.concatenate([-side[::-1], side])
    width = np.gradient(grid)
    scales = np.array(SCALES)[:, None]
    normal = 2 * np.exp(-0.5 * (grid / scales) ** 2) / (scales * math.sqrt(2 * math.pi))
    parts = np.concatenate([np.where(grid < 0, normal, 0), np.where(grid > 0, normal, 0)]) * width
    observed, error = np.array(pairs).T
    likelihood = np.stack(
        [np.exp(-0.5 * ((one - grid) / scale) ** 2) / scale for one, scale in zip(observed, error, strict=True)]
    )
    likelihood = likelihood @ parts.T
    weights = np.full(2 * len(SCALES), 1 / (2 * len(SCALES)))
    for _ in range(ROUNDS):
        share = likelihood * weights
        weights = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
    weights = (1 - EVEN) * weights + EVEN / len(weights)
    down, up = weights[: len(SCALES)], weights[len(SCALES) :]
    excess = np.maximum(up - down, 0) / 2  # a gain of any size is no likelier than a loss of that size
    sides = ([round(float(weight), 4) for weight in side] for side in (down + excess, up - excess))
    return Gains(scales=SCALES, down=tuple(next(sides)), up=tuple(next(sides)))


def made(found: Sequence[Cell], command: str) -> Recorded:
    """The prior from these cells."""
    sigma, df = noise(found)
    pairs = [pair for cell in found for pair in differences(cell, sigma)]
    tables = tuple(
        Table(
            dataset=cell.dataset,
            backbone=cell.backbone,
            trainings=sum(map(len, cell.scores.values())),
            users=cell.users,
        )
        for cell in found
    )
    return Recorded(
        version=1, command=command, metric=METRIC, tables=tables, sigma=round(sigma, 4), df=df, excess=excess(found),
        gains=mixture(pairs),
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", required=True, metavar="DIR,DIR", help="folders with trainings.parquet")
    parser.add_argument("--leave-out", metavar="DATASET", help="a dataset that plays no part")
    parser.add_argument("--out", type=Path, default=FILE, metavar="FILE")
    options = parser.parse_args(arguments)
    found = [cell for folder in options.tables.split(",") for cell in cells(Path(folder))]
    found = [cell for cell in found if cell.dataset != options.leave_out]
    names = ",".join(Path(folder).name for folder in options.tables.split(","))
    words = f"{COMMAND} --tables {names}" + (f" --leave-out {options.leave_out}" if options.leave_out else "")
    prior = made(found, words)
    options.out.write_text(prior.model_dump_json(indent=1) + "\n", encoding="utf-8")
    print(f"{options.out}: sigma {prior.sigma:.1%} ({prior.df:g} degrees of freedom) from {len(found)} tables.")
    print(f"excess {prior.excess}\ndown {prior.gains.down}\nup {prior.gains.up}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
