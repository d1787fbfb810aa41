"""What single changes did: compares each configuration with a parent that it differs from in one field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from memory.statistics.noise import Sigma, half_width, relative, standard_error
from server.policies.base import Configuration, Observation, configurations
from trainers.contract.space import Value

BELIEVED = 0.99
"""The level of the interval that a believable gain leaves."""
LEAST = 1e-6
"""A score of 0 counts as this one."""


@dataclass(frozen=True)
class Effect:
    """One matched pair. Its log gain is None where the child never scored: `status` says how it ended."""

    field: str
    before: Value
    after: Value
    gain: float | None
    half_width: float
    """Of the interval of `gain`, by seed noise, that a believable gain leaves."""
    error: float
    """Standard error of `gain`."""
    trainings: tuple[int, int]
    """How many scored trainings of the child and of the parent were compared."""
    evidence: tuple[str, ...]
    status: str
    violations: tuple[str, ...] = ()
    """Guardrails that the child violates: then it has no score."""

    @property
    def believable(self) -> bool:
        """Whether the difference is larger than seed noise explains."""
        return self.gain is not None and abs(self.gain) > self.half_width

    @property
    def relative(self) -> float | None:
        """The gain as a share."""
        return None if self.gain is None else relative(self.gain)


def effects(history: Sequence[Observation], sigma: Sigma) -> list[Effect]:
    """Every matched pair, in the order of the children."""
    trained = configurations(history)
    by_trial = {trial.trial_id: configuration for configuration in trained for trial in configuration.trials}
    pairs = [(child, by_trial.get(child.trials[0].parent or "")) for child in trained]
    return [
        effect
        for child, parent in pairs
        if parent is not None and parent is not child and len(child.trials[0].changes) == 1
        if (effect := _effect(child, parent, trained[0], sigma))
    ]


def _effect(child: Configuration, parent: Configuration, default: Configuration, sigma: Sigma) -> Effect | None:
    ((field, after),) = child.trials[0].changes.items()
    parent_trials = parent.scored
    if parent is not default and len(parent_trials) > 1:
        parent_trials = parent_trials[1:]  # the first score made it the parent, so it was chosen for its luck
    parent_scores = [trial.score for trial in parent_trials if trial.score is not None]
    if not parent_scores or min(parent_scores) <= 0:
        return None
    child_scores, gain = child.scores, None
    if child_scores:
        gain = fmean(math.log(max(score, LEAST)) for score in child_scores) - fmean(map(math.log, parent_scores))
    return Effect(
        field=field,
        before=parent.config[field],
        after=after,
        gain=gain,
        half_width=half_width(sigma, max(1, len(child_scores)), len(parent_scores), BELIEVED),
        error=standard_error(sigma, max(1, len(child_scores)), len(parent_scores)),
        trainings=(len(child_scores), len(parent_scores)),
        evidence=tuple(trial.trial_id for trial in [*(child.scored or child.trials), *parent_trials]),
        status=child.trials[-1].status,
        violations=child.trials[-1].violations,
    )
