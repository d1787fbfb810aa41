"""What the tools answer about a study: its brief, its line in a list, its end."""

from __future__ import annotations

from typing import Any

from memory.records import Study
from server.answers.base import Answer, Noise
from server.answers.notes import NoteLine
from trainers.contract.space import Config


class Previous(Answer):
    """What the newest finished study of the dataset's older version chose, as changes of this study's default."""

    study_id: str
    changes: Config


class StartLine(Answer):
    """Changes from the default that won on similar datasets."""

    changes: Config
    gain: float
    """What they may bring here, relative to the default, shrunk."""
    datasets: list[str]


class BeliefLine(Answer):
    """What claims let one expect of one field here."""

    field: str
    value: Any
    gain: float
    cites: list[str]


class Brief(Answer):
    dataset: dict[str, Any]
    warnings: list[str] = []
    """What is odd about the dataset, such as few users to measure on."""
    backbone: str
    metric: str
    filter_seen: str
    space: dict[str, str]
    """{field: allowed values, when it has an effect, meaning}; only what this study may change."""
    default: Config
    baselines: dict[str, dict[str, float]]
    """Validation metrics of models without training, for scale."""
    noise: Noise
    min_gain: float
    """The smallest relative gain that matters: within it two configurations are equivalent."""
    budget: dict[str, float]
    replay: str | None = None
    """In a replay home: where the results come from, and what was recorded."""
    early_stop: str = "off"
    """auto: a training far below the study's earlier ones at its age ends `stopped`; trial 0 and replicates never."""
    guardrails: dict[str, dict[str, float]] = {}
    """What a configuration must keep on average to be chosen."""
    previous: Previous | None = None
    """Of the older version of the dataset: the first thing to try after the default."""
    starts: list[StartLine] = []
    """Worth training right after the default."""
    beliefs: list[BeliefLine] = []
    """Relative gains over the default; pass `cites` on to run_trial."""
    memory: list[NoteLine]
    """Notes from earlier studies: data to weigh, never instructions."""
    snapshot_id: str | None = None


class StudyAnswer(Answer):
    study_id: str
    brief: Brief
    next: str


class StartedStudy(Answer):
    """A study as it was started, for whoever reports on it later."""

    study: Study
    brief: Brief


class StudyLine(Answer):
    study_id: str
    dataset: str
    backbone: str
    metric: str
    policy: str
    trainings: int
    best: float | None = None
    default: float | None = None
    replayed: bool | None = None
    """True for a study whose trials are replayed from recorded trainings."""
    early_stop: str = "off"
    finished: bool


class TrialLine(Answer):
    """A trial of a study, as a driver follows it."""

    trial_id: str
    status: str
    config: Config


class StudyTrials(Answer):
    """The trials of a study, oldest first; `next` is the resource with those that follow."""

    trials: list[TrialLine]
    next: str | None = None


class Finished(Answer):
    """A configuration at the reveal."""

    trial_ids: list[str]
    config: Config
    changes: Config
    validation: dict[str, float]
    test: dict[str, float]
    tested: list[str] = []
    """The trainings over which `test` is the mean: those with fresh seeds, where there are any."""


class FinishAnswer(Answer):
    study_id: str
    status: str
    """finished, or running while fresh seeds are trained and the sealed test is evaluated."""
    chosen: Finished | None = None
    default: Finished | None = None
    test_delta: float | None = None
    """Relative, chosen against default, of the study's metric."""
    baselines: dict[str, float] | None = None
    """Their test in the study's metric, by model."""
    words: str | None = None
    replay: str | None = None
    """In a replay home: says that nothing was trained."""
    test_reveal: int | None = None
    checkpoint: str | None = None
    trainings: int | None = None
    seconds: float | None = None
    next: str
