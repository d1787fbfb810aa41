"""report.json: the results of a drive, in a form that does not change within a version."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from pydantic import BaseModel, ConfigDict

from server.answers import Finished, MemoryItem, TrialAnswer
from server.drive.loop import sigma_of
from server.drive.state import Drive
from server.drive.study_client import StudyClient
from server.policies.base import Configuration, configurations, ranked
from server.version import installed_version
from trainers.contract.space import Config


class Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class DatasetPart(Part):
    name: str
    users: int
    items: int
    interactions: int
    content_hash: str
    split: str
    recipe: str | None = None
    """The options of `virtualmle data add` that made it; None where none are known."""
    warnings: list[str] = []
    """What is odd about it."""


class TrialPart(Part):
    """One training. `number` is shared by replicates."""

    trial_id: str
    number: int
    parent: str | None
    changes: Config
    seed: int
    status: str
    validation: dict[str, float]
    measures: dict[str, float]
    epochs: int
    seconds: float | None
    peak_memory_mb: float | None
    verdict: str | None
    hypothesis: str | None
    replayed: str | None = None
    """Where the numbers come from if nothing was trained: `recorded`, or `simulated seed`."""
    violations: list[str] = []
    """The guardrails that its configuration violates, in words; it is never chosen then."""


class NoisePart(Part):
    """Relative seed noise of the metric."""

    sigma: float
    df: float


class DefaultPart(Part):
    """`validation` is the mean over the seeds `trial_ids`, `test` that over the seeds `tested`."""

    trial_ids: list[str]
    validation: dict[str, float]
    test: dict[str, float]
    tested: list[str] = []


class BestPart(Part):
    """The choice: its `validation` is the mean over the seeds `trial_ids`, its `test` that over the seeds `tested`.

    Those were drawn after the choice, where there are such; `checkpoint` is that of the seed that validated best.
    """

    trial_ids: list[str]
    config: Config
    validation: dict[str, float]
    test: dict[str, float]
    tested: list[str] = []
    checkpoint: str | None


class NotePart(Part):
    heuristic_id: str
    kind: str
    text: str
    verdict: str | None


class Versions(Part):
    virtualmle: str
    torch: str | None
    python: str


class Report(Part):
    """Metrics are fractions. `best` is None if nothing scored, `test_reveal` if the test stayed sealed."""

    version: Literal[2] = 2
    """Since 2 the verdicts are better, worse, equivalent, likely better, likely worse and undecided, and the test is
    that of fresh seeds. Trials of homes from before may still carry the words of version 1."""
    study_id: str
    dataset: DatasetPart
    backbone: str
    policy: str
    preset: str
    metric: str
    seed: int
    early_stop: str = "off"
    replay: str | None = None
    """In a replay home: where the results come from, and what was recorded."""
    trainings: int
    trials: list[TrialPart]
    baselines: dict[str, dict[str, float]]
    """Validation metrics of each baseline, by its name."""
    test_baselines: dict[str, float] = {}
    """Their test in the study's metric, once the test is revealed."""
    confirm_seeds: int | None = None
    """Fresh seeds that the study was asked to end with. None: as many as the budget had room for, at most 2."""
    noise: NoisePart
    guardrails: dict[str, dict[str, float]] = {}
    """The limits by measure that a configuration has to keep."""
    default: DefaultPart
    best: BestPart | None
    test_reveal: int | None
    test_delta: float | None = None
    """Relative gain of the choice over the default on the test."""
    words: str | None = None
    """What finish_study said of the outcome, with the interval of the gain."""
    heuristics: list[NotePart]
    calibration: str | None = None
    """How well predictions came true over all studies of this policy; None if it made none."""
    seconds: float
    dollars: float | None = None
    """Cost of a model's tokens in US dollars, if their price is known."""
    versions: Versions


def build(drive: Drive) -> Report:
    """The report of a drive as it stands, finished or not."""
    study_client, plan, finish = drive.open_study, drive.plan, drive.open_study.finish
    brief, sigma = study_client.study.brief, sigma_of(study_client)
    facts = {name: brief.dataset.get(name) for name in DatasetPart.model_fields} | {"warnings": brief.warnings}
    return Report(
        study_id=study_client.study.study_id,
        dataset=DatasetPart.model_validate(facts),
        backbone=brief.backbone,
        policy=plan.policy,
        preset=plan.request.preset,
        metric=brief.metric,
        seed=plan.request.seed,
        early_stop=brief.early_stop,
        replay=brief.replay,
        trainings=len(study_client.trials),
        trials=[_trial(answer) for answer in study_client.trials.values()],
        baselines=brief.baselines,
        test_baselines=finish.baselines or {} if finish else {},
        confirm_seeds=plan.request.confirm_seeds,
        noise=NoisePart(sigma=sigma.sigma, df=sigma.df),
        guardrails=brief.guardrails,
        default=_default(study_client),
        best=_best(study_client),
        test_reveal=finish.test_reveal if finish else None,
        test_delta=finish.test_delta if finish else None,
        words=finish.words if finish else None,
        heuristics=[_note(item) for item in _in_order(study_client, drive.written)],
        calibration=study_client.calibration,
        seconds=round(drive.elapsed(), 1),
        dollars=None if drive.dollars is None else round(drive.dollars, 4),
        versions=Versions(virtualmle=installed_version(), torch=_installed("torch"), python=platform.python_version()),
    )


def _trial(answer: TrialAnswer) -> TrialPart:
    shown = answer.model_dump(include=set(TrialPart.model_fields) - {"validation"})
    return TrialPart(**shown, validation=answer.metrics)


def _in_order(study_client: StudyClient, items: list[MemoryItem]) -> list[MemoryItem]:
    """Summaries and heuristics first, then the reflections in the order of their trials."""
    kinds, trials = (
        {"summary": 0, "heuristic": 1},
        {trial_id: place for place, trial_id in enumerate(study_client.trials)},
    )
    return sorted(items, key=lambda item: (kinds.get(item.level, 2), trials.get(next(iter(item.evidence), ""), -1)))


def _note(item: MemoryItem) -> NotePart:
    return NotePart(heuristic_id=item.id, kind=item.level, text=item.text, verdict=item.verdict)


def _default(study_client: StudyClient) -> DefaultPart:
    if study_client.finish is not None and study_client.finish.default is not None:
        default = study_client.finish.default
        return DefaultPart(**default.model_dump(include={"trial_ids", "validation", "test", "tested"}))
    first = next(iter(configurations(study_client.observations())), None)
    if first is None:
        return DefaultPart(trial_ids=[], validation={}, test={})
    return DefaultPart(trial_ids=_ids(first), validation=_validation(study_client, first), test={})


def _best(study_client: StudyClient) -> BestPart | None:
    chosen: Finished | None = study_client.finish.chosen if study_client.finish else None
    if chosen is not None:
        shown = chosen.model_dump(include={"trial_ids", "config", "validation", "test", "tested"})
        return BestPart(**shown, checkpoint=study_client.finish.checkpoint if study_client.finish else None)
    best = next(iter(ranked(study_client.observations())), None)
    if best is None:
        return None
    return BestPart(
        trial_ids=_ids(best), config=best.config, validation=_validation(study_client, best), test={}, checkpoint=None
    )


def _ids(configuration: Configuration) -> list[str]:
    return [trial.trial_id for trial in configuration.scored or configuration.trials]


def _validation(study_client: StudyClient, configuration: Configuration) -> dict[str, float]:
    """Validation metrics of a configuration: the mean over its scored seeds, or over those that violate a guardrail."""
    trials = configuration.counted or [trial for trial in configuration.trials if trial.violations]
    scored = [study_client.trials[trial.trial_id].metrics for trial in trials]
    scored = [metrics for metrics in scored if metrics]
    return {name: sum(metrics[name] for metrics in scored) / len(scored) for name in scored[0]} if scored else {}


def _installed(package: str) -> str | None:
    """A package's version from its metadata: torch itself is never imported here."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
