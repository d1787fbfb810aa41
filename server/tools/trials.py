"""The MCP tools of a trial: run_trial, get_trial, cancel_trial."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult

from memory.off_loop import off_loop
from memory.records import Trial
from server import answers
from server.runtime import Runtime
from server.study.admission import ProtocolError
from server.study.history import read_history
from server.study.requests import TrialRequest
from server.tools.call import Seconds, result, runtime_of, takes_fields_of, tool_errors
from server.views.trial import read_trial_answer
from server.views.user_comparison import compare_users


@takes_fields_of(TrialRequest)
async def run_trial(
    ctx: Context[Any, Any], request: TrialRequest, wait_seconds: Seconds = 45
) -> Annotated[CallToolResult, answers.TrialAnswer]:
    """Train one configuration; return validation metrics, delta, verdict against seed noise, curve and diagnosis.

    `changes` apply to `parent` (a trial_id; default: the incumbent); `replicate_of` trains a trial again with a fresh
    seed; `early_stop` "off" trains a slow starter to its end. After wait_seconds the answer is status "running" and the
    trial goes on: then use get_trial. `request_key` makes a retried call safe.
    Example: run_trial(study_id="s-…", changes={"dropout": 0.3}, hypothesis="…").
    """
    runtime = runtime_of(ctx)
    with tool_errors():
        submission = await runtime.scheduler.submit(request)
        await _wait_for_trial(ctx, runtime, submission.trial, wait_seconds)
        return result(await off_loop(_read_answer, runtime, submission.trial.trial_id, submission.duplicate))


async def get_trial(
    ctx: Context[Any, Any],
    trial_id: str,
    wait_seconds: Seconds = 0,
    detail: Literal["summary", "full"] = "summary",
    compare_to: str | None = None,
) -> Annotated[CallToolResult, answers.TrialAnswer]:
    """Return a trial as run_trial does, waiting up to wait_seconds while it runs. Starts nothing.

    detail="full" adds the configuration, every epoch, and a bootstrap over users against the incumbent or `compare_to`.
    """
    runtime = runtime_of(ctx)
    with tool_errors():
        await _wait_for_trial(ctx, runtime, await off_loop(runtime.memory.trial, trial_id), wait_seconds)
        answer = await off_loop(_read_answer, runtime, trial_id, False, detail == "full")
        if detail == "full" or compare_to:
            users = await off_loop(_compare_users, runtime, trial_id, compare_to)
            answer = answer.model_copy(update={"users": users})
        return result(answer)


def _compare_users(runtime: Runtime, trial_id: str, compare_to: str | None) -> answers.UserComparison | None:
    """Compares the trial with `compare_to`; where that is None, with the incumbent, if possible."""
    memory, settings = runtime.memory, runtime.settings
    trial = memory.trial(trial_id)
    if compare_to is not None:
        return compare_users(memory, settings, trial, compare_to)
    reference = read_history(memory, trial.study_id).judgement(trial).against if trial.scored else None
    try:
        return compare_users(memory, settings, trial, reference.best_trial.trial_id) if reference else None
    except ProtocolError:
        return None


async def cancel_trial(ctx: Context[Any, Any], trial_id: str) -> Annotated[CallToolResult, answers.TrialStatusAnswer]:
    """End a queued or running trial; it keeps its books as `cancelled`."""
    runtime = runtime_of(ctx)
    with tool_errors():
        await runtime.supervisor.cancel(trial_id)
        trial = await off_loop(runtime.memory.trial, trial_id)
    following = f"run_trial(study_id={trial.study_id!r}, changes={{…}}) goes on with the study."
    return result(answers.TrialStatusAnswer(trial_id=trial_id, status=trial.status, next=following))


async def _wait_for_trial(ctx: Context[Any, Any], runtime: Runtime, trial: Trial, seconds: float) -> None:
    """Wait for a trial and report its progress. The trial goes on even if the caller is gone."""
    if trial.finished or seconds <= 0:
        return
    total = float(trial.config.get("max_epochs", 0)) or None
    shown = 0.0

    async def on_progress(epochs: int) -> None:
        nonlocal shown
        shown = max(shown + 0.001, float(epochs))  # progress has to increase, also within an epoch
        await ctx.report_progress(shown, total, f"{trial.trial_id}: {epochs} epoch{'' if epochs == 1 else 's'} done")

    await runtime.supervisor.wait(trial.trial_id, min(seconds, runtime.settings.max_wait_seconds), on_progress)


def _read_answer(runtime: Runtime, trial_id: str, duplicate: bool = False, detail: bool = False) -> answers.TrialAnswer:
    """Reads memory: call it off the event loop."""
    failure = runtime.supervisor.failure(trial_id)
    trial = runtime.memory.trial(trial_id)
    if trial.status == "interrupted" and runtime.supervisor.holds(trial_id):
        trial = trial.model_copy(update={"status": "queued"})  # its new attempt has not begun
    return read_trial_answer(runtime.memory, trial, duplicate=duplicate, detail=detail, failure=failure)
