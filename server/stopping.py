"""The rule that ends hopeless trainings: how well one must have validated by each epoch to be trained on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, median

import numpy as np
import numpy.typing as npt

from trainers.spec import TrialResult, TrialSpec


@dataclass(frozen=True)
class Curve:
    """An earlier training: its best validation so far, by epoch. Not `complete`: it was ended, and may have risen."""

    config_hash: str
    best: tuple[float, ...]
    complete: bool

    def at(self, epoch: int) -> float:
        """As `until`, of one epoch."""
        return self.best[min(epoch, len(self.best)) - 1]

    def until(self, epochs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Its best by each of `epochs`, counted from 1; a complete training keeps what it reached."""
        return np.asarray(self.best)[np.minimum(epochs, len(self.best)) - 1]


@dataclass(frozen=True)
class Rule:
    """A training goes on unless it is further below the median of the earlier configurations, at its age, than this.

    Slow starters catch up, so much is forgiven early: `slack` of the median, shrinking to nothing over `lengths` times
    the usual length of a training; and seed noise always: `sigmas` times its relative size. Chosen by replaying
    recorded trainings (benchmarks.early_stop, docs/early-stop.md).
    """

    slack: float = 0.5
    lengths: float = 1.5
    sigmas: float = 2.0
    grace: int = 3
    """Epochs in which nothing is stopped."""
    needed: int = 4
    """Configurations that must have been trained to their end before anything is stopped."""


RULE = Rule()


def curve(config_hash: str, validation: Sequence[float], complete: bool) -> Curve | None:
    """The curve of a training that validated so, by epoch; None where it has no epoch."""
    return Curve(config_hash, tuple(accumulate(validation, max)), complete) if validation else None


def stop_below(curves: Sequence[Curve], sigma: float, epochs: int, rule: Rule = RULE) -> tuple[float, ...]:
    """The best validation that a training of at most `epochs` must have reached after each to go on; 0 asks nothing.

    `curves` are the study's earlier trainings, `sigma` its relative seed noise. Seeds of a configuration count as
    their mean; one that was stopped counts as far as it came. Empty where too few were trained to their end.
    """
    groups: dict[str, list[Curve]] = {}
    for one in curves:
        groups.setdefault(one.config_hash, []).append(one)
    seeds = [[one for one in group if one.complete] for group in groups.values()]
    whole = [group for group in seeds if group]
    ended = [one for group in groups.values() if not any(seed.complete for seed in group) for one in group]
    if len(whole) < rule.needed:
        return ()
    horizon = rule.lengths * median(fmean(len(one.best) for one in group) for group in whole)
    ages = np.arange(1, epochs + 1)
    peers = [np.mean([one.until(ages) for one in group], axis=0) for group in whole]
    peers += [np.where(ages <= len(one.best), one.until(ages), np.nan) for one in ended]
    forgiven = rule.slack * np.maximum(0.0, 1 - ages / horizon) + rule.sigmas * sigma
    asked = np.nanmedian(peers, axis=0) * np.maximum(0.0, 1 - forgiven)
    asked[: rule.grace] = 0.0
    return tuple(float(f"{value:.6g}") for value in asked) if asked.any() else ()


def words(spec: TrialSpec, result: TrialResult) -> str:
    """Why the training of `spec` was stopped, in one line."""
    best = result.validation.get(spec.metric, 0.0)
    below = ""
    if 0 < result.epochs <= len(spec.stop_below):
        asked = spec.stop_below[result.epochs - 1]
        below = f", below the {asked:.4f} that the study's earlier trainings ask for by then"
    return f"stopped early at epoch {result.epochs}: {spec.metric} was {best:.4f} at best{below}"
