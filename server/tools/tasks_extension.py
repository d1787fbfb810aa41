"""The Tasks extension of MCP (SEP-2663): a long call is answered with a task, which the client polls.

A task is a view of something stored elsewhere, for example a trial, so it outlives its client and the owner. Its id
holds what it stands for, when it was created, and a signature for one caller: nobody else can use it, and it expires.
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

from trainers.contract.regular_files import read_regular

TASKS = "io.modelcontextprotocol/tasks"
VERSIONS = frozenset({"2026-07-28"})
TTL = timedelta(days=7)
POLL = timedelta(seconds=2)
_ACK = {"resultType": "complete"}
_SIGNATURE_CHARACTERS = 24
_SECRET_BYTES = 32

Ctx = ServerRequestContext[Any, Any]


@dataclass(frozen=True)
class State:
    """The state of a task's work."""

    status: Literal["working", "input_required", "completed", "failed", "cancelled"]
    changed: datetime
    message: str | None = None
    result: BaseModel | None = None
    """If `completed`: what the call would have answered, which may be a tool's error."""
    error: Mapping[str, Any] | None = None
    """If `failed`: code and message."""
    inputs: Mapping[str, InputRequest] | None = None
    """If `input_required`: the questions to the client that are not answered yet."""


class Work(Protocol):
    """The work behind the tasks of some tools. Each piece of work has a key, which is short and has no dot."""

    name: str

    def takes(self, tool: str) -> bool:
        """Whether calls of the tool may become tasks."""
        ...

    def needs_task(self, tool: str) -> bool:
        """Whether the tool cannot serve a client that knows no tasks."""
        ...

    async def begin(self, params: CallToolRequestParams, ctx: Ctx, call_next: CallNext) -> str | HandlerResult:
        """Starts a call. Returns the key of the work that goes on, or the answer where none does."""
        ...

    async def state(self, key: str) -> State:
        """The state of the work. Raises KeyError for an unknown key."""
        ...

    async def cancel(self, key: str) -> None:
        """Ends the work; does nothing where it has ended."""
        ...

    async def answer(self, key: str, responses: Mapping[str, Any]) -> None:
        """Accepts the client's answers to some or all of `inputs`."""
        ...


class _TaskParams(RequestParams):
    task_id: str = Field(alias="taskId")


class _UpdateParams(_TaskParams):
    input_responses: dict[str, Any] = Field(default_factory=dict[str, Any], alias="inputResponses")


class TasksExtension(Extension):
    """`works` may be extended. `secret` returns the key that signs ids: with the same key, ids survive a restart."""

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
        work = next((work for work in self.works if work.takes(params.name)), None)
        if work is None:
            return await call_next(ctx)
        if not _client_knows_tasks(ctx):
            if work.needs_task(params.name):
                require_client_extension(ctx, TASKS)
            return await call_next(ctx)
        key_or_answer = await work.begin(params, ctx, call_next)
        if not isinstance(key_or_answer, str):
            return key_or_answer
        created = datetime.now(UTC)
        task_id = self._task_id(work.name, key_or_answer, created)
        return {"resultType": "task", **_envelope(task_id, created, await work.state(key_or_answer))}

    async def _get(self, ctx: Ctx, params: _TaskParams) -> HandlerResult:
        work, key, created = self._find_task(ctx, params.task_id)
        state = await self._state(work, key)
        fields = {**_ACK, **_envelope(params.task_id, created, state)}
        if state.result is not None:
            fields["result"] = state.result.model_dump(mode="json", by_alias=True, exclude_none=True)
        if state.error is not None:
            fields["error"] = dict(state.error)
        if state.inputs:
            fields["inputRequests"] = {
                name: question.model_dump(mode="json", by_alias=True, exclude_none=True)
                for name, question in state.inputs.items()
            }
        return fields

    async def _update(self, ctx: Ctx, params: _UpdateParams) -> HandlerResult:
        work, key, _ = self._find_task(ctx, params.task_id)
        await self._state(work, key)
        await work.answer(key, params.input_responses)
        return dict(_ACK)

    async def _cancel(self, ctx: Ctx, params: _TaskParams) -> HandlerResult:
        work, key, _ = self._find_task(ctx, params.task_id)
        await self._state(work, key)
        await work.cancel(key)
        return dict(_ACK)

    async def _state(self, work: Work, key: str) -> State:
        try:
            return await work.state(key)
        except KeyError:
            raise MCPError(INVALID_PARAMS, "There is no such task.") from None

    def _find_task(self, ctx: Ctx, task_id: str) -> tuple[Work, str, datetime]:
        """The work, the key and the creation time of a task. Raises MCPError for an unknown, foreign or expired id."""
        require_client_extension(ctx, TASKS)
        _check_header(ctx, task_id)
        name, key, since, signature = (*task_id.split("."), "", "", "", "")[:4]
        work = next((work for work in self.works if work.name == name), None)
        if work is None or not hmac.compare_digest(signature.encode(), self._signature(name, key, since).encode()):
            raise MCPError(INVALID_PARAMS, "There is no such task.")
        created = datetime.fromtimestamp(int(since, 16) / 1000, UTC)
        if datetime.now(UTC) > created + TTL:
            raise MCPError(INVALID_PARAMS, f"The task has expired; what it stood for, {key}, is kept.")
        return work, key, created

    def _task_id(self, name: str, key: str, created: datetime) -> str:
        since = f"{int(created.timestamp() * 1000):x}"
        return f"{name}.{key}.{since}.{self._signature(name, key, since)}"

    def _signature(self, *parts: str) -> str:
        """Signs the parts of an id for the caller: the name of its token, or nothing where no token is needed."""
        caller = get_access_token()
        signed = "\n".join((*parts, caller.client_id if caller is not None else ""))
        return hmac.new(self._secret(), signed.encode(), "sha256").hexdigest()[:_SIGNATURE_CHARACTERS]


def _client_knows_tasks(ctx: Ctx) -> bool:
    capabilities = ctx.session.client_capabilities
    return ctx.protocol_version in VERSIONS and capabilities is not None and TASKS in (capabilities.extensions or {})


def _check_header(ctx: Ctx, task_id: str) -> None:
    """Over HTTP a header repeats the id, for routing. Raises MCPError where the header holds another id."""
    request: Any = ctx.request
    if isinstance(request, Request) and decode_header_value(request.headers.get(MCP_NAME_HEADER)) != task_id:
        raise MCPError(HEADER_MISMATCH, f"The header {MCP_NAME_HEADER} is not the request's taskId.")


def _envelope(task_id: str, created: datetime, state: State) -> dict[str, Any]:
    fields = {
        "taskId": task_id,
        "status": state.status,
        "createdAt": created.isoformat(timespec="milliseconds"),
        "lastUpdatedAt": state.changed.isoformat(timespec="milliseconds"),
        "ttlMs": int(TTL.total_seconds() * 1000),
        "pollIntervalMs": int(POLL.total_seconds() * 1000),
    }
    return {**fields, "statusMessage": state.message} if state.message else fields


def home_secret(path: Path) -> bytes:
    """The home's secret for task ids, created at the first call and readable by its user alone."""
    try:
        stored = read_regular(path)
    except OSError:  # none yet, or something that is no secret
        stored = b""
    if len(stored) == _SECRET_BYTES:
        return stored
    secret, partial = secrets.token_bytes(_SECRET_BYTES), path.with_suffix(".partial")
    partial.touch(mode=0o600)
    partial.write_bytes(secret)
    partial.replace(path)
    return secret
