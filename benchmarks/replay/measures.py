"""Measures of replayed studies: trainings to a target, success and regret, with intervals. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from benchmarks.replay.loop import Step

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Scale:
    """The scale of a cell: 0 is the default's mean in the table, 1 the mean of the best configuration."""

    default: float
    best: float

    def normal(self, mean: float | None) -> float:
        """A mean of the table on this scale. A configuration without a score counts as a mean of 0."""
        return ((mean or 0.0) - self.default) / (self.best - self.default)


@dataclass(frozen=True)
class Run:
    """One replayed study: the worth of its leader after each training, on the scale of the cell."""

    worth: tuple[float, ...]
    cell: str
    seed: int

    def hit(self, target: float) -> int | None:
        """Trainings until the leader is worth `target`, by its mean in the table; None where it never is."""
        return next((count for count, worth in enumerate(self.worth, 1) if worth >= target), None)

    def regret(self, trainings: int) -> float:
        """How far the leader is below the best configuration after `trainings` trainings."""
        return 1 - self.worth[min(trainings, len(self.worth)) - 1]


def worth_of(steps: Sequence[Step], means: dict[str, float | None], scale: Scale) -> tuple[float, ...]:
    """The worth of the leader after each step."""
    return tuple(scale.normal(means[step.leading]) for step in steps)


def expected_running_time(runs: Sequence[Run], target: float, budget: int) -> float | None:
    """Trainings spent by all runs until they hit or ended, divided by the number of hits; None without hits.

    A run that ended early without a hit counts with the whole budget, because waiting longer would not have helped.
    """
    hits = [run.hit(target) for run in runs]
    successes = sum(hit is not None for hit in hits)
    return sum(hit if hit is not None else budget for hit in hits) / successes if successes else None


def success_rate(runs: Sequence[Run], target: float) -> float:
    """The share of runs whose leader was worth `target` at some point."""
    return fmean(run.hit(target) is not None for run in runs)


def interval(runs: Sequence[Run], target: float, budget: int, random: Random) -> tuple[float | None, float | None]:
    """A bootstrap interval of the expected running time, over seeds within each cell; None stands for infinity."""
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(run.cell, []).append(run)
    times: list[float] = []
    for _ in range(RESAMPLES):
        sample = [run for group in cells.values() for run in random.choices(group, k=len(group))]
        time = expected_running_time(sample, target, budget)
        times.append(float("inf") if time is None else time)
    times.sort()
    low, high = (times[round((RESAMPLES - 1) * share)] for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return (None if low == float("inf") else low), (None if high == float("inf") else high)
