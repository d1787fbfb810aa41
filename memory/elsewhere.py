"""What trainings on other datasets scored, as a model of this one may learn from them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from pydantic import TypeAdapter

from memory.landscape import Landscape, Setting
from memory.retrieval import similar
from trainers.space import Config
from trainers.spec import DatasetFacts

POINTS = 60
"""Configurations that one setting of one dataset lends, at most: the best one, and from the others at even ranks."""
ALL_POINTS = 240
"""Of all together; the datasets that are most like the study's come first."""
FEWEST = 3
"""Below so many configurations a dataset says nothing of how they compare."""


@dataclass(frozen=True)
class Point:
    """One configuration: its fields that have an effect, the mean of its scores, and over how many seeds."""

    config: Config
    mean: float
    seeds: int


@dataclass(frozen=True)
class Elsewhere:
    """One dataset in one setting; `sigma` is its relative seed noise, `similarity` (0 to 1) is to the study's own."""

    dataset_hash: str
    similarity: float
    sigma: float
    points: tuple[Point, ...]


def elsewhere_of(
    lands: Sequence[Landscape], facts: DatasetFacts, metric: str, without: Collection[str] = ()
) -> list[Elsewhere]:
    """What the landscapes lend to a study on a dataset with `facts`, the most similar first.

    `without` are the study's own trials, which it knows itself.
    """
    found: list[Elsewhere] = []
    left = ALL_POINTS
    for land in sorted(lands, key=lambda land: -similar(facts, land.facts)):
        for setting in land.settings:
            points = thinned(_points(land, setting, metric, without), min(POINTS, left))
            if len(points) >= FEWEST:
                sigma = land.noise(metric).sigma
                found.append(Elsewhere(land.dataset_hash, similar(facts, land.facts), sigma, tuple(points)))
                left -= len(points)
    return found


def _points(land: Landscape, setting: Setting, metric: str, without: Collection[str]) -> list[Point]:
    """By mean, the best first."""
    found: list[Point] = []
    for (other, name), runs in land.runs.items():
        scores = [one.scores[metric] for one in runs if metric in one.scores and one.trial_id not in without]
        if other == setting and scores:
            found.append(Point(land.values[name], fmean(scores), len(scores)))
    return sorted(found, key=lambda point: -point.mean)


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """The first of `points` and, from the others, so many at even places that `most` are left."""
    if len(points) <= most or most < 2:
        return points[: max(most, 0)]
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


ELSEWHERE = TypeAdapter(list[Elsewhere])
"""Reads and writes what travels between server and driver."""
