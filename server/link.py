"""The bridge's far side: MCP messages over HTTP to whoever answers at its reach now, across owners' ends."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import anyio
import httpx2
from anyio.abc import TaskGroup

from server.home import OWNER_ENDED, HomeError
from server.reach import Reach, RemoteError

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
"""In a request's _meta from 2026-07-28 on: such a request needs no session."""

_NAMED_BY = {
    "tools/call": "name", "prompts/get": "name", "resources/read": "uri",
    "tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId",
}  # fmt: skip
_READING_TOOLS = ("list_datasets", "get_trial", "get_study", "suggest_trial", "plot_study", "read_memory")
_SESSION_HEADER = "mcp-session-id"
_VERSION_HEADER = "mcp-protocol-version"
_CONNECTION_CLOSED = -32000
_ATTEMPTS = 5
_LISTEN_AGAIN_SECONDS = 1.0
_AGAIN_SECONDS = 0.2

Write = Callable[[str], None]


class _NotTaken(Exception):
    """No owner has worked on the message; it may be sent again."""


class _Ended(Exception):
    """The owner went away before it answered."""


@dataclass(frozen=True)
class Message:
    """One JSON-RPC message as it came, and what the bridge must know of it."""

    line: bytes
    body: dict[str, Any]

    @property
    def id(self) -> str | int:
        return self.body["id"]

    @property
    def method(self) -> str | None:
        return self.body.get("method")

    @property
    def is_request(self) -> bool:
        return self.method is not None and isinstance(self.body.get("id"), str | int)

    @property
    def cancels(self) -> str | int | None:
        """The request that this notification cancels."""
        named = self._params.get("requestId") if self.method == "notifications/cancelled" else None
        return named if isinstance(named, str | int) else None

    @cached_property
    def version(self) -> str | None:
        """The protocol version of a message that carries its own; None is the era of sessions."""
        found = _mapping(self._params.get("_meta")).get(VERSION_KEY)
        return found if isinstance(found, str) else None

    @property
    def headers(self) -> dict[str, str]:
        """What a message of its own version repeats in headers."""
        if self.version is None or self.method is None:
            return {}
        headers = {_VERSION_HEADER: self.version, "mcp-method": self.method}
        name = self._params.get(_NAMED_BY.get(self.method, ""))
        if isinstance(name, str):
            headers["mcp-name"] = _header_value(name)
        return headers

    @property
    def may_have_effect(self) -> bool:
        """Whether sending it twice could do something twice."""
        return self.method == "tools/call" and self._params.get("name") not in _READING_TOOLS

    @property
    def _params(self) -> dict[str, Any]:
        return _mapping(self.body.get("params"))


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _header_value(value: str) -> str:
    if value.isascii() and value.isprintable() and value == value.strip() and not value.startswith("=?"):
        return value
    from mcp.shared.inbound import encode_header_value  # half a second to import, and nearly never needed

    return encode_header_value(value)


@dataclass
class _Channel:
    """The way to one owner. `gone`: it has ended. `session`: headers of the handshake era, once there was one."""

    reach: Reach
    http: httpx2.AsyncClient
    session: dict[str, str] = field(default_factory=dict[str, str])
    gone: bool = False

    async def watch(self, presence: httpx2.Response) -> None:
        with contextlib.suppress(httpx2.HTTPError):
            async for _ in presence.aiter_raw():
                pass
        self.gone = True

    async def post(self, message: Message, write: Write) -> None:
        """Send a message and write what comes back; raises _NotTaken or _Ended."""
        session = {} if message.version is not None or message.method == "initialize" else self.session
        headers = {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            **session,
            **message.headers,
        }
        try:
            async with self.http.stream("POST", self.reach.path, content=message.line, headers=headers) as response:
                if refusal := self.reach.refused(response.status_code):
                    raise RemoteError(refusal)
                if response.status_code == 401 or (response.status_code == 404 and session):
                    # Another owner listens here now, or the session has expired.
                    self.gone, self.session = response.status_code == 401, {}
                    raise _NotTaken
                if message.is_request and not await self._pass_on(message, response, write):
                    raise _Ended
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            self.gone = True
            await anyio.sleep(_AGAIN_SECONDS)
            raise _NotTaken from None
        except httpx2.TransportError:
            self.gone = True
            raise _Ended from None

    async def _pass_on(self, message: Message, response: httpx2.Response, write: Write) -> bool:
        """Write every message of a response; True once the answer was among them."""
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            async for event in httpx2.EventSource(response, max_event_size=None):
                if event.data and self._pass_one(message, response, json.loads(event.data), write):
                    return True
            return False
        try:
            body = json.loads(await response.aread())
        except ValueError:
            body = None
        if not isinstance(body, dict) or "jsonrpc" not in body:
            if response.status_code == 503:
                return False
            body = _error(message.id, f"The owner answered HTTP {response.status_code}.")
        return self._pass_one(message, response, {**body, "id": message.id}, write)

    def _pass_one(self, message: Message, response: httpx2.Response, body: dict[str, Any], write: Write) -> bool:
        answers = "method" not in body and body.get("id") == message.id
        if answers and message.method == "initialize" and _SESSION_HEADER in response.headers:
            version = body.get("result", {}).get("protocolVersion", "")
            self.session = {_SESSION_HEADER: response.headers[_SESSION_HEADER], _VERSION_HEADER: version}
        write(json.dumps(body, ensure_ascii=False, separators=(",", ":")))
        return answers

    async def listen(self, write: Write) -> None:
        """Write what the owner says unasked, as long as this session lasts."""
        session = self.session
        while not self.gone and self.session is session:
            with contextlib.suppress(httpx2.TransportError):
                async with self.http.stream(
                    "GET", self.reach.path, headers={"accept": "text/event-stream", **session}
                ) as response:
                    if response.status_code != 200:
                        return
                    async for event in httpx2.EventSource(response, max_event_size=None):
                        if event.data:
                            write(json.dumps(json.loads(event.data), ensure_ascii=False, separators=(",", ":")))
            await anyio.sleep(_LISTEN_AGAIN_SECONDS)

    async def leave(self) -> None:
        if self.session and not self.gone:
            with contextlib.suppress(httpx2.HTTPError):
                await self.http.delete(self.reach.path, headers=self.session)


class Link:
    """Sends messages to whoever answers; where an owner has ended, to the next one, with the session opened anew."""

    def __init__(self, reach: Reach, write: Write) -> None:
        self._reach = reach
        self._write = write
        self._stack = AsyncExitStack()
        self._lock = anyio.Lock()
        self._current: _Channel | None = None
        self._initialize: Message | None = None
        self._tasks: TaskGroup

    async def open(self, tasks: TaskGroup) -> None:
        """Find whoever answers; `tasks` runs what listens to it."""
        self._tasks = tasks
        await self._channel(resumes=False)

    async def close(self) -> None:
        if self._current is not None:
            await self._current.leave()
        await self._stack.aclose()

    async def call(self, message: Message) -> None:
        """Carry one request to its answer, or to an error that says what to do."""
        try:
            await self._carry(message)
        except BrokenPipeError:
            raise
        except (HomeError, RemoteError, OSError, ValueError) as error:
            print(f"virtualmle: {error}", file=sys.stderr, flush=True)  # noqa: T201
            self._write(json.dumps(_refusal(message, str(error)), ensure_ascii=False))

    async def notify(self, message: Message) -> None:
        """Carry a notification or a client's answer; one that has nowhere to go is dropped."""
        channel = self._current
        if channel is None or channel.gone or not channel.session or message.version is not None:
            return
        with contextlib.suppress(_NotTaken, _Ended):
            await channel.post(message, self._write)
            if message.method == "notifications/initialized":
                self._tasks.start_soon(channel.listen, self._write)

    async def _carry(self, message: Message) -> None:
        for _ in range(_ATTEMPTS):
            starts = message.method == "initialize"
            channel = await self._channel(resumes=message.version is None and not starts)
            if starts:
                self._initialize = message
            try:
                return await channel.post(message, self._write)
            except _NotTaken:
                continue
            except _Ended:
                if message.may_have_effect:
                    raise HomeError(OWNER_ENDED) from None
        raise HomeError(self._reach.given_up)

    async def _channel(self, resumes: bool) -> _Channel:
        async with self._lock:
            if self._current is None or self._current.gone or not self._reach.is_there():
                # Earlier ones stay open to the end: an ending owner may still answer what it has.
                http, presence = await self._stack.enter_async_context(self._reach.attach())
                self._current = _Channel(self._reach, http)
                if presence is not None:
                    self._tasks.start_soon(self._current.watch, presence)
            if resumes and self._initialize is not None and not self._current.session:
                await self._resume(self._current, self._initialize)
            return self._current

    async def _resume(self, channel: _Channel, first: Message) -> None:
        """Open the client's session with a new owner, unseen by the client."""
        ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        with contextlib.suppress(_NotTaken, _Ended):
            await channel.post(first, lambda _: None)
            await channel.post(Message(json.dumps(ready).encode(), ready), self._write)
            self._tasks.start_soon(channel.listen, self._write)


def _error(request_id: str | int, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": _CONNECTION_CLOSED, "message": text}}


def _refusal(message: Message, text: str) -> dict[str, Any]:
    """An error that the model sees: of a tool call, its result; else the request's error."""
    if message.method != "tools/call":
        return _error(message.id, text)
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    if message.version is not None:
        result["resultType"] = "complete"
    return {"jsonrpc": "2.0", "id": message.id, "result": result}
