"""What the tools answer about a trial."""

from __future__ import annotations

from typing import Any

from server.answers.base import Answer, Gain, Noise, Score
from trainers.contract.space import Config


class Retest(Answer):
    """Trainings that would settle an open verdict."""

    trial_id: str
    """For replicate_of."""
    seeds: list[int]


class UserComparison(Answer):
    """Two trainings user by user. It says nothing of other seeds."""

    against: str
    delta: float
    low: float
    high: float
    gained: float
    lost: float
    words: str


class TrialAnswer(Answer):
    study_id: str
    trial_id: str
    status: str
    number: int
    seed: int
    changes: Config
    """From the parent, as asked."""
    parent: str | None = None
    replicate_of: str | None = None
    hypothesis: str | None = None
    duplicate: bool = False
    """True: nothing was trained, this is the old result of the same configuration and seed."""
    metrics: dict[str, float] = {}
    """Validation, at the best epoch; of a `stopped` trial what it had reached, not what it is worth."""
    measures: dict[str, float] = {}
    """Of its ten best items a user: share of the catalogue shown, their mean training events; ms for 1,000 users."""
    replayed: str | None = None
    """In a replay home, where the numbers come from: `recorded`, or `simulated seed`."""
    weights_of: str | None = None
    """The trial whose weights were scored again: nothing was trained."""
    violations: list[str] = []
    """Guardrails of the study that its configuration violates: then it is never chosen, and gets no verdict."""
    delta: dict[str, float] = {}
    """Relative change of the study's metric against `parent`, `incumbent` (as it stood before) and `default`."""
    gain: Gain | None = None
    """Of its configuration, all seeds, over the incumbent as it stood before."""
    verdict: str | None = None
    """better, worse or equivalent; likely better, likely worse or undecided where seeds are lacking."""
    verdict_words: str | None = None
    retest: list[Retest] = []
    """The fewest trainings that would settle an open verdict, where it can still change the choice."""
    noise: Noise | None = None
    incumbent: Score | None = None
    """As it stands now."""
    curve: list[dict[str, float]] = []
    """Up to ten points: epoch, loss, the study's metric."""
    diagnosis: list[str] = []
    epochs: int = 0
    best_epoch: int | None = None
    seconds: float | None = None
    eval_seconds: float | None = None
    eta_seconds: float | None = None
    peak_memory_mb: float | None = None
    parameters: int | None = None
    message: str | None = None
    trials_left: int | None = None
    trainings: int = 0
    seconds_left: float | None = None
    config: Config | None = None
    """With detail only: the whole configuration."""
    epochs_detail: list[dict[str, Any]] | None = None
    """With detail only: every epoch."""
    users: UserComparison | None = None
    """With detail only: a paired bootstrap over users against `compare_to`, else against the incumbent's best seed."""
    next: str


class TrialStatusAnswer(Answer):
    trial_id: str
    status: str
    next: str
