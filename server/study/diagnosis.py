"""Diagnoses a training: one finding, whose first words a policy can act on. Pure functions.

The first of these that the evidence supports is the diagnosis. The conditions of 5 to 10 exclude each other, so that no
two findings can contradict:

1. failed: `unstable` (diverged), `memory`, `crashed`;
2. `stopped`: the early-stopping rule ended the training, so its end is not known;
3. `never started`: another seed of the same configuration learned, this one did not;
4. `underfitting`: validation never left zero;
5. `unstable`: the loss jumped, or validation fell for good without the loss;
6. `overfitting`: validation ended below its best by more than noise, and the loss kept falling;
7. `cut short`: patience ended a curve that was still rising;
8. `undertrained`: max_epochs or the clock ended a curve that was still rising;
9. `underfitting`: the curve was flat at the end, below, at or barely above the strongest untrained baseline;
10. `converged`: the curve was flat at the end.

Findings 5 to 8 name the baseline too where the score is not clearly above it: how the curve ended says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import fmean, variance

from memory.records import Trial
from memory.statistics.noise import that_started
from trainers.contract.wire import Epoch

CURVE_POINTS = 10
LOSS_JUMP = 0.05
"""A training is unstable if its loss rises by more than this share between two epochs."""
LEAST_JUMP = 0.01
"""A smaller rise, as a share of the first loss, is no jump: a loss near zero doubles easily."""
FALL_IN_SIGMAS = 3.0
"""A training has overfitted if its validation ends more than this many sigmas below its best."""
TREND_EPOCHS = 9
"""The trend compares the last four of so many epochs with the first four."""
RISING = 0.05
"""Patience ended a rising curve if the trend is above this share, and above two sigmas."""
CREEPING = 0.02
"""max_epochs or the clock ended a rising curve if the trend is above this share: patience had not been spent."""
BARELY = 0.05
"""A score is barely above a baseline up to this share above it."""
PERFECT = 0.99
"""No score from here on is underfitting, whatever the baselines score: a metric ends at 1."""


def curve_points(epochs: Sequence[Epoch], metric: str) -> list[dict[str, float]]:
    """At most ten points of the curve: the first, the last, the best, and others evenly spaced between them."""
    if not epochs:
        return []
    last = len(epochs) - 1
    best = max(range(len(epochs)), key=lambda index: epochs[index].validation.get(metric, 0.0))
    count = min(CURVE_POINTS, len(epochs))
    picked = {round(step * last / max(1, count - 1)) for step in range(count)}
    if best not in picked:
        inner = picked - {0, last}
        picked.discard(min(inner, key=lambda index: abs(index - best)))
        picked.add(best)
    return [
        {
            "epoch": epochs[index].epoch,
            "loss": round(epochs[index].loss, 4),
            metric: round(epochs[index].validation.get(metric, 0.0), 5),
        }
        for index in sorted(picked)
    ]


def diagnose(
    trial: Trial, epochs: Sequence[Epoch], metric: str, sigma: float, baselines: Mapping[str, Mapping[str, float]],
    seeds: Sequence[float] = (),
) -> list[str]:  # fmt: skip
    """The finding on a finished trial, if any, and whether weights were reused; `sigma` is relative seed noise.

    `seeds` are the scores of all trainings of its configuration.
    """
    finding = _never_started(trial, metric, seeds) or _finding(trial, epochs, metric, sigma, baselines)
    findings = [finding] if finding else []
    if trial.weights_of is not None:
        findings.append(f"reused: weights of {trial.weights_of}, evaluated again; nothing was trained")
    return findings


def _never_started(trial: Trial, metric: str, seeds: Sequence[float]) -> str | None:
    score, best = trial.validation.get(metric, 0.0), max(seeds, default=0.0)
    if not trial.scored or that_started((score, best))[0]:
        return None
    return (
        f"never started: {metric} {score:.4f}, where another seed of the same configuration reached {best:.4f}; it is "
        "left out of every mean, and a fresh seed tells more than a change"
    )


def _finding(
    trial: Trial, epochs: Sequence[Epoch], metric: str, sigma: float, baselines: Mapping[str, Mapping[str, float]]
) -> str | None:
    if trial.status in FAILURES:
        return FAILURES[trial.status]
    if trial.status == "stopped":
        return (
            f"stopped: not measured, because the early-stopping rule ended it at epoch {trial.epochs or len(epochs)}; "
            f"slow is not hopeless: run_trial(replicate_of={trial.trial_id!r}) trains it to its end"
        )
    if not trial.scored:
        return None
    scores = [epoch.validation.get(metric, 0.0) for epoch in epochs]
    score = trial.validation.get(metric, 0.0)
    if max(score, *scores, 0.0) <= 0:
        return f"underfitting: {metric} never left zero; raise learning_rate or train longer"
    if score >= PERFECT:
        return f"converged: {metric} is {score:.4f}, and 1 is the highest there is"
    measured = len(scores) > 1 and max(scores) > 0  # a trainer of one's own may measure no epoch
    trend = _trend(trial, scores, sigma) if measured else None
    baseline = beside_baseline(score, metric, sigma, baselines)
    found = (_collapse(epochs, scores, sigma) or _rise(trial, scores, trend)) if trend else None
    if found:
        return f"{found}; {baseline}" if baseline else found
    if baseline:
        return f"underfitting: {baseline}; raise learning_rate or hidden_dim, or lower dropout"
    return _flat_end(scores, trend) if trend else None


FAILURES = {
    "diverged": "unstable: the training diverged; a lower learning_rate or a gradient_clip is the usual cure",
    "out_of_memory": "memory: the training did not fit; lower batch_size, max_length or hidden_dim",
    "crashed": "crashed: not a property of the configuration as far as is known; see message",
}
"""The finding on a trial without a score, by its status."""


@dataclass(frozen=True)
class Trend:
    """How far validation rose, relatively, over the last epochs; a rise up to `margin` counts as none."""

    rise: float
    margin: float
    by_patience: bool
    """Whether the patience of the training ended it."""

    @property
    def rising(self) -> bool:
        """Whether the curve was still rising when it ended."""
        return self.rise > self.margin


def _trend(trial: Trial, scores: Sequence[float], sigma: float) -> Trend:
    """Compares the halves of the last nine epochs, without the middle one of an odd number.

    Within the margin is what the scatter of the later half explains.
    """
    window = scores[-TREND_EPOCHS:]
    half = len(window) // 2
    early, late = fmean(window[:half]), fmean(window[-half:])
    by_patience = _ended_by(trial, len(scores)) is None
    least = max(RISING, 2 * sigma) if by_patience else CREEPING
    if early <= 0:
        return Trend(1.0 if late > 0 else 0.0, least, by_patience)
    scatter = variance(window[-half:]) if half > 1 else 0.0
    return Trend(late / early - 1, max(least, 2 * sqrt(2 * scatter / half) / early), by_patience)


def _ended_by(trial: Trial, epochs: int) -> str | None:
    """What ended the training, in words; None if its patience did."""
    if trial.status == "timed_out":
        return "time was up"
    if epochs >= int(trial.config.get("max_epochs", epochs + 1)):
        return "max_epochs was reached"
    return None if "patience" in trial.config else "the training ended"


def _collapse(epochs: Sequence[Epoch], scores: Sequence[float], sigma: float) -> str | None:
    """Why the training is unstable or has overfitted, if so."""
    if jump := _loss_jump(epochs):
        return f"unstable: the loss rose by more than {LOSS_JUMP:.0%} at epoch {jump}; lower learning_rate"
    best = max(scores)
    best_epoch = scores.index(best) + 1
    fall = 1 - scores[-1] / best
    usual_fall = 1 - fmean(scores[best_epoch:][-3:] or [best]) / best
    if min(fall, usual_fall) <= FALL_IN_SIGMAS * sigma:
        return None
    fell = f"after epoch {best_epoch} validation fell by {fall:.1%}"
    if epochs[-1].loss < epochs[best_epoch - 1].loss:
        advice = "regularise (dropout, weight_decay) or shrink the model"
        return f"overfitting: {fell} while the loss kept falling; {advice}"
    return f"unstable: {fell}, and the loss did not fall either; lower learning_rate"


def _rise(trial: Trial, scores: Sequence[float], trend: Trend) -> str | None:
    """What ended a curve that was still rising, if it was."""
    if not trend.rising:
        return None
    rise = f"{trend.rise:+.1%} over the last {min(TREND_EPOCHS, len(scores))} epochs"
    if not trend.by_patience:
        ended = _ended_by(trial, len(scores))
        return f"undertrained: still rising ({rise}) when {ended}; more epochs or a higher learning_rate"
    best_epoch = scores.index(max(scores)) + 1
    return (
        f"cut short: patience ({trial.config['patience']}) ended a curve whose level was still rising ({rise}, "
        f"best epoch {best_epoch} of {len(scores)}); raise patience or learning_rate"
    )


def _flat_end(scores: Sequence[float], trend: Trend) -> str:
    best_epoch, window = scores.index(max(scores)) + 1, min(TREND_EPOCHS, len(scores))
    shape = "flat" if trend.rise >= -trend.margin else "slightly lower"
    return (
        f"converged: best epoch {best_epoch} of {len(scores)}, {shape} over the last {window} "
        f"({trend.rise:+.1%}, noise ±{trend.margin:.1%})"
    )


def _loss_jump(epochs: Sequence[Epoch]) -> int | None:
    """The first epoch whose loss jumped above that of the epoch before; None if none did."""
    least = LEAST_JUMP * abs(epochs[0].loss)
    for before, after in pairwise(epochs):
        if after.loss - before.loss > max(LOSS_JUMP * abs(before.loss), least):
            return after.epoch
    return None


def beside_baseline(
    score: float, metric: str, sigma: float, baselines: Mapping[str, Mapping[str, float]]
) -> str | None:
    """How a score compares with the strongest untrained baseline, in words; None if it is clearly above it.

    A difference within seed noise is `at`, but never one of more than 5 %.
    """
    name, best = max(((n, m.get(metric, 0.0)) for n, m in baselines.items()), key=lambda p: p[1], default=("", 0.0))
    gap = score / best - 1 if best > 0 else 1.0
    if gap > BARELY:
        return None
    same = min(sigma, BARELY)
    place = "below" if gap < -same else "at" if gap <= same else "barely above"
    return f"{metric} {score:.4f} is {place} the strongest untrained baseline, {name} ({best:.4f})"
