"""Sends the bridge's MCP messages over HTTP to its endpoint, and moves to the next owner when one ends."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import httpx2
from anyio.abc import TaskGroup

from server.client.endpoint import Endpoint, RemoteError
from server.client.home import OWNER_ENDED, HomeError
from server.client.message import Message, as_line

_SESSION_HEADER = "mcp-session-id"
_VERSION_HEADER = "mcp-protocol-version"
_CONNECTION_CLOSED = -32000
_ATTEMPTS = 5
_LISTEN_AGAIN_SECONDS = 1.0
_AGAIN_SECONDS = 0.2

Write = Callable[[str], None]


class _NotProcessed(Exception):
    """No owner has worked on the message, so it may be sent again."""


class _OwnerGone(Exception):
    """The owner went away before it answered."""


@dataclass
class _Channel:
    """The connection to one owner. `gone`: it has ended. `session`: headers of the session, once one was opened."""

    endpoint: Endpoint
    http: httpx2.AsyncClient
    session: dict[str, str] = field(default_factory=dict[str, str])
    gone: bool = False

    async def watch(self, presence: httpx2.Response) -> None:
        with contextlib.suppress(httpx2.HTTPError):
            async for _ in presence.aiter_raw():
                pass
        self.gone = True

    async def post(self, message: Message, write: Write) -> None:
        """Sends a message and writes what comes back. Raises _NotProcessed, _OwnerGone or RemoteError."""
        session = {} if message.version is not None or message.method == "initialize" else self.session
        headers = {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            **session,
            **message.headers,
        }
        try:
            async with self.http.stream("POST", self.endpoint.path, content=message.line, headers=headers) as response:
                if refusal := self.endpoint.refusal_message(response.status_code):
                    raise RemoteError(refusal)
                if response.status_code == 401 or (response.status_code == 404 and session):
                    # Another owner listens here now, or the session has expired.
                    self.gone, self.session = response.status_code == 401, {}
                    raise _NotProcessed
                if message.is_request and not await self._forward_response(message, response, write):
                    raise _OwnerGone
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            self.gone = True
            await anyio.sleep(_AGAIN_SECONDS)
            raise _NotProcessed from None
        except httpx2.TransportError:
            self.gone = True
            raise _OwnerGone from None

    async def _forward_response(self, message: Message, response: httpx2.Response, write: Write) -> bool:
        """Writes every message of a response; returns whether the answer was among them."""
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            async for event in httpx2.EventSource(response, max_event_size=None):
                if event.data and self._forward_message(message, response, json.loads(event.data), write):
                    return True
            return False
        try:
            body = json.loads(await response.aread())
        except ValueError:
            body = None
        if not isinstance(body, dict) or "jsonrpc" not in body:
            if response.status_code == 503:
                return False
            body = _error(message, _reason(response.status_code, body))
        return self._forward_message(message, response, {**body, "id": message.id}, write)

    def _forward_message(self, message: Message, response: httpx2.Response, body: dict[str, Any], write: Write) -> bool:
        answers = "method" not in body and body.get("id") == message.id
        if answers and message.method == "initialize" and _SESSION_HEADER in response.headers:
            version = body.get("result", {}).get("protocolVersion", "")
            self.session = {_SESSION_HEADER: response.headers[_SESSION_HEADER], _VERSION_HEADER: version}
        write(as_line({**body, "id": message.answer_id} if answers else body))
        return answers

    async def listen(self, write: Write) -> None:
        """Writes messages that the owner sends on its own, as long as this session lasts."""
        session = self.session
        while not self.gone and self.session is session:
            with contextlib.suppress(httpx2.TransportError):
                async with self.http.stream(
                    "GET", self.endpoint.path, headers={"accept": "text/event-stream", **session}
                ) as response:
                    if response.status_code != 200:
                        return
                    async for event in httpx2.EventSource(response, max_event_size=None):
                        if event.data:
                            write(as_line(json.loads(event.data)))
            await anyio.sleep(_LISTEN_AGAIN_SECONDS)

    async def end_session(self) -> None:
        if self.session and not self.gone:
            with contextlib.suppress(httpx2.HTTPError):
                await self.http.delete(self.endpoint.path, headers=self.session)


class OwnerConnection:
    """Sends messages to the current owner. Once it has ended, opens the session again with the next owner."""

    def __init__(self, endpoint: Endpoint, write: Write) -> None:
        self._endpoint = endpoint
        self._write = write
        self._stack = AsyncExitStack()
        self._lock = anyio.Lock()
        self._current: _Channel | None = None
        self._initialize: Message | None = None
        self._tasks: TaskGroup

    async def open(self, tasks: TaskGroup) -> None:
        """Connects to the endpoint; `tasks` runs the listeners."""
        self._tasks = tasks
        await self._channel(resumes=False)

    async def close(self) -> None:
        if self._current is not None:
            await self._current.end_session()
        await self._stack.aclose()

    async def call(self, message: Message) -> None:
        """Sends one request and writes its answer, or an error that says what to do.

        Whatever fails, the call is answered, and the bridge goes on with the others.
        """
        if message.method == "ping" and message.version is None and self._initialize is None:
            self._write(as_line({"jsonrpc": "2.0", "id": message.answer_id, "result": {}}))  # no session to ask yet
            return
        try:
            await self._send(message)
        except BrokenPipeError:
            raise
        except Exception as error:
            expected = isinstance(error, HomeError | RemoteError | OSError | ValueError)
            text = str(error) if expected else f"The bridge failed at this call: {type(error).__name__}: {error}"
            text = " ".join(text.split())
            print(f"virtualmle: {text}", file=sys.stderr, flush=True)  # noqa: T201
            self._write(as_line(_refusal(message, text)))

    async def notify(self, message: Message) -> None:
        """Sends a notification or a client's answer; drops it where no session can take it."""
        channel = self._current
        if channel is None or channel.gone or not channel.session or message.version is not None:
            return
        with contextlib.suppress(_NotProcessed, _OwnerGone):
            await channel.post(message, self._write)
            if message.method == "notifications/initialized":
                self._tasks.start_soon(channel.listen, self._write)

    async def _send(self, message: Message) -> None:
        for _ in range(_ATTEMPTS):
            is_initialize = message.method == "initialize"
            channel = await self._channel(resumes=message.version is None and not is_initialize)
            if is_initialize:
                self._initialize = message
            try:
                return await channel.post(message, self._write)
            except _NotProcessed:
                continue
            except _OwnerGone:
                if message.may_have_effect:
                    raise HomeError(OWNER_ENDED) from None
        raise HomeError(self._endpoint.no_answer_message)

    async def _channel(self, resumes: bool) -> _Channel:
        async with self._lock:
            if self._current is None or self._current.gone or not self._endpoint.is_there():
                # Earlier channels stay open: an ending owner may still answer the requests that it has.
                http, presence = await self._stack.enter_async_context(self._endpoint.attach())
                self._current = _Channel(self._endpoint, http)
                if presence is not None:
                    self._tasks.start_soon(self._current.watch, presence)
            if resumes and self._initialize is not None and not self._current.session:
                await self._resume(self._current, self._initialize)
            return self._current

    async def _resume(self, channel: _Channel, first: Message) -> None:
        """Opens the client's session again with a new owner, without the client noticing."""
        ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        with contextlib.suppress(_NotProcessed, _OwnerGone):
            await channel.post(first, lambda _: None)
            await channel.post(Message(json.dumps(ready).encode(), ready), self._write)
            self._tasks.start_soon(channel.listen, self._write)


def _reason(status: int, body: Any) -> str:
    """What a server without JSON-RPC in its answer said: its own words where it has any."""
    said = cast("dict[str, Any]", body).get("error") if isinstance(body, dict) else None
    return f"HTTP {status}: {said}" if isinstance(said, str) else f"The owner answered HTTP {status}."


def _error(message: Message, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message.answer_id, "error": {"code": _CONNECTION_CLOSED, "message": text}}


def _refusal(message: Message, text: str) -> dict[str, Any]:
    """An error that the model sees: the result of a tool call, or the error of any other request."""
    if message.method != "tools/call":
        return _error(message, text)
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    if message.version is not None:
        result["resultType"] = "complete"
    return {"jsonrpc": "2.0", "id": message.answer_id, "result": result}
