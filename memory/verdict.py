"""The two-stage verdict: one training gets a configuration noticed, seeds drawn after that decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from memory.noise import (
    FALSE_STUDIES,
    TRIALS,
    Comparison,
    Sigma,
    Verdict,
    compare,
    of_configuration,
    relative_gain,
    standard_error,
    words,
)
from memory.student import t_quantile

NOTICE = 0.35
"""One-sided chance, without effect, at which a first training is worth a fresh seed."""
DECIDE = 1 - (1 - FALSE_STUDIES) ** (1 / TRIALS)
"""One-sided chance, without effect, at which FRESH fresh seeds or more call a noticed configuration better."""
EARLY = DECIDE / 5
"""The same for fewer fresh seeds: only what is plain ends early."""
AT_ONCE = EARLY / 10
"""The same for a single fresh seed: only what no noise explains."""
FRESH, MOST = 5, 7
HOPELESS = 1.0
"""Standard errors that the fresh seeds must be ahead by to be worth another one; half of it after the first."""


@dataclass(frozen=True)
class Side:
    """The scores of one configuration: the one it was noticed by (none for the default), and those since."""

    noticed: tuple[float, ...]
    fresh: tuple[float, ...]

    @property
    def scores(self) -> tuple[float, ...]:
        return self.noticed + self.fresh

    @property
    def deciding(self) -> tuple[float, ...]:
        """What may decide: fresh seeds, and only without any the one that it was noticed by."""
        return self.fresh or self.noticed


def two_stage(candidate: Side, incumbent: Side, noise: Sigma) -> Comparison:
    """What a configuration is worth beside the incumbent.

    First stage: a first training that is ahead by more than chance NOTICE allows is a `retest`; nothing is `better` on
    the training that it was noticed by. Second stage: fresh seeds against fresh seeds, each side with noise of its own
    (Welch's t), as many of the incumbent as of the candidate and at most FRESH. The levels keep studies of thirty
    trials without effect to at most one in ten with a false `better`: docs/noise.md has the simulation.
    """
    if not candidate.fresh:
        found = compare(candidate.scores, incumbent.deciding, noise)
        return _noticed(found, noise, len(candidate.scores), len(incumbent.deciding))
    count = len(candidate.fresh)
    delta = relative_gain(fmean(candidate.fresh), fmean(incumbent.deciding))
    error, df = _welch(candidate, incumbent, noise)
    lacking = max(0, min(count, FRESH) - len(incumbent.fresh))
    level = DECIDE if count >= FRESH else (EARLY if count > 1 else AT_ONCE)
    needed = t_quantile(1 - level, df) * error
    if not lacking and abs(delta) > needed:
        verdict: Verdict = "better" if delta > 0 else "worse"
    elif delta > (HOPELESS if count > 1 else HOPELESS / 2) * error and count < MOST:
        verdict = "retest"
    else:
        verdict = "tied"
    sides = f"{_seeds(candidate.fresh)} against {len(incumbent.deciding)}"
    return Comparison(delta, delta - needed, delta + needed, verdict, words(delta, needed, verdict, sides))


def _noticed(found: Comparison, noise: Sigma, own: int, other: int) -> Comparison:
    """The first stage: `compare`, whose `better` waits for a fresh seed as everything does that is ahead enough."""
    if found.delta <= t_quantile(1 - NOTICE, noise.df) * standard_error(noise, own, other):
        return found
    said = f"{100 * found.delta:+.1f} % against the incumbent on the training that got it noticed; fresh seeds decide."
    return replace(found, verdict="retest", words=said)


def _welch(candidate: Side, incumbent: Side, noise: Sigma) -> tuple[float, float]:
    """Standard error of the relative difference of the deciding means, and its degrees of freedom (Satterthwaite)."""
    parts: list[tuple[float, float]] = []
    for side in (candidate, incumbent):
        own = of_configuration(side.scores, noise)
        parts.append((own.sigma**2 / len(side.deciding), own.df))
    total = sum(variance for variance, _ in parts)
    if not total:
        return 0.0, noise.df
    return math.sqrt(total), total**2 / sum(variance**2 / df for variance, df in parts)


def _seeds(scores: Sequence[float]) -> str:
    return "1 fresh seed" if len(scores) == 1 else f"{len(scores)} fresh seeds"
