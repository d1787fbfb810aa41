"""The last comparison of a study: the chosen configuration against the default, on the sealed test.

Two things were drawn by chance: the seeds of either side, and the users whose items are the test. The interval counts
both, crossed: every seed is tested on the same users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from memory.statistics.noise import (
    PAIRED_SHARE,
    Sigma,
    excess,
    log_score,
    of_configuration,
    relative,
    with_replicates,
)
from memory.statistics.recorded import Recorded
from memory.statistics.t_distribution import t_quantile

LEVEL = 0.95
NO_HITS = 2.0
"""Variance over users of the log of a score of 0, which counts as half a hit: that of a count of one half, 1 / 0.5."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FinalGain:
    """A relative gain on the test, with the interval of one comparison at 95 %."""

    gain: float
    low: float
    high: float

    @property
    def beats(self) -> bool | None:
        """Whether the whole interval lies above 0; None where it holds 0."""
        return None if self.low <= 0 <= self.high else self.low > 0


def noise_of_test(noise: Sigma, measured: int, tested: int, replicates: Sequence[Sequence[float]]) -> Sigma:
    """Seed noise of a test score over `tested` users, from the noise of a validation score over `measured` users.

    `replicates` are the test scores of the seeds of each configuration that was tested, for all that were.
    """
    scaled = Sigma(noise.sigma * math.sqrt(max(measured, 1) / max(tested, 1)), noise.df)
    return with_replicates(scaled, replicates, tested)


def final_gain(
    chosen: Sequence[float],
    default: Sequence[float],
    noise: Sigma,
    users: int,
    user_variance: float = 0.0,
    *,
    below: tuple[float, float] = (0.0, 0.0),
    paired: bool = False,
    known: Recorded | None = None,
) -> FinalGain:
    """The gain of the mean log score over seeds.

    Its error has two parts: which seeds were drawn (`noise`, of a score near the best), and which users were drawn
    (`user_variance`, of the log gain). `below`: the log validation score of either side, from that of the better one: a
    side further down scatters more. It is not read off the test, where a bad draw would widen its own interval.
    `paired`: both sides scored the same weights, in the same order.
    """
    first, second = ([log_score(score, users) for score in side] for side in (chosen, default))
    gain = fmean(first) - fmean(second)
    if paired:
        differences = [math.exp(one - other) for one, other in zip(first, second, strict=True)]
        of_pair = with_replicates(Sigma(PAIRED_SHARE * noise.sigma, noise.df), [differences], users)
        seeds, df = of_pair.sigma**2 / len(first), of_pair.df
    else:
        own, other = (
            of_configuration(side, noise, excess(place, known))
            for side, place in zip((first, second), below, strict=True)
        )
        parts = own.sigma**2 / len(first), other.sigma**2 / len(second)
        seeds = sum(parts)
        same = own.df == other.df == noise.df  # then both share one estimate
        df = noise.df if same else seeds**2 / (parts[0] ** 2 / own.df + parts[1] ** 2 / other.df)
    seeds = max(seeds, 1e-12)
    total = seeds + user_variance
    half = t_quantile((1 + LEVEL) / 2, df * (total / seeds) ** 2) * math.sqrt(total)
    return FinalGain(relative(gain), relative(gain - half), relative(gain + half))


def user_variance(
    chosen: Sequence[Values],
    default: Sequence[Values],
    *,
    more: tuple[Sequence[Values], Sequence[Values]] = ((), ()),
    paired: bool = False,
) -> float:
    """Variance of the log gain over the users that were drawn, from each seed's value (users,) of every user.

    By the delta method a user moves the log of a mean by its value over that mean. What differs between seeds for the
    same user is in the seed noise already, so it is taken out where there are several seeds; `more` are tested seeds of
    either side that are not reported.
    """
    first, second = _influence(chosen), _influence(default)
    users = first.shape[1]
    zeros = NO_HITS * (_share_of_zeros(chosen) ** 2 + _share_of_zeros(default) ** 2)
    if users < 2:
        return zeros
    across = float(np.var(first.mean(0) - second.mean(0), ddof=1))
    if paired:
        residual = _residual(first - second) / len(first)
    else:
        groups = zip((chosen, default), more, strict=True)
        residual = sum(_residual(_influence([*side, *rest])) / len(side) for side, rest in groups)
    return zeros + max(0.0, across - residual) / users


def _influence(side: Sequence[Values]) -> Values:
    """Values (seeds, users) over the mean of their seed; zeros for a seed without a hit."""
    values = np.asarray(side, dtype=np.float64)
    means = values.mean(1, keepdims=True)
    return np.divide(values, means, out=np.zeros_like(values), where=means > 0)


def _share_of_zeros(side: Sequence[Values]) -> float:
    return fmean(float(not values.any()) for values in side)


def _residual(values: Values) -> float:
    """How much the values (seeds, users) of one user vary between seeds; 0 for a single seed, which cannot tell."""
    return float(np.var(values, axis=0, ddof=1).mean()) if len(values) > 1 else 0.0
