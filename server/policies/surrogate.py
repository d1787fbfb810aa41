"""A Gaussian process over one study and the studies of other datasets: what to train next by expected improvement.

Scores enter as logarithms, so that effects are relative as seed noise is. A score is a constant of its dataset, a sum
of effects of single fields, and an effect of all of them jointly. Datasets share these effects by a factor each: that
of another one grows with its similarity. How wide the effects are, how far they reach and how much is shared is not
chosen but averaged over, by the likelihood of all that was seen.
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
from trainers.space import Config, Field, Space, Value

FLOOR = 0.5
"""Logarithm of how far below its dataset's best a score counts: how much worse a bad configuration is says little."""
OFFSET = 1.0
"""Standard deviation of a dataset's constant."""
JITTER = 1e-4
REACH = (0.4, 0.8)
"""How far an effect reaches, in ranges of a field; that of all fields jointly grows with the root of their number."""
FIELDS_OF_REACH = 6
EFFECTS = ((0.07, 0.03), (0.2, 0.08), (0.37, 0.15), (0.05, 0.1))
"""Standard deviations of the sum of single fields' effects, and of the joint one."""
SHARED = ((0.0, 0.0), (0.9, 0.0), (0.5, 0.5), (0.9, 0.8))
"""Squared factors of the effects: that of a wholly similar dataset, and the study's own; twice it shares nothing."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """What was seen of one dataset; `scores` are means over `seeds` trainings, 0 for what failed as a configuration."""

    configs: Sequence[Mapping[str, Value]]
    scores: Sequence[float]
    seeds: Sequence[int]
    sigma: float
    similarity: float = 1.0


@dataclass(frozen=True)
class Features:
    """Columns of numbers, and which field each belongs to."""

    columns: Array
    owner: NDArray[np.int64]


def features(space: Space, configs: Sequence[Mapping[str, Value]]) -> Features:
    """(configurations, columns) in 0..1: a number's place in its range, one column a choice; -1 where it is inactive.

    A configuration that lacks a field is one in which the field has no effect.
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
    numbers = sorted(float(one) for one in field.choices if not isinstance(one, (bool, str)))
    if numbers and len(numbers) == len(field.choices):
        last = max(len(numbers) - 1, 1)
        return [[-1.0 if one is None or isinstance(one, str) else _place(numbers, float(one)) / last for one in values]]
    if field.choices:
        half = math.sqrt(0.5)
        return [[half * (one == choice) for one in values] for choice in field.choices]
    if field.kind == "bool":
        return [[-1.0 if one is None else float(bool(one)) for one in values]]
    if field.zero:
        places = [-1.0 if one is None else position(field, one) if one else 0.0 for one in values]
        return [places, [float(one is not None and one != 0) for one in values]]
    return [[-1.0 if one is None else position(field, one) for one in values]]


def _place(numbers: Sequence[float], value: float) -> int:
    return min(range(len(numbers)), key=lambda place: abs(numbers[place] - value))


def expected_improvement(
    space: Space, own: Task, others: Sequence[Task], candidates: Sequence[Config], handicaps: Sequence[float]
) -> Array:
    """Of each candidate, over the best of the study's own configurations: (candidates,), in relative gain.

    Best is by the model, not by what was seen: the leader's luck is not what has to be beaten. `handicaps` are what
    candidates are thought to lose beside what the model expects of them.
    """
    tasks = [own, *others]
    known = features(space, [config for task in tasks for config in task.configs])
    new = features(space, candidates).columns
    count = len(own.configs)
    data = _Data(
        seen=known.columns,
        asked=np.vstack([known.columns[:count], new]),
        owner=known.owner,
        scores=np.concatenate([_logarithms(task) for task in tasks]),
        noise=np.concatenate([task.sigma**2 / np.maximum(np.asarray(task.seeds, float), 1.0) for task in tasks]),
        task=np.concatenate([np.full(len(task.configs), place) for place, task in enumerate(tasks)]),
        similarity=np.concatenate([np.full(len(task.configs), task.similarity) for task in tasks]),
        own=count,
    )
    gains, deviations, likelihoods = _posteriors(data, SHARED if others else SHARED[:1])
    weights = np.exp(likelihoods - likelihoods.max())
    weights /= weights.sum()
    return weights @ _improvement(gains - np.asarray(handicaps, float), deviations)


def _logarithms(task: Task) -> Array:
    """Around the task's own mean: its constant is none of the others' business."""
    scores = np.log(np.maximum(np.asarray(task.scores, float), 1e-9))
    scores = np.maximum(scores, scores.max() - FLOOR)
    return scores - scores.mean()


def _improvement(gains: Array, deviations: Array) -> Array:
    z = gains / deviations
    below = 0.5 * (1.0 + np.vectorize(math.erf)(z / math.sqrt(2.0)))
    return deviations * (z * below + np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi))


@dataclass(frozen=True)
class _Data:
    """`seen` (n, columns) are all configurations, the study's `own` first; `asked` are those and the candidates."""

    seen: Array
    asked: Array
    owner: NDArray[np.int64]
    scores: Array
    noise: Array
    task: NDArray[np.int64]
    similarity: Array
    own: int


def _posteriors(data: _Data, shared: Sequence[tuple[float, float]]) -> tuple[Array, Array, Array]:
    """By model: each candidate's gain over the best own configuration, its deviation, and the model's likelihood."""
    gains: list[Array] = []
    deviations: list[Array] = []
    likelihoods: list[float] = []
    same = data.task[:, None] == data.task[None, :]
    mine = data.task == 0
    own = data.own
    for reach in REACH:
        seen = _correlations(data.seen, data.seen, data.owner, reach)
        asked = _correlations(data.asked, data.seen, data.owner, reach)
        to_new = _correlations(data.asked[:own], data.asked[own:], data.owner, reach)
        for (single, joint), (theirs, ours) in product(EFFECTS, shared):
            factor = np.where(mine, math.sqrt(ours), np.sqrt(theirs * data.similarity))
            among = np.where(same, 1.0, factor[:, None] * factor[None, :])
            covariance = (single**2 * seen[0] + joint**2 * seen[1]) * among + OFFSET**2 * same
            covariance[np.diag_indices_from(covariance)] += data.noise + JITTER
            towards = (single**2 * asked[0] + joint**2 * asked[1]) * np.where(mine, 1.0, math.sqrt(ours) * factor)
            towards += OFFSET**2 * mine
            solved = _solved(covariance, np.vstack([data.scores, towards]).T)
            likelihoods.append(_half_log_determinant(covariance) - 0.5 * float(data.scores @ solved[:, 0]))
            mean, explained = towards @ solved[:, 0], solved[:, 1:]
            best = int(np.argmax(mean[:own]))
            spread = single**2 + joint**2 + OFFSET**2 - (towards.T * explained).sum(0)
            between = single**2 * to_new[0][best] + joint**2 * to_new[1][best] + OFFSET**2
            between -= towards[best] @ explained[:, own:]
            gains.append(mean[own:] - mean[best])
            deviations.append(np.sqrt(np.maximum(spread[own:] + spread[best] - 2 * between, 1e-10)))
    return np.array(gains), np.array(deviations), np.array(likelihoods)


def _solved(covariance: Array, sides: Array) -> Array:
    found: Any = np.linalg.solve(covariance, sides)
    return np.asarray(found, dtype=np.float64)


def _half_log_determinant(covariance: Array) -> float:
    """Of the covariance's inverse."""
    root: Any = np.linalg.cholesky(covariance)
    return -float(np.log(root.diagonal()).sum())


def _correlations(a: Array, b: Array, owner: NDArray[np.int64], reach: float) -> tuple[Array, Array]:
    """(a, b) each: the mean over fields of their own correlation, and the joint one."""
    fields = int(owner.max()) + 1 if len(owner) else 1
    squares = np.zeros((fields, len(a), len(b)))
    for column, field in enumerate(owner):
        squares[field] += (a[:, None, column] - b[None, :, column]) ** 2
    single = np.exp(-0.5 * squares / reach**2).mean(0)
    wide = reach * math.sqrt(max(fields / FIELDS_OF_REACH, 1.0))
    return single, np.exp(-0.5 * squares.sum(0) / wide**2)
