"""The rule that version 0.1 decided by, for comparison: one seed gets a configuration noticed, later ones decide.

Its noise had a prior of 3 % with four degrees of freedom, the same at every level, and gains were relative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from memory.statistics.t_distribution import f_below, t_quantile

SIGMA, DF = 0.03, 4.0
DECIDE = 1 - 0.9 ** (1 / 30)
LEVELS = (DECIDE / 50, DECIDE / 5, DECIDE / 5, DECIDE / 5, DECIDE)
"""One-sided levels of `better` for one fresh seed, for two to four, and for five or more."""


def chosen(scores: Mapping[int, Sequence[float]]) -> int:
    """The best mean among the default (0) and the configurations with two seeds."""
    trusted = [number for number, values in scores.items() if number == 0 or len(values) > 1]
    return max(trusted, key=lambda number: fmean(scores[number]))


def better(scores: Mapping[int, Sequence[float]], candidate: int, incumbent: int) -> bool:
    """Whether the candidate is called better: by its seeds after the first, against those of the incumbent."""
    fresh = scores[candidate][1:]
    rival = scores[incumbent][1:] if incumbent and len(scores[incumbent]) > 1 else scores[incumbent]
    if not fresh or len(rival) < min(len(fresh), 5) or not fmean(rival):
        return False
    sigma, df = _noise([values for values in scores.values() if len(values) > 1])
    parts = [(_own(scores[side], sigma), len(values)) for side, values in ((candidate, fresh), (incumbent, rival))]
    variances = [
        (one**2 / count, min(df, 4.0) + len(scores[side]) - 1)
        for (one, count), side in zip(parts, (candidate, incumbent), strict=True)
    ]
    total = sum(variance for variance, _ in variances)
    if not total:
        return fmean(fresh) > fmean(rival)
    freedom = total**2 / sum(variance**2 / own for variance, own in variances)
    gain = fmean(fresh) / fmean(rival) - 1
    return gain > t_quantile(1 - LEVELS[min(len(fresh), 5) - 1], freedom) * math.sqrt(total)


def _noise(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    squares = sum(_squares(group) for group in groups)
    df = sum(len(group) - 1 for group in groups)
    below = f_below(squares / df / SIGMA**2, df, DF) if df else 0.5
    weight = DF * max(2 * min(below, 1 - below), 0.01)
    return math.sqrt((weight * SIGMA**2 + squares) / (weight + df)), weight + df


def _own(scores: Sequence[float], sigma: float) -> float:
    return math.sqrt((4.0 * sigma**2 + _squares(scores)) / (4.0 + len(scores) - 1))


def _squares(scores: Sequence[float]) -> float:
    mean = fmean(scores)
    return sum((score / mean - 1) ** 2 for score in scores) if mean else 0.0
