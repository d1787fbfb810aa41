"""The early-stopping rule: how well a training must have validated by each epoch to continue. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, median

import numpy as np
import numpy.typing as npt

from trainers.contract.wire import TrialResult, TrialSpec


@dataclass(frozen=True)
class Curve:
    """The best validation so far of an earlier training, by epoch. If not `complete`, it might have risen further."""

    config_hash: str
    best: tuple[float, ...]
    complete: bool

    def at(self, epoch: int) -> float:
        """The best validation by `epoch`, counted from 1. After the last epoch it stays the same."""
        return self.best[min(epoch, len(self.best)) - 1]

    def until(self, epochs: int) -> npt.NDArray[np.float64]:
        """The best validation by each epoch from 1 to `epochs`, as (epochs,)."""
        values = np.full(epochs, self.best[-1])
        values[: len(self.best)] = self.best[:epochs]
        return values


@dataclass(frozen=True)
class Rule:
    """A training continues unless it falls too far below the median of the earlier configurations at the same age.

    Slow starters catch up, so it may be far below at first: by `slack` of the median, shrinking to nothing over
    `lengths` times the usual length of a training. At any age it may be below by `sigmas` times the relative seed
    noise. The values were chosen by replaying recorded trainings (benchmarks.early_stop, docs/results/early-stop.md).
    """

    slack: float = 0.5
    lengths: float = 1.5
    sigmas: float = 2.0
    grace: int = 3
    """Number of first epochs in which nothing is stopped."""
    needed: int = 4
    """Number of configurations that must be trained to their end before anything is stopped."""


RULE = Rule()


def curve(config_hash: str, validation: Sequence[float], complete: bool) -> Curve | None:
    """The curve of a training from its validation by epoch; None if it has no epochs."""
    return Curve(config_hash, tuple(accumulate(validation, max)), complete) if validation else None


def stop_below(curves: Sequence[Curve], sigma: float, epochs: int, rule: Rule = RULE) -> tuple[float, ...]:
    """The best validation that a training of at most `epochs` must reach by each epoch to continue; 0 sets no limit.

    `curves` are the study's earlier trainings, `sigma` its relative seed noise. Seeds of a configuration count as
    their mean. A stopped training counts only up to its last epoch. Empty if too few were trained to their end.
    """
    groups: dict[str, list[Curve]] = {}
    for training in curves:
        groups.setdefault(training.config_hash, []).append(training)
    seeds = [[training for training in group if training.complete] for group in groups.values()]
    whole = [group for group in seeds if group]
    stopped = [training for group in groups.values() if not any(seed.complete for seed in group) for training in group]
    if len(whole) < rule.needed:
        return ()
    horizon = rule.lengths * median(fmean(len(training.best) for training in group) for group in whole)
    ages = np.arange(1, epochs + 1)
    peers = [_mean([training.until(epochs) for training in group]) for group in whole]
    peers += [np.where(ages <= len(training.best), training.until(epochs), np.nan) for training in stopped]
    allowance = rule.slack * np.maximum(0.0, 1 - ages / horizon) + rule.sigmas * sigma
    typical = np.nanmedian(peers, axis=0) if stopped else np.median(peers, axis=0)  # nanmedian is ten times slower
    floors = typical * np.maximum(0.0, 1 - allowance)
    floors[: rule.grace] = 0.0
    return tuple(float(f"{value:.6g}") for value in floors) if floors.any() else ()


def _mean(seeds: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """The mean curve of a configuration; most have one seed, and there may be hundreds."""
    return seeds[0] if len(seeds) == 1 else np.mean(seeds, axis=0)


STOPPED = "stopped early"


def stop_message(spec: TrialSpec, result: TrialResult) -> str:
    """Why the training of `spec` was stopped, in one line."""
    best = result.validation.get(spec.metric, 0.0)
    below = ""
    if 0 < result.epochs <= len(spec.stop_below):
        floor = spec.stop_below[result.epochs - 1]
        below = f", below the {floor:.4f} that the study's earlier trainings ask for by then"
    return f"{STOPPED} at epoch {result.epochs}: {spec.metric} was {best:.4f} at best{below}"
