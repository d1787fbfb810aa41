"""How far a study is: its configurations with their seeds together, the best of them, and the policy that plays it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from memory.records import PolicyRun, Study, Trial
from memory.store import Memory
from server import admission, studies
from server.answers import Answer, Noise, Score
from server.brief import noise_line, rounded
from server.digest import within_budget
from server.views import earlier_groups, score_line
from trainers.space import Config


class PolicyLine(Answer):
    """A policy that plays the study inside the server."""

    policy: str
    status: str
    """running, done, cancelled or failed."""
    until_trials: int
    """It ends once the study has so many configurations."""
    seconds_left: float | None = None
    message: str | None = None


class ConfigurationLine(Answer):
    """One configuration of a study, its seeds together."""

    number: int
    trial_id: str
    """Its first training: for parent and replicate_of."""
    changes: Config
    """From the default."""
    trainings: int
    mean: float | None = None
    delta: float | None = None
    """Relative, against the default."""
    verdict: str | None = None
    status: str | None = None
    """Without a score: how it ended, or that it has not."""


class StudyProgress(Answer):
    study_id: str
    dataset: str
    backbone: str
    metric: str
    status: str
    """open or finished."""
    policy: PolicyLine | None = None
    trainings: int
    configurations: int
    trials_left: int | None = None
    seconds_left: float | None = None
    running: list[str]
    best: Score | None = None
    best_delta: float | None = None
    """Relative, against the default."""
    noise: Noise | None = None
    table: list[ConfigurationLine]
    """The best first, those without a score last."""
    truncated: bool = False
    cursor: str | None = None
    next: str


TOKENS = 800
"""Of the table in one answer, about: configurations of a random search differ from the default in every field."""


def progress(memory: Memory, study: Study, limit: int, offset: int = 0) -> StudyProgress:
    """`limit` lines of the table from `offset` on, or as many as fit."""
    trials = memory.trials(study.study_id)
    run = memory.runs.last(study.study_id)
    lines = table(study, trials)
    best, default = studies.chosen(study, trials), studies.default_standing(study, trials)
    shown = lines[offset : offset + limit]
    shown = shown[: within_budget(shown, 0, TOKENS)]
    now, end = datetime.now(UTC), offset + len(shown)
    left = admission.seconds_left(study, now)
    running = [trial.trial_id for trial in trials if trial.status in ("queued", "running")]
    sigma = studies.noise_of(study, trials, earlier_groups(memory, study))
    return StudyProgress(
        **study.model_dump(include={"study_id", "dataset", "backbone", "metric"}),
        status="finished" if study.finished else "open",
        policy=_policy(run, now) if run else None,
        trainings=len(trials),
        configurations=len(lines),
        trials_left=admission.trials_left(study, trials),
        seconds_left=None if left is None else rounded(left),
        running=running,
        best=score_line(study, best) if best else None,
        best_delta=rounded(best.mean / default.mean - 1) if best and default and default.mean > 0 else None,
        noise=noise_line(sigma, 1, len(best.scores) if best else 1),
        table=shown,
        truncated=end < len(lines),
        cursor=str(end) if end < len(lines) else None,
        next=_next(study, run, running),
    )


def table(study: Study, trials: Sequence[Trial]) -> list[ConfigurationLine]:
    """Every configuration, the best mean first, those without a score last in the order they began."""
    default = studies.default_standing(study, trials)
    standing = {one.config_hash: one for one in studies.standings(study, trials)}
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.config_hash, []).append(trial)
    lines: list[ConfigurationLine] = []
    for name in [*standing, *(name for name in groups if name not in standing)]:
        group, score = groups[name], standing.get(name)
        told = [trial.verdict for trial in group if trial.verdict]
        against = default.mean if default and default.mean > 0 and default.config_hash != name else None
        lines.append(
            ConfigurationLine(
                number=group[0].number,
                trial_id=group[0].trial_id,
                changes=studies.changes_from(group[0].config, study.space.default()),
                trainings=len(group),
                mean=rounded(score.mean) if score else None,
                delta=rounded(score.mean / against - 1) if score and against else None,
                verdict=told[-1] if told else None,
                status=None if score else group[-1].status,
            )
        )
    return lines


def _policy(run: PolicyRun, now: datetime) -> PolicyLine:
    left = None
    if run.outcome is None and run.budget_seconds is not None:
        left = rounded(max(0.0, run.budget_seconds - (now - run.started_at).total_seconds()))
    return PolicyLine(
        policy=run.policy,
        status=run.outcome or "running",
        until_trials=run.until_trials,
        seconds_left=left,
        message=run.message or None,
    )


def _next(study: Study, run: PolicyRun | None, running: Sequence[str]) -> str:
    named = f"study_id={study.study_id!r}"
    if study.finished:
        return f"finish_study({named}) shows the revealed test again; start_study opens another study."
    if run is not None and run.outcome is None:
        return (
            f"get_study({named}, wait_seconds=45) waits on; cancel_study({named}) ends it. Your own run_trial fits in."
        )
    if running:
        return f"get_trial(trial_id={running[0]!r}, wait_seconds=45) waits on."
    return f"run_trial or run_policy goes on; finish_study({named}) reveals the sealed test."
