"""Frozen records of what memory holds; the store gives and takes these and nothing else."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from memory.claims import Claim
from trainers.space import Config, Space
from trainers.spec import DatasetFacts, FilterSeen, Outcome

Level = Literal["trial", "reflection", "heuristic", "summary"]
NoteKind = Literal["reflection", "heuristic", "summary"]
TrialStatus = Literal["queued", "running", "interrupted"] | Outcome
"""`interrupted`: the last attempt ended without a result; the same run_trial starts a new attempt."""
EarlyStop = Literal["auto", "off"]
"""Whether trainings that are hopeless beside earlier ones of the study are stopped."""
RunOutcome = Literal["done", "cancelled", "failed"]
ClaimVerdict = Literal["supported", "refuted", "mixed", "insufficient"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Guardrail(Record):
    """The least and the most that a measure may be, on average over a configuration's trainings."""

    min: float | None = None
    max: float | None = None


class Study(Record):
    """One tuning of one backbone on one dataset. `space` is the study's own; its default is trial 0."""

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
    """How long its trainings may hold a slot, all together."""
    policy: str
    seed: int
    early_stop: EarlyStop = "off"
    withhold: float = 0.0
    """The chance that a heuristic of another study is kept from this one, so that its worth can be measured."""
    guardrails: dict[str, Guardrail] = {}
    """By measure; a configuration that violates one is never the incumbent."""
    brief: str
    """The brief's facts as JSON, as start_study answered them (without what memory said then)."""
    finished: bool = False

    @property
    def limits(self) -> dict[str, dict[str, float]]:
        """The guardrails as start_study was given them."""
        return {name: limit.model_dump(exclude_none=True) for name, limit in self.guardrails.items()}


class Expected(Record):
    """What the engineer expects of a trial, said before it ran."""

    field: str
    direction: Literal["up", "down", "none"]
    effect: float | None = None
    confidence: float | None = None


class NewTrial(Record):
    """What start_trial is told. `number` is left to the store: replicates share it."""

    study_id: str
    parent: str | None
    changes: Config
    config: Config
    config_hash: str
    fingerprint: str | None = None
    """Trials that share it train to the same weights."""
    seed: int
    replicate_of: str | None = None
    hypothesis: str | None = None
    expected: Expected | None = None
    cites: tuple[str, ...] = ()
    snapshot_id: str | None = None
    request_key: str | None = None


class Trial(NewTrial):
    """One training. Metrics are of validation, at the best epoch."""

    trial_id: str
    number: int
    created_at: datetime
    status: TrialStatus = "queued"
    message: str = ""
    validation: dict[str, float] = {}
    measures: dict[str, float] = {}
    """Coverage and popularity of what it recommends, and how long that takes: see TrialResult."""
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
    """The trial whose weights were evaluated again: nothing was trained, so this is no evidence of noise of its own."""
    verdict: str | None = None
    """As told when the trial finished: better, worse, tied, retest, or None where nothing could be compared."""

    @property
    def finished(self) -> bool:
        """Whether the trial has an outcome."""
        return self.status not in ("queued", "running", "interrupted")

    @property
    def scored(self) -> bool:
        """Whether its validation may be compared: it ended as planned, or its time was up."""
        return self.status in ("ok", "timed_out") and bool(self.validation)


class Attempt(Record):
    """One process that worked on a trial. `ended_at` None: it is not known to have ended."""

    attempt_id: str
    trial_id: str
    pid: int
    create_time: float
    started_at: datetime
    ended_at: datetime | None = None
    cause: str | None = None


class Note(Record):
    """A reflection, a heuristic or a summary. Never rewritten: a newer one supersedes it."""

    heuristic_id: str
    study_id: str
    kind: NoteKind
    text: str
    evidence: tuple[str, ...] = ()
    supersedes: tuple[str, ...] = ()
    superseded_by: str | None = None
    verdict: ClaimVerdict | None = None
    """Of heuristics only; without a claim it stays insufficient, since nothing can check it."""
    claim_text: str | None = None
    """The claim as JSON; `claim` reads it."""
    forced: bool | None = None
    """Of a claim: whether it was written against data that refuted it."""
    transfer: ClaimVerdict | None = None
    """Whether the claim is known to hold on datasets that were not seen."""
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
        """What the heuristic says in numbers, if anything."""
        return None if self.claim_text is None else Claim.model_validate_json(self.claim_text)


class Reveal(Record):
    """One look at a sealed test split. `ordinal` counts the looks at one dataset content, from 1."""

    study_id: str
    dataset_hash: str
    ordinal: int
    chosen: tuple[str, ...]
    default: tuple[str, ...]
    test: dict[str, dict[str, float]]
    """By trial id."""
    created_at: datetime


class PolicyRun(Record):
    """A policy that plays a study inside the owner. `outcome` None: it has not ended."""

    run_id: str
    study_id: str
    started_at: datetime
    policy: str
    until_trials: int
    """It ends once the study has so many configurations, whoever trained them."""
    budget_seconds: float | None
    """Wall clock from its start."""
    finishes: bool
    """Whether it ends the study, too, and so opens the sealed test."""
    ended_at: datetime | None = None
    outcome: RunOutcome | None = None
    message: str = ""
