"""The MCP tools of policies: run one unattended, watch or cancel it, ask for suggestions, plot the study."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, ImageContent, TextContent
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from memory.off_loop import off_loop
from server.charts.numbers import numbers
from server.charts.png import png
from server.policies import PolicyName
from server.runtime import Runtime
from server.study import policy_limit
from server.tools.call import offset_of, result, runtime_of, tool_errors
from server.views import progress, suggestions

HEARTBEAT_SECONDS = 5.0


async def run_policy(
    ctx: Context[Any, Any],
    study_id: str,
    policy: PolicyName = "playbook",
    max_trials: Annotated[int, Field(ge=1, le=1000)] = 8,
    budget_seconds: Annotated[float, Field(gt=0)] | None = None,
    finish: bool = False,
) -> Annotated[CallToolResult, progress.StudyProgress]:
    """Let a search policy train max_trials more configurations unattended; returns at once and needs no client.

    get_study tells how far it is, cancel_study ends it; run_trial calls of your own fit in between. `finish` ends the
    study afterwards, which reveals the sealed test.
    """
    runtime = runtime_of(ctx)
    with tool_errors():
        study = await off_loop(runtime.memory.study, study_id)
        await runtime.autopilot.start(study, policy, max_trials, budget_seconds, finish)
        return result(await off_loop(progress.progress, runtime.memory, study, 5))


async def get_study(
    ctx: Context[Any, Any],
    study_id: str,
    wait_seconds: Annotated[float, Field(ge=0)] = 0,
    limit: Annotated[int, Field(ge=1, le=200)] = 12,
    cursor: str | None = None,
) -> Annotated[CallToolResult, progress.StudyProgress]:
    """Return how far a study is: its configurations, the best first, what runs, and the policy that plays it.

    wait_seconds waits as long as a policy plays.
    """
    runtime = runtime_of(ctx)
    with tool_errors():
        offset = offset_of(cursor, "get_study")
        await off_loop(runtime.memory.study, study_id)
        await _wait_for_policy(ctx, runtime, study_id, min(wait_seconds, runtime.settings.max_wait_seconds))
        study = await off_loop(runtime.memory.study, study_id)
        return result(await off_loop(progress.progress, runtime.memory, study, limit, offset))


async def cancel_study(
    ctx: Context[Any, Any], study_id: str, forget: SkipJsonSchema[bool] = False
) -> Annotated[CallToolResult, progress.StudyProgress]:
    """End the policy that plays a study, and its queued and running trials. The study stays open."""
    # `forget` takes back a study in which nothing was done, such as that of a dry run.
    runtime = runtime_of(ctx)
    with tool_errors():
        study = await off_loop(runtime.memory.study, study_id)
        await runtime.autopilot.cancel(study_id)
        for trial in await off_loop(runtime.memory.trials, study_id):
            if trial.status in ("queued", "running"):
                await runtime.supervisor.cancel(trial.trial_id)
        answer = await off_loop(progress.progress, runtime.memory, study, 5)
        if forget:
            await off_loop(runtime.memory.snapshots.forget_study, study_id)
        return result(answer)


async def suggest_trial(
    ctx: Context[Any, Any], study_id: str
) -> Annotated[CallToolResult, suggestions.SuggestionAnswer]:
    """Return what playbook, TPE, Gaussian process and memory would try next, and why. Trains nothing."""
    runtime = runtime_of(ctx)
    with tool_errors():
        return result(await off_loop(suggestions.suggestions, runtime.memory, study_id))


async def plot_study(ctx: Context[Any, Any], study_id: str) -> CallToolResult:
    """Return a picture of a study: best so far with its noise band, learning curves, importance of fields."""
    runtime = runtime_of(ctx)
    with tool_errors():
        study = await off_loop(runtime.memory.study, study_id)
        drawing = await off_loop(lambda: png(numbers(runtime.memory, study)))
        summary = await off_loop(progress.progress, runtime.memory, study, 3)
    image = ImageContent(type="image", data=base64.b64encode(drawing).decode(), mime_type="image/png")
    return CallToolResult(content=[image, TextContent(type="text", text=summary.model_dump_json(exclude_none=True))])


async def _wait_for_policy(ctx: Context[Any, Any], runtime: Runtime, study_id: str, seconds: float) -> None:
    """Waits until the study's policy has ended or `seconds` are over; reports progress in configurations."""
    loop = asyncio.get_running_loop()
    end, shown = loop.time() + seconds, 0.0
    while (run := await off_loop(runtime.memory.runs.last, study_id)) is not None and run.outcome is None:
        if (left := end - loop.time()) <= 0:
            return
        if await runtime.autopilot.wait_for_end(study_id, min(left, HEARTBEAT_SECONDS)):
            return
        trials = await off_loop(runtime.memory.trials, study_id)
        trained = len({trial.number for trial in trials if trial.finished})
        until = policy_limit.limit(run, trials)
        shown = max(shown + 0.001, float(trained))  # progress has to increase, also within a training
        await ctx.report_progress(shown, float(until), f"{study_id}: {trained} of {until} trained")
