"""What replayed studies come to: trainings to a target, success, regret, with intervals. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from benchmarks.replay_loop import Step

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Scale:
    """A cell's targets: 0 is the default's mean in the table, 1 that of its best configuration."""

    default: float
    best: float

    def normal(self, mean: float | None) -> float:
        """A table's mean on this scale; what never scored is as far below as zero."""
        return ((mean or 0.0) - self.default) / (self.best - self.default)


@dataclass(frozen=True)
class Run:
    """The leader's worth after each training, on the scale of its cell."""

    worth: tuple[float, ...]
    cell: str
    seed: int

    def hit(self, target: float) -> int | None:
        """Trainings until the leader is worth `target`, judged by the table's mean and not by what was seen."""
        return next((count for count, worth in enumerate(self.worth, 1) if worth >= target), None)

    def regret(self, trainings: int) -> float:
        """What the leader lacks to the best after so many trainings."""
        return 1 - self.worth[min(trainings, len(self.worth)) - 1]


def worth_of(steps: Sequence[Step], means: dict[str, float | None], scale: Scale) -> tuple[float, ...]:
    """What the leader is worth after each step."""
    return tuple(scale.normal(means[step.leading]) for step in steps)


def expected_running_time(runs: Sequence[Run], target: float, budget: int) -> float | None:
    """Trainings spent by all runs until they hit or ended, by each hit; None where none hits.

    A run that ended of itself without a hit is counted with the whole budget: waiting longer would not have helped.
    """
    hits = [run.hit(target) for run in runs]
    successes = sum(hit is not None for hit in hits)
    return sum(hit if hit is not None else budget for hit in hits) / successes if successes else None


def success_rate(runs: Sequence[Run], target: float) -> float:
    """The share of runs whose leader was worth `target` at some time."""
    return fmean(run.hit(target) is not None for run in runs)


def interval(runs: Sequence[Run], target: float, budget: int, draw: Random) -> tuple[float | None, float | None]:
    """A bootstrap interval of the expected running time, over seeds within each cell; None is no end."""
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(run.cell, []).append(run)
    found: list[float] = []
    for _ in range(RESAMPLES):
        sample = [one for group in cells.values() for one in draw.choices(group, k=len(group))]
        time = expected_running_time(sample, target, budget)
        found.append(float("inf") if time is None else time)
    found.sort()
    low, high = (found[round((RESAMPLES - 1) * share)] for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return (None if low == float("inf") else low), (None if high == float("inf") else high)
