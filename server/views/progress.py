"""The progress of a study: its configurations with all their seeds, the best of them, and the policy that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from memory.records import PolicyRun, Study, Trial
from memory.store import Memory
from server.answers import Answer, Noise, Score, rounded
from server.study import admission, policy_limit, standings
from server.study.confirming import kept_seconds
from server.study.guardrail_words import guardrail_words
from server.study.history import StudyHistory, read_history
from server.study.verdict_words import leader_words
from server.views.digest import within_budget
from server.views.items import noise_line, score_line
from trainers.contract.space import Config


class PolicyLine(Answer):
    """A policy that plays the study inside the server."""

    policy: str
    status: str
    """running, done, cancelled or failed."""
    until_trials: int
    """The policy ends once the study has this many configurations."""
    seconds_left: float | None = None
    message: str | None = None


class ConfigurationLine(Answer):
    """One configuration of a study, its seeds together."""

    number: int
    trial_id: str
    """The configuration's first training, to pass as parent or replicate_of."""
    changes: Config
    """Changes from the default."""
    trainings: int
    mean: float | None = None
    delta: float | None = None
    """Relative difference from the default."""
    verdict: str | None = None
    status: str | None = None
    """Status of the latest training, if the configuration has no score."""
    violations: list[str] | None = None
    """Guardrails that it violates, so that it is never chosen."""


class StudyProgress(Answer):
    study_id: str
    dataset: str
    backbone: str
    metric: str
    status: str
    """open, closing or finished."""
    policy: PolicyLine | None = None
    trainings: int
    configurations: int
    trials_left: int | None = None
    seconds_left: float | None = None
    running: list[str]
    best: Score | None = None
    best_delta: float | None = None
    """Relative difference from the default."""
    noise: Noise | None = None
    guardrails: str | None = None
    """Which configurations violate a guardrail, and what the study builds on then."""
    table: list[ConfigurationLine]
    """The best configuration first, those without a score last."""
    truncated: bool = False
    cursor: str | None = None
    next: str


TOKENS = 800
"""Approximate token budget of the table in one answer: after a random search, every line names every field."""


def progress(memory: Memory, study: Study, limit: int, offset: int = 0) -> StudyProgress:
    """The progress of a study, with up to `limit` lines of the table from `offset`, or as many as fit."""
    history, run = read_history(memory, study.study_id), memory.runs.last(study.study_id)
    trials, best, default = history.trials, history.incumbent, history.default
    lines = table(history)
    shown = lines[offset : offset + limit]
    shown = shown[: within_budget(shown, 0, TOKENS)]
    now, end = datetime.now(UTC), offset + len(shown)
    left = admission.seconds_left(study, now, kept_seconds(study, trials))
    running = [trial.trial_id for trial in trials if trial.status in ("queued", "running")]
    return StudyProgress(
        **study.model_dump(include={"study_id", "dataset", "backbone", "metric"}),
        status="finished" if study.finished else "closing" if study.closing else "open",
        policy=_policy(run, trials, now) if run else None,
        trainings=len(trials),
        configurations=len(lines),
        trials_left=admission.trials_left(study, trials),
        seconds_left=None if left is None else rounded(left),
        running=running,
        best=score_line(study, best, leader_words(history.ranking)) if best else None,
        best_delta=rounded(best.mean / default.mean - 1) if best and default and default.mean > 0 else None,
        noise=noise_line(history.noise),
        guardrails=guardrail_words(history),
        table=shown,
        truncated=end < len(lines),
        cursor=str(end) if end < len(lines) else None,
        next=_next(study, run, running),
    )


def table(history: StudyHistory) -> list[ConfigurationLine]:
    """Every configuration, the best mean first, those without a score last in the order they began."""
    study, default = history.study, history.default
    by_config = {standing.config_hash: standing for standing in history.ranked}
    groups: dict[str, list[Trial]] = {}
    for trial in history.trials:
        groups.setdefault(trial.config_hash, []).append(trial)
    lines: list[ConfigurationLine] = []
    for name in [*by_config, *(name for name in groups if name not in by_config)]:
        group, score = groups[name], by_config.get(name)
        verdicts = [trial.verdict for trial in group if trial.verdict]
        against = default.mean if default and default.mean > 0 and default.config_hash != name else None
        lines.append(
            ConfigurationLine(
                number=group[0].number,
                trial_id=group[0].trial_id,
                changes=standings.changes_from(group[0].config, study.space.default()),
                trainings=len(group),
                mean=rounded(score.mean) if score else None,
                delta=rounded(score.mean / against - 1) if score and against else None,
                verdict=verdicts[-1] if verdicts else None,
                status=None if score else group[-1].status,
                violations=history.violations(group[-1]) or None if score else None,
            )
        )
    return lines


def _policy(run: PolicyRun, trials: Sequence[Trial], now: datetime) -> PolicyLine:
    left = None
    if run.outcome is None and run.budget_seconds is not None:
        left = rounded(max(0.0, run.budget_seconds - (now - run.started_at).total_seconds()))
    return PolicyLine(
        policy=run.policy,
        status=run.outcome or "running",
        until_trials=policy_limit.limit(run, trials),
        seconds_left=left,
        message=run.message or None,
    )


def _next(study: Study, run: PolicyRun | None, running: Sequence[str]) -> str:
    named = f"study_id={study.study_id!r}"
    if study.finished:
        return f"finish_study({named}) shows the revealed test again; start_study opens another study."
    if study.closing:
        return f"finish_study({named}, wait_seconds=45) waits for its fresh seeds and for the sealed test."
    if run is not None and run.outcome is None:
        return (
            f"get_study({named}, wait_seconds=45) waits on; cancel_study({named}) ends it. Your own run_trial fits in."
        )
    if running:
        return f"get_trial(trial_id={running[0]!r}, wait_seconds=45) waits on."
    return f"run_trial or run_policy goes on; finish_study({named}) reveals the sealed test."
