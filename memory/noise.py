"""Seed noise of a metric and what a difference between trainings means against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from memory.student import f_below, t_quantile

PRIOR_SIGMA = 0.03
PRIOR_DF = 4.0
PRIOR_USERS = 5000
EARLIER_DF = 20.0
"""Earlier studies count for at most this many degrees of freedom: their noise is not quite this dataset's."""
OWN_PRIOR_DF = 4.0
"""How much the study's noise counts for one configuration beside its own seeds: some scatter three times as wide."""
NEVER_LESS = 0.01
"""What is left of the prior however much it is contradicted: equal scores do not make a metric without noise."""
FALSE_STUDIES = 0.10
TRIALS = 30
LOOSE = 0.10
"""One-sided chance, under no effect, at which a gain is worth a second look."""
PAIRED_SHARE = 0.5
"""Of sigma: how the gain of one scoring over another of the same weights varies from seed to seed. Declared on the safe
side: in docs/fields.md, for SASRec on Office_Products, it is about a quarter."""

Verdict = Literal["better", "worse", "tied", "retest"]


@dataclass(frozen=True)
class Sigma:
    """Relative seed noise of one training (0.03 is 3 % of the score), known with `df` degrees of freedom."""

    sigma: float
    df: float


@dataclass(frozen=True)
class Comparison:
    """`delta` is the candidate's relative gain, `low` to `high` its interval; `words` says it in one sentence."""

    delta: float
    low: float
    high: float
    verdict: Verdict
    words: str


def prior(users: int) -> Sigma:
    """What is believed of a metric averaged over `users` before any replicate: 3 % at 5,000, as users^-1/2."""
    return Sigma(PRIOR_SIGMA * math.sqrt(PRIOR_USERS / max(users, 1)), PRIOR_DF)


def estimate(groups: Sequence[Sequence[float]], users: int, earlier: Sequence[Sequence[float]] = ()) -> Sigma:
    """Relative seed noise from replicate groups (scores of one configuration each), combined with the prior.

    Scaled inverse chi-square: sigma² = (df0 s0² + sum of squared relative deviations) / (df0 + their degrees of
    freedom). `earlier` are groups of the backbone's other studies. A group of one score, or of mean 0, says nothing.
    The prior counts for as much of its degrees of freedom as it agrees with the replicates: by the two-sided chance of
    an F ratio as far from 1 as theirs, so that a metric which is calmer or wilder than believed is soon known as such.
    """
    start = prior(users)
    squares, df = _pooled(groups)
    earlier_squares, earlier_df = _pooled(earlier)
    weight = min(1.0, EARLIER_DF / earlier_df) if earlier_df else 0.0
    squares, known = squares + weight * earlier_squares, df + weight * earlier_df
    believed = start.df * _agreement(start, squares, known)
    return Sigma(math.sqrt((believed * start.sigma**2 + squares) / (believed + known)), believed + known)


def of_configuration(scores: Sequence[float], noise: Sigma) -> Sigma:
    """Seed noise of one configuration: that of the study, moved by its own scores where those scatter otherwise."""
    squares, df = _pooled([scores])
    known = min(noise.df, OWN_PRIOR_DF)
    return Sigma(math.sqrt((OWN_PRIOR_DF * noise.sigma**2 + squares) / (OWN_PRIOR_DF + df)), known + df)


def _agreement(start: Sigma, squares: float, df: float) -> float:
    if not df:
        return 1.0
    below = f_below(squares / df / start.sigma**2, df, start.df)
    return max(2 * min(below, 1 - below), NEVER_LESS)


def rescaled(scores: Sequence[float], users: int, to_users: int) -> tuple[float, ...]:
    """Replicates of a dataset with `users` as they would scatter with `to_users`: deviations go as users^-1/2."""
    centre = fmean(scores)
    factor = math.sqrt(max(users, 1) / max(to_users, 1))
    return tuple(centre + (score - centre) * factor for score in scores)


def compare(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    noise: Sigma,
    *,
    false_studies: float = FALSE_STUDIES,
    trials: int = TRIALS,
) -> Comparison:
    """What the candidate's scores over seeds mean beside the incumbent's.

    The critical value is such that a study of `trials` without effect ends with a false `better` with chance
    `false_studies`; its interval holds at that level too. `retest` is a gain beyond the looser one-sided 10 % only.
    Where the incumbent's mean is 0 the gain is relative to the candidate's. Raises ValueError where a side has no
    score or one that is not finite.
    """
    for side in (candidate, incumbent):
        if not side or not all(map(math.isfinite, side)):
            raise ValueError(
                f"a comparison needs finite scores on both sides; got {list(candidate)}, {list(incumbent)}"
            )
    delta = relative_gain(fmean(candidate), fmean(incumbent))
    needed = half_width(noise, len(candidate), len(incumbent), false_studies=false_studies, trials=trials)
    loose = t_quantile(1 - LOOSE, noise.df) * standard_error(noise, len(candidate), len(incumbent))
    verdict = _verdict(delta, needed, loose)
    trainings = "training" if len(incumbent) == 1 else "trainings"
    sides = f"{len(candidate)} against {len(incumbent)} {trainings}"
    return Comparison(delta, delta - needed, delta + needed, verdict, words(delta, needed, verdict, sides))


def half_width(
    noise: Sigma, candidate: int, incumbent: int, *, false_studies: float = FALSE_STUDIES, trials: int = TRIALS
) -> float:
    """The smallest believable relative gain with this many trainings on each side (0.05 is 5 %)."""
    return _believable(noise, false_studies, trials) * standard_error(noise, candidate, incumbent)


def compare_paired(
    pairs: Sequence[tuple[float, float]],
    noise: Sigma,
    *,
    false_studies: float = FALSE_STUDIES,
    trials: int = TRIALS,
) -> Comparison:
    """What scores mean beside those of the incumbent on the same weights: (candidate, incumbent) by seed.

    Like `compare`, but what differs from seed to seed is mostly shared, and counts by PAIRED_SHARE only.
    """
    delta = relative_gain(*map(fmean, zip(*pairs, strict=True)))
    error = PAIRED_SHARE * noise.sigma / math.sqrt(len(pairs))
    needed, loose = _believable(noise, false_studies, trials) * error, t_quantile(1 - LOOSE, noise.df) * error
    verdict = _verdict(delta, needed, loose)
    sides = "1 pair on the same weights" if len(pairs) == 1 else f"{len(pairs)} pairs on the same weights"
    return Comparison(delta, delta - needed, delta + needed, verdict, words(delta, needed, verdict, sides))


def _believable(noise: Sigma, false_studies: float, trials: int) -> float:
    """How many standard errors a gain must have."""
    level = 1 - (1 - false_studies) ** (1 / trials)
    return t_quantile(1 - level, noise.df)


def _pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Sum of squared relative deviations from each group's mean, and its degrees of freedom."""
    squares, df = 0.0, 0
    for group in groups:
        scores = [score for score in group if math.isfinite(score)]
        if len(scores) < 2 or fmean(scores) == 0:
            continue
        centre = fmean(scores)
        squares += sum(((score - centre) / centre) ** 2 for score in scores)
        df += len(scores) - 1
    return squares, df


def relative_gain(candidate: float, incumbent: float) -> float:
    """Of one mean over another; over the candidate's where the incumbent's is 0."""
    scale = abs(incumbent) or abs(candidate)
    return (candidate - incumbent) / scale if scale else 0.0


def standard_error(noise: Sigma, candidate: int, incumbent: int) -> float:
    """Of the relative difference of two means over so many trainings."""
    return noise.sigma * math.sqrt(1 / candidate + 1 / incumbent)


def _verdict(delta: float, needed: float, loose: float) -> Verdict:
    if abs(delta) > needed:
        return "better" if delta > 0 else "worse"
    return "retest" if delta > loose else "tied"


def words(delta: float, needed: float, verdict: Verdict, sides: str) -> str:
    """A comparison in one sentence."""
    standing = {
        "better": "is beyond seed noise",
        "worse": "is beyond seed noise",
        "tied": "is inside seed noise",
        "retest": "is promising but not yet beyond seed noise",
    }[verdict]
    return f"{100 * delta:+.1f} % against the incumbent {standing} (±{100 * needed:.1f} % needed with {sides})."
