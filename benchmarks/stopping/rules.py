"""Rules that end hopeless trainings, from the literature and of our own. All see the same earlier curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from server.study.early_stop import RULE, Curve, Rule, stop_below

Points = npt.NDArray[np.float64]
Candidate = Callable[[Sequence[Curve], float, int], Sequence[float] | Points]
"""Maps (earlier curves, relative seed noise, epochs) to the threshold of each epoch, as stop_below returns it."""

GRACE, NEEDED, SIGMAS = RULE.grace, RULE.needed, RULE.sigmas


def _matrix(curves: Sequence[Curve], epochs: int, pace: float = 1.0) -> Points:
    """The best of each curve at 1/`pace` of each epoch (curves, epochs); nan beyond the end of a stopped training."""
    ages = np.arange(1, epochs + 1) / pace
    rows: list[Points] = []
    for curve in curves:
        reached = np.interp(ages, np.arange(len(curve.best) + 1), [0.0, *curve.best])
        rows.append(reached if curve.complete else np.where(ages <= len(curve.best), reached, np.nan))
    return np.array(rows)


def _complete(curves: Sequence[Curve]) -> list[Curve]:
    return [curve for curve in curves if curve.complete]


def _once_ready(curves: Sequence[Curve], thresholds: Points) -> Points:
    """The thresholds, or 0 in the first epochs and before enough configurations were trained to their end."""
    if len({curve.config_hash for curve in _complete(curves)}) < NEEDED:
        return np.zeros_like(thresholds)
    thresholds[:GRACE] = 0
    return thresholds


def halving(eta: float, first: int) -> Candidate:
    """Only the best 1/`eta` go on at epochs `first`, 3 x `first` and 9 x `first` (the stopping variant of ASHA)."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        reached, levels = _matrix(curves, epochs), np.zeros(epochs)
        for rung in (first, 3 * first, 9 * first):
            if rung <= epochs:
                levels[rung - 1] = np.nanquantile(reached[:, rung - 1], 1 - 1 / eta) * (1 - SIGMAS * sigma)
        return _once_ready(curves, levels)

    return rule


def behind_median(slack: float) -> Candidate:
    """Stops more than `slack` below the median of the best so far at equal epochs (the median rule of Vizier)."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        reached = np.nanmedian(_matrix(curves, epochs), axis=0)
        return _once_ready(curves, reached * max(0.0, 1 - slack - SIGMAS * sigma))

    return rule


def ours(slack: float, lengths: float) -> Candidate:
    """The server's rule: the median rule with a slack that shrinks to 0 over `lengths` times the usual length."""
    chosen = Rule(slack=slack, lengths=lengths)
    return lambda curves, sigma, epochs: stop_below(curves, sigma, epochs, chosen)


def behind_the_best(fraction: float, power: float) -> Candidate:
    """Stops below a share of the best training's best so far. The share rises from `fraction` to 1 at its end."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        best = max(_complete(curves), key=lambda curve: curve.best[-1])
        progress = np.clip(np.arange(1, epochs + 1) / len(best.best), 0, 1) ** power
        share = fraction + (1 - fraction) * progress
        return _once_ready(curves, _matrix([best], epochs)[0] * share * (1 - SIGMAS * sigma))

    return rule


def too_slow(pace: float, slack: float) -> Candidate:
    """Stops more than `slack` below the upper quartile of what trainings had reached at 1/`pace` of the age."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        reached = np.nanquantile(_matrix(curves, epochs, pace), 0.75, axis=0)
        return _once_ready(curves, reached * max(0.0, 1 - slack - SIGMAS * sigma))

    return rule


def power_law(slack: float) -> Candidate:
    """Stops what cannot reach the best by `slack` times the growth of a power law c/e^p, fitted to earlier curves."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        ages = np.arange(1, epochs + 1, dtype=np.float64)
        grown = np.array([_growth(curve, epochs) for curve in _complete(curves)])
        used = grown.mean(axis=0) > 1e-3
        if used.sum() < 2:
            return np.zeros(epochs)
        slope, height = np.polyfit(np.log(ages[used]), np.log(grown.mean(axis=0)[used]), 1)
        growth = np.exp(np.minimum(slack * np.exp(height + slope * np.log(ages)), 50))
        best = max(curve.best[-1] for curve in _complete(curves))
        return _once_ready(curves, best * (1 - SIGMAS * sigma) / growth)

    return rule


def _growth(curve: Curve, epochs: int) -> Points:
    """The log of the factor by which a training still grew after each epoch."""
    return np.log(max(curve.best[-1], 1e-9) / np.maximum(curve.until(epochs), 1e-9))


def out_of_reach(times: float) -> Candidate:
    """Stops what `times` the largest catch-up of an earlier training from that age cannot bring to the best."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> Points:
        catch_up = np.max([np.exp(_growth(curve, epochs)) for curve in _complete(curves)], axis=0)
        best = max(curve.best[-1] for curve in _complete(curves))
        return _once_ready(curves, best * (1 - SIGMAS * sigma) / (1 + times * (catch_up - 1)))

    return rule


def behind_and_out_of_reach(slack: float) -> Candidate:
    """Stops what is both behind the median and out of reach."""
    behind, beyond = behind_median(slack), out_of_reach(1)
    return lambda *state: np.minimum(behind(*state), beyond(*state))


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
"""Every family with the parameters to try. A held-out dataset has no influence on which are chosen."""
SHIPPED = ("shrinking median", (RULE.slack, RULE.lengths))
"""The family and the parameters of the server's own rule."""
