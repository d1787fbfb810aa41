"""What single changes did: each configuration against the parent that it differs from in one field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory.noise import Sigma, half_width, standard_error
from server.policies.base import Observation, Standing, standings
from trainers.space import Value


@dataclass(frozen=True)
class Effect:
    """One matched pair. `relative` is None where the child never scored: `status` says how it ended."""

    field: str
    before: Value
    after: Value
    relative: float | None
    half_width: float
    error: float
    """Standard error of `relative`."""
    trainings: tuple[int, int]
    """Of the child and of the parent."""
    evidence: tuple[str, ...]
    status: str

    @property
    def believable(self) -> bool:
        """Whether the difference is larger than seed noise explains."""
        return self.relative is not None and abs(self.relative) > self.half_width


def effects(history: Sequence[Observation], sigma: Sigma) -> list[Effect]:
    """Every matched pair, in the order of the children."""
    found = standings(history)
    by_trial = {trial.trial_id: standing for standing in found for trial in standing.trials}
    pairs = [(child, by_trial.get(child.trials[0].parent or "")) for child in found]
    return [
        effect
        for child, parent in pairs
        if parent is not None and parent is not child and len(child.trials[0].changes) == 1
        if (effect := _effect(child, parent, found[0], sigma))
    ]


def _effect(child: Standing, parent: Standing, default: Standing, sigma: Sigma) -> Effect | None:
    ((field, after),) = child.trials[0].changes.items()
    known = parent.scored
    if parent is not default and len(known) > 1:
        known = known[1:]  # the run that made it the parent was chosen for its luck
    scores = [trial.score for trial in known if trial.score is not None]
    if not scores or sum(scores) <= 0:
        return None
    own = child.scores
    relative = (sum(own) / len(own)) / (sum(scores) / len(scores)) - 1 if own else None
    return Effect(
        field=field,
        before=parent.config[field],
        after=after,
        relative=relative,
        half_width=half_width(sigma, max(1, len(own)), len(scores)),
        error=standard_error(sigma, max(1, len(own)), len(scores)),
        trainings=(len(own), len(scores)),
        evidence=tuple(trial.trial_id for trial in [*(child.scored or child.trials), *known]),
        status=child.trials[-1].status,
    )
