"""The MCP tools of unattended work: a policy plays a study inside the server, and the chat looks in."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal

import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, ImageContent, TextContent
from pydantic import Field

from server import progress, suggestions
from server.calls import offset_of, result, runtime_of, told
from server.dashboard.figure import png
from server.dashboard.numbers import numbers
from server.runtime import Runtime

PlayedHere = Literal["playbook", "random", "tpe", "hybrid", "gp"]
HEARTBEAT_SECONDS = 5.0


async def run_policy(
    ctx: Context[Any, Any],
    study_id: str,
    policy: PlayedHere = "playbook",
    max_trials: Annotated[int, Field(ge=1, le=1000)] = 8,
    budget_seconds: Annotated[float, Field(gt=0)] | None = None,
    finish: bool = False,
) -> Annotated[CallToolResult, progress.StudyProgress]:
    """Let a search policy train max_trials more configurations unattended; returns at once and needs no client.

    get_study tells how far it is, cancel_study ends it; run_trial calls of your own fit in between. `finish` ends the
    study afterwards, which reveals the sealed test.
    """
    runtime = runtime_of(ctx)
    with told():
        study = runtime.memory.study(study_id)
        await runtime.autopilot.start(study, policy, max_trials, budget_seconds, finish)
        return result(progress.progress(runtime.memory, study, limit=5))


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
    with told():
        offset = offset_of(cursor, "get_study")
        runtime.memory.study(study_id)
        await _wait(ctx, runtime, study_id, min(wait_seconds, runtime.settings.max_wait_seconds))
        return result(progress.progress(runtime.memory, runtime.memory.study(study_id), limit, offset))


async def cancel_study(ctx: Context[Any, Any], study_id: str) -> Annotated[CallToolResult, progress.StudyProgress]:
    """End the policy that plays a study, and its queued and running trials. The study stays open."""
    runtime = runtime_of(ctx)
    with told():
        study = runtime.memory.study(study_id)
        await runtime.autopilot.cancel(study_id)
        for trial in runtime.memory.trials(study_id):
            if trial.status in ("queued", "running"):
                await runtime.supervisor.cancel(trial.trial_id)
        return result(progress.progress(runtime.memory, study, limit=5))


async def suggest_trial(
    ctx: Context[Any, Any], study_id: str
) -> Annotated[CallToolResult, suggestions.SuggestionAnswer]:
    """Return what playbook, TPE, Gaussian process and memory would try next, and why. Trains nothing."""
    runtime = runtime_of(ctx)
    with told():
        study = runtime.memory.study(study_id)
        return result(await anyio.to_thread.run_sync(suggestions.suggestions, runtime.memory, study))


async def plot_study(ctx: Context[Any, Any], study_id: str) -> CallToolResult:
    """Return a picture of a study: best so far with its noise band, learning curves, importance of fields."""
    runtime = runtime_of(ctx)
    with told():
        study = runtime.memory.study(study_id)
        found = await anyio.to_thread.run_sync(numbers, runtime.memory, study)
        drawing = await anyio.to_thread.run_sync(png, found)
    image = ImageContent(type="image", data=base64.b64encode(drawing).decode(), mime_type="image/png")
    told_so = progress.progress(runtime.memory, study, limit=3).model_dump_json(exclude_none=True)
    return CallToolResult(content=[image, TextContent(type="text", text=told_so)])


async def _wait(ctx: Context[Any, Any], runtime: Runtime, study_id: str, seconds: float) -> None:
    """Until the policy that plays the study has ended, with progress in configurations."""
    loop = asyncio.get_running_loop()
    end, shown = loop.time() + seconds, 0.0
    while (run := runtime.memory.runs.last(study_id)) is not None and run.outcome is None:
        if (left := end - loop.time()) <= 0:
            return
        if await runtime.autopilot.over(study_id, min(left, HEARTBEAT_SECONDS)):
            return
        trials = runtime.memory.trials(study_id)
        done = len({trial.number for trial in trials if trial.finished})
        shown = max(shown + 0.001, float(done))  # progress has to increase, also within a training
        await ctx.report_progress(shown, float(run.until_trials), f"{study_id}: {done} of {run.until_trials} trained")
