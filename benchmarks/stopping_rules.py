"""Rules for ending hopeless trainings, one family of the literature or of ours each, over the same earlier curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from server.stopping import RULE, Curve, Rule, stop_below

Points = npt.NDArray[np.float64]
Candidate = Callable[[Sequence[Curve], float, int], Sequence[float] | Points]
"""(earlier curves, relative seed noise, epochs) to what is asked for by each epoch, as stop_below answers it."""

GRACE, NEEDED, SIGMAS = RULE.grace, RULE.needed, RULE.sigmas


def _matrix(curves: Sequence[Curve], epochs: int, pace: float = 1.0) -> Points:
    """(curves, epochs), what each had reached at 1/`pace` of an epoch's age; nan beyond the end of a stopped one."""
    ages = np.arange(1, epochs + 1) / pace
    rows: list[Points] = []
    for one in curves:
        reached = np.interp(ages, np.arange(len(one.best) + 1), [0.0, *one.best])
        rows.append(reached if one.complete else np.where(ages <= len(one.best), reached, np.nan))
    return np.array(rows)


def _whole(curves: Sequence[Curve]) -> list[Curve]:
    return [one for one in curves if one.complete]


def _asked(curves: Sequence[Curve], thresholds: Points) -> Points:
    if len({one.config_hash for one in _whole(curves)}) < NEEDED:
        return np.zeros_like(thresholds)
    thresholds[:GRACE] = 0
    return thresholds


def halving(eta: float, first: int) -> Candidate:
    """At `first`, 3 times and 9 times that epoch only the best 1/`eta` go on (the stopping form of ASHA)."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        reached, asked = _matrix(curves, epochs), np.zeros(epochs)
        for rung in (first, 3 * first, 9 * first):
            if rung <= epochs:
                asked[rung - 1] = np.nanquantile(reached[:, rung - 1], 1 - 1 / eta) * (1 - SIGMAS * sigma)
        return _asked(curves, asked)

    return rule


def behind_median(slack: float) -> Candidate:
    """Below the median of the best so far at equal epochs by more than `slack` (the median rule of Vizier)."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        reached = np.nanmedian(_matrix(curves, epochs), axis=0)
        return _asked(curves, reached * max(0.0, 1 - slack - SIGMAS * sigma))

    return rule


def ours(slack: float, lengths: float) -> Candidate:
    """What the server does: the same, with a slack that shrinks to 0 over `lengths` times the usual length."""
    chosen = Rule(slack=slack, lengths=lengths)
    return lambda curves, sigma, epochs: stop_below(curves, sigma, epochs, chosen)


def behind_the_best(fraction: float, power: float) -> Candidate:
    """Below a fraction of the best training's best so far; it rises from `fraction` to all at that one's end."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        best = max(_whole(curves), key=lambda one: one.best[-1])
        progress = np.clip(np.arange(1, epochs + 1) / len(best.best), 0, 1) ** power
        share = fraction + (1 - fraction) * progress
        return _asked(curves, _matrix([best], epochs)[0] * share * (1 - SIGMAS * sigma))

    return rule


def too_slow(pace: float, slack: float) -> Candidate:
    """Below what the better quarter had reached at 1/`pace` of its age, by more than `slack`."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        reached = np.nanquantile(_matrix(curves, epochs, pace), 0.75, axis=0)
        return _asked(curves, reached * max(0.0, 1 - slack - SIGMAS * sigma))

    return rule


def power_law(slack: float) -> Candidate:
    """Out of reach by a law: rates of growth c/e^p, fitted over the earlier trainings, with `slack` times the rate."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        ages = np.arange(1, epochs + 1, dtype=np.float64)
        grown = np.array([_growth(one, epochs) for one in _whole(curves)])
        used = grown.mean(axis=0) > 1e-3
        if used.sum() < 2:
            return np.zeros(epochs)
        slope, height = np.polyfit(np.log(ages[used]), np.log(grown.mean(axis=0)[used]), 1)
        growth = np.exp(np.minimum(slack * np.exp(height + slope * np.log(ages)), 50))
        best = max(one.best[-1] for one in _whole(curves))
        return _asked(curves, best * (1 - SIGMAS * sigma) / growth)

    return rule


def _growth(one: Curve, epochs: int) -> Points:
    """log of what a training still gained after each epoch."""
    return np.log(max(one.best[-1], 1e-9) / np.maximum(one.until(np.arange(1, epochs + 1)), 1e-9))


def out_of_reach(times: float) -> Candidate:
    """Even `times` the largest catch-up of an earlier training from that age on would not reach the best one."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        catch_up = np.max([np.exp(_growth(one, epochs)) for one in _whole(curves)], axis=0)
        best = max(one.best[-1] for one in _whole(curves))
        return _asked(curves, best * (1 - SIGMAS * sigma) / (1 + times * (catch_up - 1)))

    return rule


def behind_and_out_of_reach(slack: float) -> Candidate:
    """Both: behind the median, and out of reach."""
    behind, beyond = behind_median(slack), out_of_reach(1)
    return lambda *told: np.minimum(behind(*told), beyond(*told))


FAMILIES: dict[str, dict[tuple[float, ...], Candidate]] = {
    "successive halving": {(eta, first): halving(eta, first) for eta, first in product((1.25, 1.5, 2), (4, 6))},
    "median": {(slack,): behind_median(slack) for slack in (0, 0.1, 0.2, 0.3, 0.4)},
    "shrinking median": {
        (slack, over): ours(slack, over) for slack, over in product((0.3, 0.4, 0.5, 0.6), (1, 1.5, 2))
    },
    "share of the best": {(low, power): behind_the_best(low, power) for low, power in product((0.1, 0.2, 0.4), (1, 2))},
    "pace": {(pace, slack): too_slow(pace, slack) for pace, slack in product((2, 3), (0, 0.1, 0.2))},
    "power law": {(times,): power_law(times) for times in (1, 1.5, 2, 3)},
    "catch-up": {(times,): out_of_reach(times) for times in (1, 1.5, 2, 3)},
    "median and catch-up": {(slack,): behind_and_out_of_reach(slack) for slack in (0, 0.1, 0.2, 0.3, 0.4)},
}
"""Every family with the parameters that are tried; a held-out dataset has no say in which of them is taken."""
SHIPPED = ("shrinking median", (RULE.slack, RULE.lengths))
"""The server's own."""
