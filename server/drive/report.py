"""report.json: what a drive found, in a form that does not change within a version."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from pydantic import BaseModel, ConfigDict

from server.answers import Finished, MemoryItem, TrialAnswer
from server.drive.desk import Desk
from server.drive.loop import sigma_of
from server.drive.state import Drive
from server.policies.base import Standing, ranked, standings
from server.version import installed_version
from trainers.space import Config


class Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class DatasetPart(Part):
    name: str
    users: int
    items: int
    interactions: int
    content_hash: str
    split: str


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


class NoisePart(Part):
    """Relative seed noise of the metric."""

    sigma: float
    df: float


class DefaultPart(Part):
    trial_ids: list[str]
    validation: dict[str, float]
    test: dict[str, float]


class BestPart(Part):
    """The best mean over seeds on validation; its test is the mean over those seeds."""

    trial_ids: list[str]
    config: Config
    validation: dict[str, float]
    test: dict[str, float]
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
    """Metrics are fractions. `best` is None where nothing scored, `test_reveal` where the test stayed sealed."""

    version: Literal[1] = 1
    study_id: str
    dataset: DatasetPart
    backbone: str
    policy: str
    preset: str
    metric: str
    seed: int
    early_stop: str = "off"
    trainings: int
    trials: list[TrialPart]
    baselines: dict[str, dict[str, float]]
    """Validation of models that need no training."""
    noise: NoisePart
    default: DefaultPart
    best: BestPart | None
    test_reveal: int | None
    heuristics: list[NotePart]
    calibration: str | None = None
    """How well what was expected of trials came true, over all studies of this policy; None where nothing was."""
    seconds: float
    dollars: float | None = None
    """What a model's tokens cost, where their price is known."""
    versions: Versions


def build(drive: Drive) -> Report:
    """The report of a drive as it stands, finished or not."""
    desk, plan = drive.desk_open, drive.plan
    brief, sigma = desk.study.brief, sigma_of(desk)
    facts = {name: brief.dataset.get(name) for name in DatasetPart.model_fields}
    return Report(
        study_id=desk.study.study_id,
        dataset=DatasetPart.model_validate(facts),
        backbone=brief.backbone,
        policy=plan.policy,
        preset=plan.preset,
        metric=brief.metric,
        seed=plan.seed,
        early_stop=brief.early_stop,
        trainings=len(desk.trials),
        trials=[_trial(answer) for answer in desk.trials.values()],
        baselines=brief.baselines,
        noise=NoisePart(sigma=sigma.sigma, df=sigma.df),
        default=_default(desk),
        best=_best(desk),
        test_reveal=desk.finish.test_reveal if desk.finish else None,
        heuristics=[_note(item) for item in _in_order(desk, drive.written)],
        calibration=desk.calibration,
        seconds=round(drive.elapsed(), 1),
        dollars=None if drive.dollars is None else round(drive.dollars, 4),
        versions=Versions(virtualmle=installed_version(), torch=_installed("torch"), python=platform.python_version()),
    )


def _trial(answer: TrialAnswer) -> TrialPart:
    shown = answer.model_dump(include=set(TrialPart.model_fields) - {"validation"})
    return TrialPart(**shown, validation=answer.metrics)


def _in_order(desk: Desk, items: list[MemoryItem]) -> list[MemoryItem]:
    """What is for others first, then the reflections in the order of their trials."""
    kinds, trials = {"summary": 0, "heuristic": 1}, {trial_id: place for place, trial_id in enumerate(desk.trials)}
    return sorted(items, key=lambda item: (kinds.get(item.level, 2), trials.get(next(iter(item.evidence), ""), -1)))


def _note(item: MemoryItem) -> NotePart:
    return NotePart(heuristic_id=item.id, kind=item.level, text=item.text, verdict=item.verdict)


def _default(desk: Desk) -> DefaultPart:
    if desk.finish is not None and desk.finish.default is not None:
        found = desk.finish.default
        return DefaultPart(trial_ids=found.trial_ids, validation=found.validation, test=found.test)
    first = next(iter(standings(desk.observations())), None)
    if first is None:
        return DefaultPart(trial_ids=[], validation={}, test={})
    return DefaultPart(trial_ids=_ids(first), validation=_validation(desk, first), test={})


def _best(desk: Desk) -> BestPart | None:
    found: Finished | None = desk.finish.chosen if desk.finish else None
    if found is not None:
        shown = found.model_dump(include={"trial_ids", "config", "validation", "test"})
        return BestPart(**shown, checkpoint=desk.finish.checkpoint if desk.finish else None)
    best = next(iter(ranked(desk.observations())), None)
    if best is None:
        return None
    return BestPart(
        trial_ids=_ids(best), config=best.config, validation=_validation(desk, best), test={}, checkpoint=None
    )


def _ids(standing: Standing) -> list[str]:
    return [trial.trial_id for trial in standing.scored or standing.trials]


def _validation(desk: Desk, standing: Standing) -> dict[str, float]:
    """The mean over the scored seeds of a configuration."""
    scored = [desk.trials[trial.trial_id].metrics for trial in standing.scored]
    return {name: sum(one[name] for one in scored) / len(scored) for name in scored[0]} if scored else {}


def _installed(package: str) -> str | None:
    """A package's version from its metadata: torch itself is never imported here."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
