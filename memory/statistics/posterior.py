"""What is known of one gain: its posterior, from an observed difference of log scores and the recorded gains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory.statistics.recorded import Gains

Array = npt.NDArray[np.float64]
LEVEL = 0.9
"""The level of every interval that an answer shows."""
WIDEST, FINEST, POINTS = 12.0, 1e-4, 260
"""Gains are looked at from -WIDEST to WIDEST, more closely near 0, where the recorded gains are dense."""
AROUND, STEPS = 9.0, 181
"""And within AROUND standard errors of the observed difference."""
LEAST = 1e-6
"""The least standard error."""


@dataclass(frozen=True)
class Posterior:
    """A log gain: its expected value, an interval of level LEVEL around it, and the chance that it is above 0."""

    mean: float
    low: float
    high: float
    chance: float


def posterior(observed: float, error: Callable[[Array], Array], df: float, gains: Gains) -> Posterior:
    """The gain behind an observed difference of log scores.

    Its error is Student's t with `df` degrees of freedom; `error` gives the scale for each gain that may be the true
    one, since a configuration far behind scatters more than one that is not. The recorded gains are the prior: a small
    lead on one seed is mostly luck, a large one is not. Their tails are heavy, so a gain far beyond the noise is hardly
    corrected.
    """
    grid = _grid(observed, float(error(np.array([observed]))[0]))
    scale = np.maximum(error(grid), LEAST)
    with np.errstate(under="ignore"):
        weights = _density(grid, gains) * _student((observed - grid) / scale, df) / scale
    weights *= np.gradient(grid)
    weights /= weights.sum()
    below = np.cumsum(weights) - weights / 2
    tail = (1 - LEVEL) / 2
    low, high = np.interp([tail, 1 - tail], below, grid)
    chance = weights[grid > 0].sum() + weights[grid == 0].sum() / 2
    mean = min(max(float(grid @ weights), float(low)), float(high))
    return Posterior(mean, float(low), float(high), float(min(max(chance, 0.0), 1.0)))


def _grid(observed: float, error: float) -> Array:
    side = np.geomspace(FINEST, WIDEST, POINTS)
    around = observed + max(error, LEAST) * np.linspace(-AROUND, AROUND, STEPS)
    return np.unique(np.concatenate([-side, [0.0], side, around]))


def _density(grid: Array, gains: Gains) -> Array:
    """Density of the recorded gains."""
    scales = np.asarray(gains.scales)[:, None]
    normal = 2 * np.exp(-0.5 * (grid / scales) ** 2) / (scales * math.sqrt(2 * math.pi))
    down, up = np.asarray(gains.down) @ normal, np.asarray(gains.up) @ normal
    return np.where(grid < 0, down, np.where(grid > 0, up, (down + up) / 2))


def _student(z: Array, df: float) -> Array:
    """Density of Student's t, up to a constant."""
    return np.exp(-(df + 1) / 2 * np.log1p(z * z / df))
