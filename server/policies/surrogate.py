"""A Gaussian process over one study and the studies of other datasets: what to train next by expected improvement.

Scores enter as logarithms, so that effects are relative, as seed noise is. A score is the sum of a constant of its
dataset, the effects of single fields, and a joint effect of all fields. Each dataset shares these effects by a factor,
which grows with its similarity. The size of the effects, their reach and how much is shared are not chosen: the result
averages over them, weighted by the likelihood of all scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.policies.sampling import position
from trainers.contract.space import Config, Field, Space, Value

FLOOR = 0.5
"""Log distance below its dataset's best at which scores are cut off: how bad a bad configuration is says little."""
OFFSET = 1.0
"""Standard deviation of a dataset's constant."""
JITTER = 1e-4
REACH = (0.4, 0.8)
"""Length scales of an effect, in ranges of a field; the joint one grows with the root of the number of fields."""
FIELDS_OF_REACH = 6
EFFECTS = ((0.07, 0.03), (0.2, 0.08), (0.37, 0.15), (0.05, 0.1))
"""Pairs of standard deviations: of the sum of single fields' effects, and of the joint effect."""
SHARED = ((0.0, 0.0), (0.9, 0.0), (0.5, 0.5), (0.9, 0.8))
"""Pairs of squared factors: of a wholly similar dataset, and of the study itself; with 0 nothing is shared."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """The trainings of one dataset; `scores` are means over `seeds` trainings, 0 for a configuration that failed."""

    configs: Sequence[Mapping[str, Value]]
    scores: Sequence[float]
    seeds: Sequence[int]
    sigma: float
    similarity: float = 1.0


@dataclass(frozen=True)
class Features:
    """Columns of numbers, and the index of the field that each belongs to."""

    columns: Array
    owner: NDArray[np.int64]


def features(space: Space, configs: Sequence[Mapping[str, Value]]) -> Features:
    """(configurations, columns) in 0..1: a number's place in its range, one column per choice; -1 where inactive.

    In a configuration that lacks a field, the field counts as inactive.
    """
    columns: list[list[float]] = []
    owner: list[int] = []
    for place, field in enumerate(space.free()):
        active = [
            config[field.name] if field.name in config and _active(space, field, config) else None for config in configs
        ]
        for column in _columns(field, active):
            columns.append(column)
            owner.append(place)
    return Features(np.array(columns, dtype=float).T.reshape(len(configs), len(columns)), np.array(owner, dtype=int))


def _active(space: Space, field: Field, config: Mapping[str, Value]) -> bool:
    return all(condition.field in config for condition in field.when) and space.active(field, config)


def _columns(field: Field, values: Sequence[Value | None]) -> list[list[float]]:
    numbers = sorted(float(value) for value in field.choices if not isinstance(value, (bool, str)))
    if numbers and len(numbers) == len(field.choices):
        last = max(len(numbers) - 1, 1)
        return [
            [
                -1.0 if value is None or isinstance(value, str) else _place(numbers, float(value)) / last
                for value in values
            ]
        ]
    if field.choices:
        half = math.sqrt(0.5)
        return [[half * (value == choice) for value in values] for choice in field.choices]
    if field.kind == "bool":
        return [[-1.0 if value is None else float(bool(value)) for value in values]]
    if field.zero:
        places = [-1.0 if value is None else position(field, value) if value else 0.0 for value in values]
        return [places, [float(value is not None and value != 0) for value in values]]
    return [[-1.0 if value is None else position(field, value) for value in values]]


def _place(numbers: Sequence[float], value: float) -> int:
    return min(range(len(numbers)), key=lambda place: abs(numbers[place] - value))


def expected_improvement(
    space: Space, study_task: Task, others: Sequence[Task], candidates: Sequence[Config], handicaps: Sequence[float]
) -> Array:
    """Expected improvement of each candidate over the study's best configuration: (candidates,), in relative gain.

    The best is by the model and not by its scores, so that the leader's luck need not be beaten. `handicaps` are what
    candidates are assumed to lose on top of what the model expects of them.
    """
    tasks = [study_task, *others]
    seen = features(space, [config for task in tasks for config in task.configs])
    new = features(space, candidates).columns
    count = len(study_task.configs)
    data = _Data(
        seen=seen.columns,
        queried=np.vstack([seen.columns[:count], new]),
        owner=seen.owner,
        scores=np.concatenate([_logarithms(task) for task in tasks]),
        noise=np.concatenate([task.sigma**2 / np.maximum(np.asarray(task.seeds, float), 1.0) for task in tasks]),
        task=np.concatenate([np.full(len(task.configs), place) for place, task in enumerate(tasks)]),
        similarity=np.concatenate([np.full(len(task.configs), task.similarity) for task in tasks]),
        study_count=count,
    )
    gains, deviations, likelihoods = _posteriors(data, SHARED if others else SHARED[:1])
    weights = np.exp(likelihoods - likelihoods.max())
    weights /= weights.sum()
    return weights @ _improvement(gains - np.asarray(handicaps, float), deviations)


def _logarithms(task: Task) -> Array:
    """Log scores around the task's own mean: its constant does not concern the other tasks."""
    scores = np.log(np.maximum(np.asarray(task.scores, float), 1e-9))
    scores = np.maximum(scores, scores.max() - FLOOR)
    return scores - scores.mean()


def _improvement(gains: Array, deviations: Array) -> Array:
    z = gains / deviations
    below = 0.5 * (1.0 + np.vectorize(math.erf)(z / math.sqrt(2.0)))
    return deviations * (z * below + np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi))


@dataclass(frozen=True)
class _Data:
    """`seen` (n, columns) holds all configurations, the study's `study_count` first; `queried` adds the candidates."""

    seen: Array
    queried: Array
    owner: NDArray[np.int64]
    scores: Array
    noise: Array
    task: NDArray[np.int64]
    similarity: Array
    study_count: int


def _posteriors(data: _Data, shared: Sequence[tuple[float, float]]) -> tuple[Array, Array, Array]:
    """For each model: gains over the study's best configuration, their deviations, and the model's log likelihood."""
    gains: list[Array] = []
    deviations: list[Array] = []
    likelihoods: list[float] = []
    same = data.task[:, None] == data.task[None, :]
    in_study = data.task == 0
    count = data.study_count
    for reach in REACH:
        seen = _correlations(data.seen, data.seen, data.owner, reach)
        queried = _correlations(data.queried, data.seen, data.owner, reach)
        to_new = _correlations(data.queried[:count], data.queried[count:], data.owner, reach)
        for (single, joint), (share_others, share_study) in product(EFFECTS, shared):
            factor = np.where(in_study, math.sqrt(share_study), np.sqrt(share_others * data.similarity))
            among = np.where(same, 1.0, factor[:, None] * factor[None, :])
            covariance = (single**2 * seen[0] + joint**2 * seen[1]) * among + OFFSET**2 * same
            covariance[np.diag_indices_from(covariance)] += data.noise + JITTER
            towards = single**2 * queried[0] + joint**2 * queried[1]
            towards *= np.where(in_study, 1.0, math.sqrt(share_study) * factor)
            towards += OFFSET**2 * in_study
            solved = _solved(covariance, np.vstack([data.scores, towards]).T)
            likelihoods.append(_half_log_determinant(covariance) - 0.5 * float(data.scores @ solved[:, 0]))
            mean, explained = towards @ solved[:, 0], solved[:, 1:]
            best = int(np.argmax(mean[:count]))
            spread = single**2 + joint**2 + OFFSET**2 - (towards.T * explained).sum(0)
            between = single**2 * to_new[0][best] + joint**2 * to_new[1][best] + OFFSET**2
            between -= towards[best] @ explained[:, count:]
            gains.append(mean[count:] - mean[best])
            deviations.append(np.sqrt(np.maximum(spread[count:] + spread[best] - 2 * between, 1e-10)))
    return np.array(gains), np.array(deviations), np.array(likelihoods)


def _solved(covariance: Array, sides: Array) -> Array:
    solution: Any = np.linalg.solve(covariance, sides)
    return np.asarray(solution, dtype=np.float64)


def _half_log_determinant(covariance: Array) -> float:
    """Half the log determinant of the covariance's inverse."""
    root: Any = np.linalg.cholesky(covariance)
    return -float(np.log(root.diagonal()).sum())


def _correlations(a: Array, b: Array, owner: NDArray[np.int64], reach: float) -> tuple[Array, Array]:
    """(a, b) each: the mean over fields of their single correlations, and the joint correlation."""
    fields = int(owner.max()) + 1 if len(owner) else 1
    squares = np.zeros((fields, len(a), len(b)))
    for column, field in enumerate(owner):
        squares[field] += (a[:, None, column] - b[None, :, column]) ** 2
    single = np.exp(-0.5 * squares / reach**2).mean(0)
    wide = reach * math.sqrt(max(fields / FIELDS_OF_REACH, 1.0))
    return single, np.exp(-0.5 * squares.sum(0) / wide**2)
