"""The one rule by which configurations are compared: for verdicts, for the incumbent, for policies and for retests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Literal

import numpy as np

from memory.statistics.noise import PAIRED_SHARE, Sigma, excess, of_configuration, relative, started
from memory.statistics.posterior import Array, Posterior, posterior
from memory.statistics.recorded import Recorded, recorded

Verdict = Literal["better", "worse", "equivalent", "likely better", "likely worse", "undecided"]
DECIDED: tuple[Verdict, ...] = ("better", "worse", "equivalent")
SURE, LIKELY = 0.965, 0.8
"""The chance of being better from which a configuration is `better` or `likely better`; `worse` mirrors them.
With SURE, at most one study in ten of thirty worthless configurations has a false `better`: docs/results/noise.md."""
LEAST_MIN_GAIN, MIN_GAIN_SIGMAS = 0.02, 2.0
"""The smallest gain that matters, where a study names none: the larger of 2 % and two sigmas."""
LEADS = 0.6
"""The chance of being better from which a configuration takes the lead: the prior has taken off its usual luck."""
OPEN = 0.3
"""With a smaller chance of being better nothing more is asked of a configuration: it can hardly change the choice."""
WORTH = 0.05
"""The same for trainings that are left over at the end, which are to be spent on what may be better still."""
MOST = 12
"""No more trainings than this are asked for to settle one comparison."""


@dataclass(frozen=True)
class Contender:
    """One configuration: its log score by the weights that were scored, oldest first.

    Contenders of one `family` differ in scoring only, so they may score the same weights.
    """

    number: int
    family: str
    scores: Mapping[str, float]
    like: Contender | None = None
    """The contender of its family with more weights, if it scored some of the same: its level is taken from there."""

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """The weights that `like` scored, too."""
        return () if self.like is None else tuple(self.shared_with(self.like))

    @cached_property
    def level(self) -> tuple[float, ...]:
        """Log scores by which it is compared with other trainings; a mean of few lucky weights is not its level."""
        if self.like is None:
            return started(list(self.scores.values()))
        shift = fmean(self.scores[name] - self.like.scores[name] for name in self.shared)
        return tuple(value + shift for value in self.like.level)

    @property
    def mean(self) -> float:
        return fmean(self.level)

    def shared_with(self, other: Contender) -> list[str]:
        """The weights that both scored; empty where they differ in more than scoring."""
        return [name for name in self.scores if name in other.scores] if self.family == other.family else []

    @property
    def not_started(self) -> int:
        """Its seeds that never started to learn: they do not count."""
        return len(self.scores) - len(started(list(self.scores.values())))


def contenders(scores: Mapping[int, Mapping[str, float]]) -> dict[int, Contender]:
    """The contender of each configuration, by number, from its log scores by weights.

    Those that scored the same weights are one family; there the one with the most weights measures the others.
    """
    families: dict[str, str] = {}
    found: list[Contender] = []
    for number, by_weights in scores.items():
        family = next((families[name] for name in by_weights if name in families), str(number))
        families |= dict.fromkeys(by_weights, family)
        found.append(Contender(number, family, by_weights))
    return {one.number: one for one in measured(found)}


def measured(found: Sequence[Contender]) -> list[Contender]:
    """The same contenders; those that scored weights of a family member with more of them are measured by it."""
    widest: dict[str, Contender] = {}
    for one in found:
        if one.family not in widest or len(one.scores) > len(widest[one.family].scores):
            widest[one.family] = one
    return [_measured_by(one, widest[one.family]) for one in found]


def _measured_by(one: Contender, other: Contender) -> Contender:
    if one is other or not any(name in other.scores for name in one.scores):
        return one
    return Contender(one.number, one.family, one.scores, other)


@dataclass(frozen=True)
class Comparison:
    """A candidate against a rival. `gain`, `low` and `high` are relative (0.05 is 5 %); the interval holds 90 %."""

    verdict: Verdict
    gain: float
    """What may be expected: the observed gain, less the luck that is usual in it."""
    low: float
    high: float
    chance: float
    """That the candidate is better at all."""
    observed: float
    trainings: tuple[int, int]
    """How many of the candidate and of the rival were compared."""
    paired: bool
    """Whether both scored the same weights."""


@dataclass(frozen=True)
class Settling:
    """The fewest trainings that would settle a comparison, if the observed gain stays: of the candidate and rival."""

    candidate: int
    rival: int
    verdict: Verdict
    """What it would be settled as."""


@dataclass(frozen=True)
class Rule:
    """The rule for one study: its noise, its best log score, and the smallest relative gain that matters."""

    noise: Sigma
    best: float
    min_gain: float | None = None
    known: Recorded = field(default_factory=recorded)

    @property
    def matters(self) -> float:
        """The smallest gain that matters, as a share."""
        if self.min_gain is not None:
            return self.min_gain
        return max(LEAST_MIN_GAIN, MIN_GAIN_SIGMAS * self.noise.sigma)

    def compare(self, candidate: Contender, rival: Contender) -> Comparison:
        """Compares two configurations: on the same weights where they differ in scoring only, else by their seeds.

        Recorded gains are those of what was tried later over what was there; so either may be called the candidate.
        """
        sides = self._sides(candidate, rival)
        found = self._posterior(sides, sides.candidate.count, sides.rival.count)
        return Comparison(
            self._verdict(found), relative(found.mean), relative(found.low), relative(found.high), found.chance,
            relative(sides.observed), (sides.candidate.count, sides.rival.count), sides.paired,
        )  # fmt: skip

    def leader(self, found: Sequence[Contender]) -> Contender | None:
        """The configuration to build on and to choose: each in turn takes the lead if it is probably better.

        `found`: the default first, or what takes its place, the others as they were tried.
        """
        leader: Contender | None = None
        for one in found:
            if leader is None or (one.mean > leader.mean and self.compare(one, leader).chance >= LEADS):
                leader = one
        return leader

    def settling(self, candidate: Contender, rival: Contender) -> Settling | None:
        """What would settle an open comparison; None where it is settled, hopeless, or would take more than MOST."""
        sides = self._sides(candidate, rival)
        first, second = sides.candidate, sides.rival
        found = self._posterior(sides, first.count, second.count)
        if self._verdict(found) in DECIDED or found.chance < OPEN:
            return None
        counts = [first.count, second.count]
        for _ in range(MOST):
            if sides.paired:
                counts = [counts[0] + 1, counts[1] + 1]
            else:
                counts[_next_side(first, second, counts)] += 1
            if (then := self._verdict(self._posterior(sides, *counts))) in DECIDED:
                return Settling(counts[0] - first.count, counts[1] - second.count, then)
        return None

    def next_training(self, found: Sequence[Contender]) -> Contender | None:
        """The one whose training would tell most of the choice: the leader, or the rival that may best be better still.

        None where every rival is decided or has hardly a chance. `found`: as for `leader`.
        """
        leader = self.leader(found)
        if leader is None:
            return None
        compared = [(self.compare(one, leader), one) for one in found if one is not leader]
        still = [(one.chance, rival) for one, rival in compared if one.verdict not in DECIDED and one.chance >= WORTH]
        if not still:
            return None
        _, rival = max(still, key=lambda one: (one[0], -one[1].number))
        later, earlier = (leader, rival) if leader.number > rival.number else (rival, leader)
        sides = self._sides(later, earlier)
        side = _next_side(sides.candidate, sides.rival, [sides.candidate.count, sides.rival.count])
        return (later, earlier)[side]

    def _sides(self, candidate: Contender, rival: Contender) -> _Sides:
        later = candidate.number >= rival.number
        if common := candidate.shared_with(rival):
            observed = fmean(candidate.scores[name] - rival.scores[name] for name in common)
            side = _Side(len(common), Sigma(PAIRED_SHARE * self.noise.sigma, self.noise.df), 0.0)
            return _Sides(observed, side, side, True, later, 0.0)
        ahead = max(candidate.mean, rival.mean) - self.best
        return _Sides(candidate.mean - rival.mean, self._side(candidate), self._side(rival), False, later, ahead)

    def _side(self, one: Contender) -> _Side:
        beyond = excess(min(one.mean - self.best, 0.0), self.known)
        shift = (PAIRED_SHARE * self.noise.sigma) ** 2 / len(one.shared) if one.shared else 0.0
        noise = of_configuration(one.level, self.noise, beyond)
        return _Side(len(one.level), noise, shift, own=noise.sigma != math.hypot(self.noise.sigma, beyond))

    def _posterior(self, sides: _Sides, candidate: int, rival: int) -> Posterior:
        """The gain, were there so many trainings on each side with the observed difference."""
        gains = self.known.gains if sides.later else self.known.gains.reversed
        if sides.paired:
            alike = sides.candidate.noise.sigma / math.sqrt(candidate)
            return posterior(sides.observed, lambda true: np.full_like(true, alike), self.noise.df, gains)
        first, second = sides.candidate.variance(candidate), sides.rival.variance(rival)
        total = first + second
        df = total**2 / (first**2 / sides.candidate.noise.df + second**2 / sides.rival.noise.df)
        same = sides.candidate.noise.df == sides.rival.noise.df == self.noise.df  # one noise for both: no Satterthwaite

        def error(true: Array) -> Array:
            ahead, behind = (first, sides.rival) if sides.observed > 0 else (second, sides.candidate)
            count = rival if sides.observed > 0 else candidate
            lead = np.maximum(true if sides.observed > 0 else -true, 0.0)
            return np.sqrt(ahead + behind.variances(count, self._widths(sides.ahead - lead)))

        return posterior(sides.observed, error, self.noise.df if same else df, gains)

    def _widths(self, below_best: Array) -> Array:
        """How widely one training scatters at each of these places below the best."""
        levels, beyond = zip(*self.known.excess, strict=True)
        return np.hypot(self.noise.sigma, np.interp(below_best, levels, beyond))

    def _verdict(self, found: Posterior) -> Verdict:
        edge = math.log1p(self.matters)
        if -edge < found.low and found.high < edge:
            return "equivalent"
        if found.chance >= LIKELY:
            return "better" if found.chance >= SURE else "likely better"
        if found.chance <= 1 - LIKELY:
            return "worse" if found.chance <= 1 - SURE else "likely worse"
        return "undecided"


@dataclass(frozen=True)
class _Side:
    """The trainings of one side, the noise of each, and the variance of how its level was taken from another."""

    count: int
    noise: Sigma
    shift: float
    own: bool = False
    """Whether its own seeds say how widely it scatters."""

    def variance(self, count: int) -> float:
        return self.noise.sigma**2 / count + self.shift

    def variances(self, count: int, widths: Array) -> Array:
        """Its variance at each place where it may truly lie, from how widely one training scatters there."""
        if self.own:
            return np.full_like(widths, self.variance(count))
        return widths**2 / count + self.shift


@dataclass(frozen=True)
class _Sides:
    observed: float
    candidate: _Side
    rival: _Side
    paired: bool
    later: bool
    """Whether the candidate was tried after the rival."""
    ahead: float
    """How far the better of the two lies from the best of the study, in logs: 0 or less."""


def _next_side(first: _Side, second: _Side, counts: Sequence[int]) -> int:
    """The side of which one more training takes the most from the variance: 0 for the first, 1 for the second."""
    saved = [side.noise.sigma**2 / (count * (count + 1)) for side, count in zip((first, second), counts, strict=True)]
    return 0 if saved[0] >= saved[1] else 1
