"""What a request must pass before its body is read: the size of its headers, Host and Origin, and a token for /mcp."""

from __future__ import annotations

from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.auth import CHALLENGE, Tokens, bearer
from server.client.home import MCP_PATH
from server.client.message import BadLine, as_line, read_message

HEALTH_PATH = "/health"
_BODIES_AT_ONCE = 16


class Gate:
    """Refuses a request without reading its body. Only /health is open to every Host."""

    def __init__(self, app: ASGIApp, tokens: Tokens, hosts: TransportSecuritySettings, header_bytes: int) -> None:
        self._app = app
        self._tokens = tokens
        self._security = TransportSecurityMiddleware(hosts)
        self._header_bytes = header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = await self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        if _header_bytes(request.scope) > self._header_bytes:
            error = f"Path and headers may have {self._header_bytes:,} bytes together."
            return JSONResponse({"error": error}, status_code=431)
        path = request.scope["path"]
        if path != HEALTH_PATH and (refusal := await self._security.validate_request(request)):
            return refusal
        if path != MCP_PATH or not self._tokens.required:
            return None
        if await self._tokens.verify_token(bearer(request.headers)) is None:
            facts = {"error": "invalid_token", "error_description": "A bearer token is needed."}
            return JSONResponse(facts, status_code=401, headers=CHALLENGE)
        return None


def _header_bytes(scope: Scope) -> int:
    headers = sum(len(name) + len(value) for name, value in scope["headers"])
    return headers + len(scope["path"]) + len(scope["query_string"])


class BodyLimit:
    """Reads the bodies of MCP requests: each up to `max_bytes`, and 16 times as much for all that are held at once.

    What no server could answer is mended, or refused by its id.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != MCP_PATH:
            await self._app(scope, receive, send)
            return
        if _declared_bytes(scope) > self._max_bytes:
            await self._too_large()(scope, receive, send)
            return
        body, complete = bytearray(), False
        try:
            while not complete:
                message = await receive()
                if message["type"] != "http.request":
                    return  # the client is gone
                piece = message.get("body", b"")
                if len(body) + len(piece) > self._max_bytes:
                    await self._too_large()(scope, receive, send)
                    return
                if self._held_bytes + len(piece) > _BODIES_AT_ONCE * self._max_bytes:
                    await _BUSY(scope, receive, send)
                    return
                body += piece
                self._held_bytes += len(piece)
                complete = not message.get("more_body", False)
            await self._serve(scope, bytes(body), receive, send)
        finally:
            self._held_bytes -= len(body)

    async def _serve(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Passes a message on, mended as a bridge mends it; a body that holds none is answered here."""
        if scope["method"] == "POST":
            try:
                body = read_message(body).line
            except BadLine as problem:
                await _BadMessage(problem)(scope, receive, send)
                return
        await self._app(scope, _once(body, receive), send)

    def _too_large(self) -> Response:
        error = f"A request may have {self._max_bytes:,} bytes (max_request_mb in virtualmle.yaml)."
        return JSONResponse({"error": error}, status_code=413)


class _BadMessage(Response):
    """The answer to a body that holds no message of JSON-RPC."""

    media_type = "application/json"

    def __init__(self, problem: BadLine) -> None:
        error = {"code": problem.code, "message": str(problem)}
        super().__init__(as_line({"jsonrpc": "2.0", "id": problem.id, "error": error}), status_code=400)


def _declared_bytes(scope: Scope) -> float:
    length = Headers(scope=scope).get("content-length", "")
    if not length.isdecimal():
        return 0
    return int(length) if len(length) < 20 else float("inf")


_BUSY = JSONResponse(
    {"error": "Other requests hold as much as the server takes at once; repeat this one."},
    status_code=503,
    headers={"retry-after": "1"},
)


def _once(body: bytes, receive: Receive) -> Receive:
    """A receive that returns the body, and then what comes after it."""
    sent = False

    async def receive_again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
