"""The Tasks extension of MCP (SEP-2663): a call whose work goes on is answered with a task, and the client asks later.

A task is a view of something that is kept elsewhere, of a trial for example, so it outlives its client and the owner.
Its id says what it stands for, since when, and by a signature for whom: nobody else finds it, and it expires.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from mcp import MCPError
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver.server import require_client_extension
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp.types import INVALID_PARAMS, CallToolRequestParams, InputRequest, RequestParams
from mcp_types.jsonrpc import HEADER_MISMATCH
from pydantic import BaseModel, Field
from starlette.requests import Request

TASKS = "io.modelcontextprotocol/tasks"
VERSIONS = frozenset({"2026-07-28"})
TTL = timedelta(days=7)
POLL = timedelta(seconds=2)
_ACK = {"resultType": "complete"}
_SIGNED = 24
_SECRET_BYTES = 32

Ctx = ServerRequestContext[Any, Any]


@dataclass(frozen=True)
class State:
    """What became of some work by now."""

    status: Literal["working", "input_required", "completed", "failed", "cancelled"]
    changed: datetime
    message: str | None = None
    result: BaseModel | None = None
    """Of `completed`: what the call would have answered, also where that is a tool's error."""
    error: Mapping[str, Any] | None = None
    """Of `failed`: code and message."""
    inputs: Mapping[str, InputRequest] | None = None
    """Of `input_required`: what is asked of the client, and not answered yet."""


class Work(Protocol):
    """What goes on behind the tasks of some tools. A key is short and has no dot."""

    name: str

    def takes(self, tool: str) -> bool:
        """Whether calls of the tool may become tasks."""
        ...

    def needs_task(self, tool: str) -> bool:
        """Whether the tool cannot serve a client that knows no tasks."""
        ...

    async def begin(self, params: CallToolRequestParams, ctx: Ctx, call_next: CallNext) -> str | HandlerResult:
        """The key of work that goes on, or the answer where nothing does."""
        ...

    async def state(self, key: str) -> State:
        """Raises KeyError for a key that it does not know."""
        ...

    async def cancel(self, key: str) -> None:
        """Ends the work; where it has ended, nothing happens."""
        ...

    async def answer(self, key: str, responses: Mapping[str, Any]) -> None:
        """Takes what the client answered to `inputs`, some of them or all."""
        ...


class _TaskParams(RequestParams):
    task_id: str = Field(alias="taskId")


class _UpdateParams(_TaskParams):
    input_responses: dict[str, Any] = Field(default_factory=dict[str, Any], alias="inputResponses")


class TasksExtension(Extension):
    """`works` may be added to. What `secret` answers signs: with the same one, ids survive a restart."""

    identifier = TASKS

    def __init__(self, secret: Callable[[], bytes], works: Sequence[Work]) -> None:
        self._secret = cache(secret)
        self.works = list(works)

    def methods(self) -> Sequence[MethodBinding]:
        return (
            MethodBinding("tasks/get", _TaskParams, self._get, VERSIONS),
            MethodBinding("tasks/update", _UpdateParams, self._update, VERSIONS),
            MethodBinding("tasks/cancel", _TaskParams, self._cancel, VERSIONS),
        )

    async def intercept_tool_call(self, params: CallToolRequestParams, ctx: Ctx, call_next: CallNext) -> HandlerResult:
        work = next((one for one in self.works if one.takes(params.name)), None)
        if work is None:
            return await call_next(ctx)
        if not _knows_tasks(ctx):
            if work.needs_task(params.name):
                require_client_extension(ctx, TASKS)
            return await call_next(ctx)
        begun = await work.begin(params, ctx, call_next)
        if not isinstance(begun, str):
            return begun
        created = datetime.now(UTC)
        task_id = self._id(work.name, begun, created)
        return {"resultType": "task", **_envelope(task_id, created, await work.state(begun))}

    async def _get(self, ctx: Ctx, params: _TaskParams) -> HandlerResult:
        work, key, created = self._found(ctx, params.task_id)
        state = await self._state(work, key)
        told = {**_ACK, **_envelope(params.task_id, created, state)}
        if state.result is not None:
            told["result"] = state.result.model_dump(mode="json", by_alias=True, exclude_none=True)
        if state.error is not None:
            told["error"] = dict(state.error)
        if state.inputs:
            asked = {
                name: one.model_dump(mode="json", by_alias=True, exclude_none=True)
                for name, one in state.inputs.items()
            }
            told["inputRequests"] = asked
        return told

    async def _update(self, ctx: Ctx, params: _UpdateParams) -> HandlerResult:
        work, key, _ = self._found(ctx, params.task_id)
        await self._state(work, key)
        await work.answer(key, params.input_responses)
        return dict(_ACK)

    async def _cancel(self, ctx: Ctx, params: _TaskParams) -> HandlerResult:
        work, key, _ = self._found(ctx, params.task_id)
        await self._state(work, key)
        await work.cancel(key)
        return dict(_ACK)

    async def _state(self, work: Work, key: str) -> State:
        try:
            return await work.state(key)
        except KeyError:
            raise MCPError(INVALID_PARAMS, "There is no such task.") from None

    def _found(self, ctx: Ctx, task_id: str) -> tuple[Work, str, datetime]:
        """What an id stands for; MCPError where it is not one of ours, another caller's, or expired."""
        require_client_extension(ctx, TASKS)
        _check_name(ctx, task_id)
        name, key, since, signature = (*task_id.split("."), "", "", "", "")[:4]
        work = next((one for one in self.works if one.name == name), None)
        if work is None or not hmac.compare_digest(signature.encode(), self._signature(name, key, since).encode()):
            raise MCPError(INVALID_PARAMS, "There is no such task.")
        created = datetime.fromtimestamp(int(since, 16) / 1000, UTC)
        if datetime.now(UTC) > created + TTL:
            raise MCPError(INVALID_PARAMS, f"The task has expired; what it stood for, {key}, is kept.")
        return work, key, created

    def _id(self, name: str, key: str, created: datetime) -> str:
        since = f"{int(created.timestamp() * 1000):x}"
        return f"{name}.{key}.{since}.{self._signature(name, key, since)}"

    def _signature(self, *parts: str) -> str:
        """Of a task and of who asks: the name of a token, or whoever needs none."""
        caller = get_access_token()
        signed = "\n".join((*parts, caller.client_id if caller is not None else ""))
        return hmac.new(self._secret(), signed.encode(), "sha256").hexdigest()[:_SIGNED]


def _knows_tasks(ctx: Ctx) -> bool:
    able = ctx.session.client_capabilities
    return ctx.protocol_version in VERSIONS and able is not None and TASKS in (able.extensions or {})


def _check_name(ctx: Ctx, task_id: str) -> None:
    """Over HTTP a header repeats the id, for whoever routes by it; raises MCPError where it says something else."""
    request: Any = ctx.request
    if isinstance(request, Request) and decode_header_value(request.headers.get(MCP_NAME_HEADER)) != task_id:
        raise MCPError(HEADER_MISMATCH, f"The header {MCP_NAME_HEADER} is not the request's taskId.")


def _envelope(task_id: str, created: datetime, state: State) -> dict[str, Any]:
    told = {
        "taskId": task_id,
        "status": state.status,
        "createdAt": created.isoformat(timespec="milliseconds"),
        "lastUpdatedAt": state.changed.isoformat(timespec="milliseconds"),
        "ttlMs": int(TTL.total_seconds() * 1000),
        "pollIntervalMs": int(POLL.total_seconds() * 1000),
    }
    return {**told, "statusMessage": state.message} if state.message else told


def home_secret(path: Path) -> bytes:
    """The home's secret for ids, made at the first call and readable by its user alone."""
    try:
        known = path.read_bytes()
    except FileNotFoundError:
        known = b""
    if len(known) == _SECRET_BYTES:
        return known
    secret, partial = secrets.token_bytes(_SECRET_BYTES), path.with_suffix(".partial")
    partial.touch(mode=0o600)
    partial.write_bytes(secret)
    partial.replace(path)
    return secret
