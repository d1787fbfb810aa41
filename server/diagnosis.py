"""What a learning curve says: each finding starts with one word that a policy can act on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from memory.records import Trial
from trainers.spec import Epoch

CURVE_POINTS = 10
LOSS_JUMP = 0.05
"""A loss that rises by more than this share between two epochs is unstable."""
FALL_IN_SIGMAS = 3.0
"""A validation that ends so many sigmas below its best has overfitted, not wavered."""
BARELY = 1.2
"""Less than this times the best untrained baseline is underfitting."""


def curve_points(epochs: Sequence[Epoch], metric: str) -> list[dict[str, float]]:
    """At most ten points of the curve: first, last, the best, and others evenly between."""
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
    trial: Trial, epochs: Sequence[Epoch], metric: str, sigma: float, baselines: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Findings on a finished trial, the most pressing first; `sigma` is relative seed noise."""
    if trial.status in ("diverged", "out_of_memory", "crashed"):
        advice = {
            "diverged": "unstable: the training diverged; a lower learning_rate or a gradient_clip is the usual cure",
            "out_of_memory": "memory: the training did not fit; lower batch_size, max_length or hidden_dim",
            "crashed": "crashed: not a property of the configuration as far as is known; see message",
        }
        return [advice[trial.status]]
    found: list[str | None] = []
    if trial.status == "stopped":
        found.append(f"stopped: hopeless beside earlier trainings at its age ({trial.message or 'early'})")
        found.append(_stability(epochs, metric, sigma))
    if len(epochs) >= 2 and trial.scored:
        found += [_fit(trial, epochs, metric, sigma), _stability(epochs, metric, sigma)]
        found += [_scale(trial, metric, baselines)]
    if trial.weights_of is not None:
        found.append(f"reused: weights of {trial.weights_of}, evaluated again; nothing was trained")
    return [finding for finding in found if finding]


def _fit(trial: Trial, epochs: Sequence[Epoch], metric: str, sigma: float) -> str | None:
    scores = [epoch.validation.get(metric, 0.0) for epoch in epochs]
    best = max(scores)
    best_epoch = scores.index(best) + 1
    if best <= 0:
        return "underfitting: validation never left zero; raise learning_rate or train longer"
    if best_epoch == len(scores):
        ended = "time was up" if trial.status == "timed_out" else "max_epochs was reached"
        return f"undertrained: the last epoch ({best_epoch}) was the best when {ended}; more epochs or a higher rate"
    fall = (best - scores[-1]) / best
    if fall > FALL_IN_SIGMAS * sigma and epochs[-1].loss < epochs[best_epoch - 1].loss:
        return (
            f"overfitting: after epoch {best_epoch} validation fell {fall:.1%} while the loss kept falling; "
            "regularise (dropout, weight_decay) or shrink the model"
        )
    if best_epoch > 0.75 * int(trial.config.get("max_epochs", len(scores))):
        return f"undertrained: the best epoch ({best_epoch}) is near max_epochs; raise learning_rate"
    return f"converged: best epoch {best_epoch} of {len(scores)}, flat afterwards ({-fall:+.1%})"


def _stability(epochs: Sequence[Epoch], metric: str, sigma: float) -> str | None:
    jumps = [after.epoch for before, after in pairwise(epochs)
             if after.loss > before.loss * (1 + LOSS_JUMP)]  # fmt: skip
    if jumps:
        return f"unstable: the loss rose by more than {LOSS_JUMP:.0%} at epoch {jumps[0]}; lower learning_rate"
    return None


def _scale(trial: Trial, metric: str, baselines: Mapping[str, Mapping[str, float]]) -> str | None:
    name, best = max(((n, m.get(metric, 0.0)) for n, m in baselines.items()), key=lambda p: p[1], default=("", 0.0))
    score = trial.validation.get(metric, 0.0)
    if best > 0 and score < BARELY * best:
        return f"underfitting: {metric} {score:.4f} is barely above the {name} baseline ({best:.4f})"
    return None
