"""Seed noise of a metric: what is known of it, and how a study's own replicates correct that.

Everything is in logs: a score of 0.05 with relative noise of 3 % is a log score that scatters by 0.03.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from memory.statistics.recorded import Recorded, interpolated, recorded
from memory.statistics.t_distribution import f_below, t_quantile

PRIOR_USERS = 5000
"""The users at which the prior is stated."""
FLOOR, FLOOR_USERS = 0.005, 200_000
"""Less noise than FLOOR is believed only where it was measured on FLOOR_USERS users: users^-1/2 is an extrapolation."""
EARLIER_DF = 20.0
"""Earlier studies count for at most this many degrees of freedom, because their noise is not quite this dataset's."""
NEVER_LESS = 0.01
"""The least weight of the prior, even if replicates contradict it: equal scores do not make a metric noiseless."""
DOUBT = 0.1
"""The prior keeps its weight until replicates contradict it at this two-sided level; below, it loses in proportion."""
OWN_DF = 4.0
"""Degrees of freedom that the study's noise is worth for one configuration whose own seeds contradict it."""
CONTRADICTS = 0.02
"""The one-sided level at which a configuration's seeds scatter too widely for the study's noise."""
NEVER_STARTED = 1.0
"""A seed whose log score is this far below another seed of its configuration never started to learn."""
PAIRED_SHARE = 0.5
"""The share of sigma that remains when both sides score the same weights: how much such a gain varies by seed.
It is set on the safe side: docs/results/fields.md measures about a quarter, for SASRec on Office_Products."""


@dataclass(frozen=True)
class Sigma:
    """Relative seed noise of one training near the best (0.03 is 3 % of the score), with its degrees of freedom."""

    sigma: float
    df: float


def log_score(score: float, users: int) -> float:
    """The log of a score; a score of 0 counts as half a hit among `users` users."""
    return math.log(max(score, 0.5 / max(users, 1)))


def prior(users: int, known: Recorded | None = None) -> Sigma:
    """The noise assumed before any replicate, for a metric averaged over `users`."""
    known = known or recorded()
    sigma = known.sigma * math.sqrt(PRIOR_USERS / max(users, 1))
    return Sigma(max(sigma, FLOOR), known.df)


def excess(below_best: float, known: Recorded | None = None) -> float:
    """Noise beyond sigma of a configuration whose log score is `below_best` (0 or less) from the best one's."""
    return interpolated((known or recorded()).excess, below_best)


def started(logs: Sequence[float]) -> tuple[float, ...]:
    """The log scores of one configuration, without seeds that never started to learn."""
    best = max(logs, default=0.0)
    return tuple(value for value in logs if value > best - NEVER_STARTED)


def that_started(scores: Sequence[float]) -> list[bool]:
    """For each score of one configuration, whether its seed started to learn."""
    top = max(scores, default=0.0)
    return [score > top * math.exp(-NEVER_STARTED) or top <= 0 for score in scores]


def estimate(
    groups: Sequence[Sequence[float]],
    users: int,
    earlier: Sequence[Sequence[float]] = (),
    *,
    best: float | None = None,
    known: Recorded | None = None,
) -> Sigma:
    """Relative seed noise near the best, from replicate groups (scores of one configuration each) and the prior.

    Scaled inverse chi-square: sigma² = (df0 s0² + sum of squares) / (df0 + their degrees of freedom). The deviations of
    a group far below `best`, the study's best score (else that of the groups), are scaled to near it. `earlier`
    holds groups of the backbone's other studies. Once replicates contradict the prior, it loses its weight.
    """
    assumed = prior(users, known)
    squares, df = _pooled(groups, users, best, known)
    earlier_squares, earlier_df = _pooled(earlier, users, None, known)
    weight = min(1.0, EARLIER_DF / earlier_df) if earlier_df else 0.0
    squares, replicate_df = squares + weight * earlier_squares, df + weight * earlier_df
    prior_df = assumed.df * _agreement(assumed, squares, replicate_df)
    total = prior_df + replicate_df
    sigma = math.sqrt((prior_df * assumed.sigma**2 + squares) / total)
    return Sigma(sigma if users >= FLOOR_USERS else max(sigma, FLOOR), total)


def with_replicates(assumed: Sigma, groups: Sequence[Sequence[float]], users: int) -> Sigma:
    """`assumed` noise, corrected by replicates; it loses weight as they scatter more. A few equal ones prove little."""
    squares, df = _pooled(groups, users, None, None)
    scatter_more = squares > df * assumed.sigma**2
    weight = assumed.df * (_agreement(assumed, squares, df) if scatter_more else 1.0)
    sigma = math.sqrt((weight * assumed.sigma**2 + squares) / (weight + df))
    return Sigma(sigma if users >= FLOOR_USERS else max(sigma, FLOOR), weight + df)


def _agreement(assumed: Sigma, squares: float, df: float) -> float:
    """The share of the prior's weight that its F ratio to the replicates leaves it; 1 without replicates."""
    if not df:
        return 1.0
    cdf = f_below(squares / df / assumed.sigma**2, df, assumed.df)
    return min(1.0, max(2 * min(cdf, 1 - cdf) / DOUBT, NEVER_LESS))


def _pooled(
    groups: Sequence[Sequence[float]], users: int, best: float | None, known: Recorded | None
) -> tuple[float, int]:
    """Sum of squared deviations from each group's mean, as they would be near the best, and its degrees of freedom."""
    logs = [started([log_score(score, users) for score in group if math.isfinite(score)]) for group in groups]
    means = [fmean(group) for group in logs if group]
    top = max(means, default=0.0) if best is None else log_score(best, users)
    squares, df = 0.0, 0
    for group in logs:
        if len(group) > 1:
            scale = math.hypot(1.0, excess(min(fmean(group) - top, 0.0), known) / prior(users, known).sigma)
            squares += _squares(group) / scale**2
            df += len(group) - 1
    return squares, df


def _squares(logs: Sequence[float]) -> float:
    centre = fmean(logs)
    return sum((value - centre) ** 2 for value in logs)


def of_configuration(logs: Sequence[float], noise: Sigma, beyond: float) -> Sigma:
    """Seed noise of one configuration whose place below the best adds noise `beyond` the study's.

    Its own seeds count where they scatter too widely for that: near the best all configurations are alike.
    """
    assumed = math.hypot(noise.sigma, beyond)
    squares, df = _squares(logs) if logs else 0.0, len(logs) - 1
    if df > 0 and assumed > 0 and f_below(squares / df / assumed**2, df, noise.df) > 1 - CONTRADICTS:
        weight = min(noise.df, OWN_DF)
        return Sigma(math.sqrt((weight * assumed**2 + squares) / (weight + df)), weight + df)
    return Sigma(assumed, noise.df)


def rescaled(scores: Sequence[float], users: int, to_users: int) -> tuple[float, ...]:
    """Replicates measured on `users`, rescaled to scatter as they would on `to_users`: deviations go as users^-1/2."""
    centre = fmean(scores)
    factor = math.sqrt(max(users, 1) / max(to_users, 1))
    return tuple(centre + (score - centre) * factor for score in scores)


def half_width(noise: Sigma, candidate: int, incumbent: int, level: float = 0.9) -> float:
    """Half the width of an interval of this level on the log gain between so many trainings, by seed noise alone."""
    return t_quantile((1 + level) / 2, noise.df) * standard_error(noise, candidate, incumbent)


def standard_error(noise: Sigma, candidate: int, incumbent: int) -> float:
    """Standard error of the log gain between two means, over `candidate` and `incumbent` trainings."""
    return noise.sigma * math.sqrt(1 / candidate + 1 / incumbent)


def relative(log_gain: float) -> float:
    """A log gain as a share: 0.05 is 5 %. Never below -1."""
    return math.expm1(log_gain)
