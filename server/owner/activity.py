"""Who uses the owner: connected clients and calls in flight, how long it has been idle, and whether it is ending."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.auth import Tokens
from server.client.home import MCP_PATH
from server.client.owner_record import Kind

_CALL_GRACE_SECONDS = 2.5
"""How long a call in flight may go on after the owner was told to end."""


class Activity:
    """How many clients use the owner now, when the last one left, and whether the owner is to end."""

    def __init__(self, kind: Kind = "detached") -> None:
        self.kind: Kind = kind
        self.clients = 0
        self.stopping = anyio.Event()
        self.ended_by_other = False
        """Whether another process asked the owner to end, other than `virtualmle stop`."""
        self._left_at = time.monotonic()

    @contextmanager
    def client(self) -> Generator[None]:
        self.clients += 1
        try:
            yield
        finally:
            self.clients -= 1
            self.touch()

    def touch(self) -> None:
        self._left_at = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        return 0.0 if self.clients else time.monotonic() - self._left_at


class ActivityWatch:
    """Counts the calls of clients that announce no presence, and ends every call when the owner ends."""

    def __init__(self, app: ASGIApp, tokens: Tokens, activity: Activity) -> None:
        self._app = app
        self._tokens = tokens
        self._activity = activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != MCP_PATH:
            await self._app(scope, receive, send)
            return
        if self._tokens.is_private(Request(scope).headers):
            self._activity.touch()
            await self._until_stopped(scope, receive, send)
            return
        with self._activity.client():
            await self._until_stopped(scope, receive, send)

    async def _until_stopped(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = finished = False

        async def send_and_watch(message: Message) -> None:
            nonlocal started, finished
            started = started or message["type"] == "http.response.start"
            finished = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        async def cancel_when_stopped() -> None:
            await self._activity.stopping.wait()
            if scope["method"] == "POST":
                await anyio.sleep(_CALL_GRACE_SECONDS)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_when_stopped)
            await self._app(scope, receive, send_and_watch)
            tasks.cancel_scope.cancel()
        if not started and self._activity.stopping.is_set():
            await Response("The owner is ending.", status_code=503)(scope, receive, send)
        elif started and not finished:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
