"""Around the HTTP app: a request's id, its line in the log, and the size that its body may have."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_current: ContextVar[str | None] = ContextVar("request_id", default=None)

log = logging.getLogger("virtualmle.http")


class JsonLines(logging.Formatter):
    """One JSON object a line; what was logged within a request carries its id."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts = {"time": when, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if (request_id := _current.get()) is not None:
            facts["request_id"] = request_id
        if record.exc_info:
            facts["error"] = self.formatException(record.exc_info)
        return json.dumps({**facts, **getattr(record, "facts", {})}, ensure_ascii=False)


def log_json_lines() -> None:
    """All logging of this process goes to stderr so, requests included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log.setLevel(logging.INFO)


class Logged:
    """Gives every request an id (the client's, where it sends a plain one), and logs how it ended.

    A body beyond `max_bytes` on the `limited` path is refused with 413 before the app sees it. `requested` hears of
    each by method and status. Neither headers nor bodies are logged.
    """

    def __init__(self, app: ASGIApp, limited: str, max_bytes: int, requested: Callable[[str, int], None]) -> None:
        self._app = app
        self._limited = limited
        self._max_bytes = max_bytes
        self._requested = requested

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _ID.fullmatch(given) else token_hex(8)
        status, began = 0, time.monotonic()

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        token = _current.set(request_id)
        try:
            await self._within_limit(scope, receive, named)
        finally:
            facts = {"method": scope["method"], "path": scope["path"], "status": status}
            facts["seconds"] = round(time.monotonic() - began, 4)
            self._requested(scope["method"], status)
            log.info("%s %s", scope["method"], scope["path"], extra={"facts": facts})
            _current.reset(token)

    async def _within_limit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST" or scope["path"] != self._limited:
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        body, whole = b"", False
        too_large = announced.isdecimal() and int(announced) > self._max_bytes
        while not (whole or too_large):
            message = await receive()
            if message["type"] != "http.request":
                return  # the client is gone
            body += message.get("body", b"")
            whole = not message.get("more_body", False)
            too_large = len(body) > self._max_bytes
        if too_large:
            said = f"A request may have {self._max_bytes:,} bytes (max_request_mb in virtualmle.yaml)."
            await JSONResponse({"error": said}, status_code=413)(scope, receive, send)
            return
        taken = False

        async def again() -> Message:
            nonlocal taken
            if taken:
                return await receive()
            taken = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)
