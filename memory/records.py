"""Frozen records of what memory holds. The store takes and returns only these."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from memory.claim import Claim
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Config, Space
from trainers.contract.wire import FilterSeen, Outcome

Level = Literal["trial", "reflection", "heuristic", "summary"]
NoteKind = Literal["reflection", "heuristic", "summary"]
TrialStatus = Literal["queued", "running", "interrupted"] | Outcome
"""The status of a trial. `interrupted`: its last attempt ended without a result; run_trial starts a new attempt."""
EarlyStop = Literal["auto", "off"]
"""Whether trainings are stopped early when they cannot catch up with earlier ones of the study."""
RunOutcome = Literal["done", "cancelled", "failed"]
ClaimVerdict = Literal["supported", "refuted", "mixed", "insufficient"]


class Record(BaseModel):
    """A frozen record."""

    model_config = ConfigDict(frozen=True)


class Guardrail(Record):
    """The limits of a measure's mean over the trainings of one configuration."""

    min: float | None = None
    max: float | None = None


class Study(Record):
    """The tuning of one backbone on one dataset. `space` belongs to the study, and its default is trial 0."""

    study_id: str
    created_at: datetime
    dataset: str
    dataset_hash: str
    split: str
    facts: DatasetFacts
    backbone: str
    metric: str
    preset: str
    space: Space
    filter_seen: FilterSeen
    max_trials: int | None
    budget_seconds: float | None
    trial_seconds: float | None
    gpu_seconds: float | None = None
    """The seconds that all trainings of the study together may hold a slot. None: no limit."""
    policy: str
    seed: int
    early_stop: EarlyStop = "off"
    withhold: float = 0.0
    """The chance that a heuristic of another study is kept from this one, so that its worth can be measured."""
    min_gain: float | None = None
    """The smallest relative gain that matters. None: the larger of 2 % and two sigmas."""
    confirm_seeds: int | None = None
    """Fresh seeds of the finalist and of the default that the end trains. None: as many as the budget has room for."""
    guardrails: dict[str, Guardrail] = {}
    """The guardrails by measure. A configuration that violates one is never the incumbent."""
    brief: str
    """The facts of the brief as JSON, as start_study answered them, without the advice from memory."""
    closing: bool = False
    """Whether the choice is made and the sealed test is about to be read: only the fresh seeds are trained."""
    finished: bool = False

    @property
    def limits(self) -> dict[str, dict[str, float]]:
        """The guardrails in the form that start_study takes."""
        return {name: limit.model_dump(exclude_none=True) for name, limit in self.guardrails.items()}


class Expected(Record):
    """What the engineer expects of a trial, said before it ran."""

    field: str
    direction: Literal["up", "down", "none"]
    effect: float | None = None
    confidence: float | None = None


class NewTrial(Record):
    """A trial as start_trial takes it. The store assigns `number`, because replicates share one."""

    study_id: str
    parent: str | None
    changes: Config
    config: Config
    config_hash: str
    fingerprint: str | None = None
    """Trials with the same fingerprint train to the same weights."""
    seed: int
    replicate_of: str | None = None
    hypothesis: str | None = None
    expected: Expected | None = None
    cites: tuple[str, ...] = ()
    snapshot_id: str | None = None
    request_key: str | None = None
    early_stop: EarlyStop = "auto"
    """`off`: the trial is trained to its end, whatever the study's rule says of it."""


class Trial(NewTrial):
    """One training. Its metrics are validation metrics at the best epoch."""

    trial_id: str
    number: int
    created_at: datetime
    status: TrialStatus = "queued"
    message: str = ""
    validation: dict[str, float] = {}
    measures: dict[str, float] = {}
    """Coverage and popularity of the recommended items, and how long a recommendation takes: see TrialResult."""
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    eval_seconds: float = 0.0
    peak_memory_mb: float | None = None
    predicted_memory_mb: float | None = None
    parameters: int | None = None
    device: str | None = None
    threads: int | None = None
    trainer_version: str | None = None
    versions: dict[str, str] = {}
    weights_of: str | None = None
    """The trial whose weights were evaluated again. Nothing was trained, so it says nothing about seed noise."""
    verdict: str | None = None
    """The verdict when the trial finished, None where nothing could be compared. Homes from before the present rule
    also hold `tied` and `retest`: they are shown, and nothing is decided by them."""

    @property
    def finished(self) -> bool:
        """Whether the trial has an outcome."""
        return self.status not in ("queued", "running", "interrupted")

    @property
    def scored(self) -> bool:
        """Whether its validation metrics can be compared: it ended as planned, or ran out of time."""
        return self.status in ("ok", "timed_out") and bool(self.validation)


class Attempt(Record):
    """One process that worked on a trial. `ended_at` is None until the process is known to have ended."""

    attempt_id: str
    trial_id: str
    pid: int
    create_time: float
    started_at: datetime
    ended_at: datetime | None = None
    cause: str | None = None


class Note(Record):
    """A reflection, a heuristic or a summary. A note is never rewritten; a newer one supersedes it."""

    note_id: str
    study_id: str
    kind: NoteKind
    text: str
    evidence: tuple[str, ...] = ()
    supersedes: tuple[str, ...] = ()
    superseded_by: str | None = None
    verdict: ClaimVerdict | None = None
    """The verdict of a heuristic. Without a claim it stays insufficient, because nothing can check it."""
    claim_text: str | None = None
    """The claim as JSON text; the property `claim` parses it."""
    forced: bool | None = None
    """Whether the claim was written although the data refuted it; None without a claim."""
    transfer: ClaimVerdict | None = None
    """The verdict on whether the claim holds on unseen datasets."""
    n_pairs: int | None = None
    n_datasets: int | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    created_at: datetime
    dataset: str
    backbone: str

    @property
    def claim(self) -> Claim | None:
        """The claim of the heuristic, None where it has none."""
        return None if self.claim_text is None else Claim.model_validate_json(self.claim_text)


class Closing(Record):
    """The choice with which a study closes: the trials of the chosen configuration and of the default so far."""

    study_id: str
    chosen: tuple[str, ...]
    default: tuple[str, ...]
    chosen_seeds: tuple[int, ...] = ()
    """The fresh seeds of the chosen configuration, which are trained after the choice and are what the test reports."""
    default_seeds: tuple[int, ...] = ()
    """Those of the default."""


class NewReveal(Record):
    """What one look at a sealed test split showed."""

    study_id: str
    dataset_hash: str
    chosen: tuple[str, ...]
    """The trials of the chosen configuration over which its test is reported."""
    default: tuple[str, ...]
    """Those of the default."""
    test: dict[str, dict[str, float]]
    """The test metrics, by trial id, also of seeds that are not reported."""
    baselines: dict[str, dict[str, float]] = {}
    """The test metrics of models that need no training, by model."""
    users: int | None = None
    """How many users were tested. None: unknown, so as many as the dataset has."""
    user_variance: float | None = None
    """How much the log gain varies with the users that were drawn. None: unknown."""
    apart: dict[str, dict[str, float]] = {}
    """The test metrics of users without a training event, by trial id; they are in no other number."""
    apart_users: int | None = None
    """How many such users were tested. None: none."""


class Reveal(NewReveal):
    """One opening of a sealed test split. `ordinal` counts the openings for one dataset content, from 1."""

    ordinal: int
    created_at: datetime


class PolicyRun(Record):
    """A policy that runs a study inside the owner process. `outcome` is None until the run has ended."""

    run_id: str
    study_id: str
    started_at: datetime
    policy: str
    until_trials: int
    """The run ends once the study has this many configurations, whoever trained them."""
    budget_seconds: float | None
    """The wall-clock limit of the run, counted from its start. None: no limit."""
    finishes: bool
    """Whether the run also finishes the study, which opens the sealed test."""
    ended_at: datetime | None = None
    outcome: RunOutcome | None = None
    message: str = ""
