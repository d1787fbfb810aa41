"""Scores of trainings on other datasets, in a form that a model of this dataset can learn from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from pydantic import TypeAdapter

from memory.statistics.landscape import Landscape, Setting
from memory.statistics.retrieval import similar
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Config

POINTS = 60
"""The most configurations from one setting of one dataset: the best one, and others at evenly spaced ranks."""
ALL_POINTS = 240
"""The most configurations from all datasets together. The most similar datasets come first."""
FEWEST = 3
"""A dataset with fewer configurations than this is left out, because they are too few to compare."""


@dataclass(frozen=True)
class Point:
    """One configuration: its fields that have an effect, its mean score, and the number of seeds behind that mean."""

    config: Config
    mean: float
    seeds: int


@dataclass(frozen=True)
class Elsewhere:
    """One dataset in one setting: its similarity to the study's dataset (0 to 1), relative seed noise, and scores."""

    dataset_hash: str
    similarity: float
    sigma: float
    points: tuple[Point, ...]


def elsewhere_of(
    lands: Sequence[Landscape], facts: DatasetFacts, metric: str, without: Collection[str] = ()
) -> list[Elsewhere]:
    """Scores from the landscapes for a study on a dataset with `facts`, the most similar dataset first.

    `without` holds the ids of the study's own trials, which are left out.
    """
    datasets: list[Elsewhere] = []
    remaining = ALL_POINTS
    for land in sorted(lands, key=lambda land: -similar(facts, land.facts)):
        for setting in land.settings:
            points = thinned(_points(land, setting, metric, without), min(POINTS, remaining))
            if len(points) >= FEWEST:
                sigma = land.noise(metric).sigma
                datasets.append(Elsewhere(land.dataset_hash, similar(facts, land.facts), sigma, tuple(points)))
                remaining -= len(points)
    return datasets


def _points(land: Landscape, setting: Setting, metric: str, without: Collection[str]) -> list[Point]:
    """The configurations of one setting, the highest mean first."""
    points: list[Point] = []
    for (other, name), runs in land.runs.items():
        scores = [run.scores[metric] for run in runs if metric in run.scores and run.trial_id not in without]
        if other == setting and scores:
            points.append(Point(land.values[name], fmean(scores), len(scores)))
    return sorted(points, key=lambda point: -point.mean)


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most `most` of `points`: the first, the last, and others at even places between them."""
    if len(points) <= most or most < 2:
        return points[: max(most, 0)]
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


ELSEWHERE = TypeAdapter(list[Elsewhere])
"""Parses and serialises the list that the server sends to the driver."""
