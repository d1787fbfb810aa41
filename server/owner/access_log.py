"""Middleware around the HTTP app: an id and a line in the log for each request."""

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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_current: ContextVar[str | None] = ContextVar("request_id", default=None)

log = logging.getLogger("virtualmle.http")


class JsonLines(logging.Formatter):
    """One JSON object per line. Lines logged within a request carry its id."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts = {"time": when, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if (request_id := _current.get()) is not None:
            facts["request_id"] = request_id
        if record.exc_info:
            facts["error"] = self.formatException(record.exc_info)
        return json.dumps({**facts, **getattr(record, "facts", {})}, ensure_ascii=False)


def log_json_lines() -> None:
    """Sends all logging of this process, requests included, to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log.setLevel(logging.INFO)


class RequestLog:
    """Gives every request an id (the client's, if it sends a plain one), and logs how the request ended.

    `on_request` is called with the method and status of each request. Neither headers nor bodies are logged.
    """

    def __init__(self, app: ASGIApp, on_request: Callable[[str, int], None]) -> None:
        self._app = app
        self._on_request = on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_id = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = client_id if _ID.fullmatch(client_id) else token_hex(8)
        status, began = 0, time.monotonic()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        token = _current.set(request_id)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            facts = {"method": scope["method"], "path": scope["path"], "status": status}
            facts["seconds"] = round(time.monotonic() - began, 4)
            self._on_request(scope["method"], status)
            log.info("%s %s", scope["method"], scope["path"], extra={"facts": facts})
            _current.reset(token)
