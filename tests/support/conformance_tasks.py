"""Tools of the names that the conformance suite wants for tasks: work that sleeps, fails, or asks for something."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any, Protocol

from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult
from mcp.server.mcpserver import Context
from mcp.types import (
    INTERNAL_ERROR,
    CallToolRequestParams,
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    TextContent,
)

from server.tools.tasks_extension import Ctx, State, TasksExtension

FAILS_AFTER = 0.3
NEEDS_TASK = ("failing_job", "test_tool_with_task")


class Served(Protocol):
    tasks: TasksExtension

    def add_tool(self, fn: Callable[..., Any], name: str, *, description: str) -> None: ...


def text(words: str, is_error: bool = False) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=words)], is_error=is_error)


def form(message: str, name: str) -> ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


@dataclass
class Job:
    """Work under way; what it asks of the client is in `asked` until it is answered."""

    work: asyncio.Task[CallToolResult] | None = None
    asked: dict[str, InputRequest] = field(default_factory=dict[str, InputRequest])
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    changed: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def ask(self, **requests: InputRequest) -> dict[str, Any]:
        self.asked = dict(requests)
        await self.answered.wait()
        return self.answers


async def slow_compute(job: Job, given: Mapping[str, Any]) -> CallToolResult:
    await asyncio.sleep(float(given.get("seconds", 0)))
    return text(f"Computed {given.get('label', '')}.")


async def failing_job(job: Job, given: Mapping[str, Any]) -> CallToolResult:
    await asyncio.sleep(FAILS_AFTER)
    return text("This job fails.", is_error=True)


async def protocol_error_job(job: Job, given: Mapping[str, Any]) -> CallToolResult:
    await asyncio.sleep(FAILS_AFTER)
    raise MCPError(INTERNAL_ERROR, "This job breaks.")


async def confirm_delete(job: Job, given: Mapping[str, Any]) -> CallToolResult:
    return text(f"Confirmed: {await job.ask(confirm=form('Delete it?', 'confirm'))}")


async def multi_input(job: Job, given: Mapping[str, Any]) -> CallToolResult:
    answers = await job.ask(first=form("First?", "value"), second=form("Second?", "value"))
    return text(f"Got {sorted(answers)}.")


JOBS: dict[str, Callable[[Job, Mapping[str, Any]], Awaitable[CallToolResult]]] = {
    "slow_compute": slow_compute,
    "failing_job": failing_job,
    "protocol_error_job": protocol_error_job,
    "confirm_delete": confirm_delete,
    "multi_input": multi_input,
}


class FixtureWork:
    name = "fixture"

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._keys = count()

    def takes(self, tool: str) -> bool:
        return tool in JOBS or tool == "test_tool_with_task"

    def needs_task(self, tool: str) -> bool:
        return tool in NEEDS_TASK

    async def begin(self, params: CallToolRequestParams, ctx: Ctx, call_next: CallNext) -> str | HandlerResult:
        given = params.arguments or {}
        if params.name == "test_tool_with_task":
            answer = await call_next(ctx)
            if isinstance(answer, InputRequiredResult):
                return answer
            return self._begun(lambda job, _: _answered(answer), given)
        return self._begun(JOBS[params.name], given)

    def _begun(
        self, work: Callable[[Job, Mapping[str, Any]], Awaitable[CallToolResult]], given: Mapping[str, Any]
    ) -> str:
        key, job = f"j{next(self._keys)}", Job()
        job.work = asyncio.ensure_future(work(job, given))
        self._jobs[key] = job
        return key

    async def state(self, key: str) -> State:
        job = self._jobs[key]
        assert job.work is not None
        if not job.work.done():
            return State("input_required" if job.asked else "working", job.changed, inputs=job.asked or None)
        if job.work.cancelled():
            return State("cancelled", job.changed)
        error = job.work.exception()
        if isinstance(error, MCPError):
            return State("failed", job.changed, error={"code": error.error.code, "message": error.error.message})
        return State("completed", job.changed, result=job.work.result())

    async def cancel(self, key: str) -> None:
        work = self._jobs[key].work
        assert work is not None
        work.cancel()
        await asyncio.wait({work})

    async def answer(self, key: str, responses: Mapping[str, Any]) -> None:
        job = self._jobs[key]
        for name in [name for name in responses if name in job.asked]:
            job.answers[name] = responses[name]
            del job.asked[name]
        if not job.asked:
            job.answered.set()


async def _answered(answer: Any) -> CallToolResult:
    return answer


def register(server: Served) -> None:
    """Add the tools, and what stands behind them."""
    server.tasks.works.append(FixtureWork())

    async def greet(name: str) -> CallToolResult:
        return text(f"Hello, {name}!")

    server.add_tool(greet, "greet", description="Fixture: answers at once.")

    async def slow(seconds: float = 0, label: str = "") -> CallToolResult:
        return await slow_compute(Job(), {"seconds": min(seconds, 2), "label": label})

    async def waits() -> CallToolResult:
        return text("This tool needs a client that knows tasks.", is_error=True)

    async def confirms(filename: str = "") -> CallToolResult:
        return await waits()

    server.add_tool(slow, "slow_compute", description="Fixture: takes its time.")
    for name in ("failing_job", "protocol_error_job", "multi_input"):
        server.add_tool(waits, name, description="Fixture: work that is a task.")
    server.add_tool(confirms, "confirm_delete", description="Fixture: a task that asks.")

    async def with_task(ctx: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
        answer = (ctx.input_responses or {}).get("user_name")
        if not isinstance(answer, ElicitResult):
            return InputRequiredResult(input_requests={"user_name": form("What is your name?", "name")})
        return text(f"Hello, {(answer.content or {}).get('name')}!")

    server.add_tool(with_task, "test_tool_with_task", description="Fixture: asks, and then goes on as a task.")
