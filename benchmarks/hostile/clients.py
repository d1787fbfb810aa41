"""Hostile clients of one owner, over HTTP and through a real bridge: what is wrong with the answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Any, cast

import anyio
import httpx2

from benchmarks.harness.machine import ROOT
from benchmarks.hostile.calls import Input, written
from server.client.home import MCP_PATH
from server.client.message import VERSION_KEY, Message

SECONDS = 20.0
"""An input that takes longer waits for something that never comes."""
LINES_SECONDS = 120.0
"""How long a bridge may take with all its lines."""
TOKEN = "private-token-of-a-fuzz"
_ACCEPT = "application/json, text/event-stream"
_INTERNAL = -32603


class Tracebacks(logging.Handler):
    """Keeps the tracebacks that the owner logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            while isinstance(error, BaseExceptionGroup):
                error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
            self.found.append(f"logged {type(error).__name__}: {error}")


class HostileClients:
    """Sends inputs to the owner of one home and says what is wrong with the answers."""

    def __init__(self, http: httpx2.AsyncClient, url: str, ids: dict[str, str], log: Tracebacks) -> None:
        self._http, self._url, self._ids, self._log = http, url, ids, log
        self._session: dict[str, str] = {}

    async def open(self) -> None:
        """Opens the session of the messages that need one."""
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "fuzz", "version": "1"}}
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}
        answer = await self._http.post(MCP_PATH, json=message, headers={"accept": _ACCEPT})
        self._session = {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await self._http.post(MCP_PATH, json=ready, headers={"accept": _ACCEPT, **self._session})

    async def attempt(self, tried: Input) -> str:
        """What is wrong with the answer to a message or a request of a route; "" where nothing is."""
        self._log.found.clear()
        content = self._resolved(tried.content)
        try:
            with anyio.fail_after(SECONDS):
                problem = await (self._message(content) if tried.kind == "message" else self._route(content))
        except TimeoutError:
            problem = "no answer"
        except httpx2.TransportError as error:
            problem = f"connection lost: {type(error).__name__}"
        return problem or next(iter(self._log.found), "")

    async def _message(self, message: dict[str, Any]) -> str:
        line = json.dumps(message).encode()
        parsed = Message(line, message)
        params: Any = message["params"]
        modern = isinstance(params, dict) and VERSION_KEY in cast("dict[str, Any]", params).get("_meta", {})
        headers = {"accept": _ACCEPT, "content-type": "application/json"}
        headers |= parsed.headers if modern and isinstance(message["method"], str) else self._session
        async with self._http.stream("POST", MCP_PATH, content=line, headers=headers) as response:
            body = await _until_answered(response, message["id"])
        if problem := _http_problem(response.status_code, body):
            return problem
        if response.status_code >= 300:
            return ""
        answers = [answer for answer in _answers(body) if answer.get("id") == message["id"]]
        if not answers:
            return f"HTTP {response.status_code} without an answer for the id"
        return _answer_problem(answers[0])

    async def _route(self, asked: dict[str, Any]) -> str:
        headers = {"accept": asked["accept"], "content-type": asked["type"], "mcp-protocol-version": asked["version"]}
        headers = {name: value for name, value in headers.items() if value}
        if asked["token"]:
            headers["authorization"] = f"Bearer {TOKEN}"
        if asked["path"] == MCP_PATH and asked["method"] == "GET":
            return ""  # a stream that is open as long as its client wants
        try:
            request = self._http.build_request(asked["method"], asked["path"], content=asked["body"], headers=headers)
        except (httpx2.InvalidURL, ValueError):
            return ""  # no client can send it
        response = await self._http.send(request)
        return _http_problem(response.status_code, response.content)

    async def lines(self, tried: Sequence[Input]) -> list[str]:
        """What is wrong after a real bridge was given these lines: lost calls, or that it died."""
        self._log.found.clear()
        resolved = [self._resolved(list(one.content)) for one in tried]
        own = [written(message, way, noise, place) for place, (message, way, noise) in enumerate(resolved)]
        program = bridge_command(f"{self._url}{MCP_PATH}")
        wanted = {"first", "last", *(id for id, _ in own if id is not None)}
        sent = b"\n".join([_HELLO, *(line for _, line in own), _LAST, b""])
        done = await asyncio.to_thread(_run, program, sent, wanted)
        answered = [_json(line) for line in done.stdout.splitlines()]
        ids = [answer.get("id") for answer in answered if isinstance(answer, dict)]
        problems = [f"lost call: {line[:200]!r}" for id, line in own if id is not None and id not in ids]
        if done.returncode != 0 or "last" not in ids:
            problems.append(f"the bridge ended with {done.returncode}: {done.stderr.decode()[-200:]}")
        if b"Traceback" in done.stderr or b"--debug shows" in done.stderr:
            problems.append(f"the bridge printed a traceback: {done.stderr.decode()[-200:]}")
        for answer in answered:
            if not isinstance(answer, dict):
                problems.append("a line of the bridge is no message")
            elif problem := _answer_problem(answer):
                problems.append(problem)
        return problems + self._log.found[:1]

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, str):
            for name, id in self._ids.items():
                value = value.replace(name, id)
            return value
        if isinstance(value, list):
            return [self._resolved(part) for part in cast("list[Any]", value)]
        if isinstance(value, dict):
            items = cast("dict[str, Any]", value).items()
            return {self._resolved(name): self._resolved(part) for name, part in items}
        return value


def bridge_command(url: str) -> list[str]:
    """A bridge to the server at `url`."""
    return [sys.executable, "-P", "-m", "server.cli", "bridge", "--url", url]


_HELLO = json.dumps(
    {"jsonrpc": "2.0", "id": "first", "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "fuzz", "version": "1"}}}
).encode() + b'\n{"jsonrpc":"2.0","method":"notifications/initialized"}'  # fmt: skip
_LAST = b'{"jsonrpc":"2.0","id":"last","method":"ping"}'


def _run(program: list[str], sent: bytes, wanted: set[Any]) -> subprocess.CompletedProcess[bytes]:
    """A bridge that is given `sent`, and an end of its input once every wanted id is answered."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT) as bridge,
    ):
        assert bridge.stdin is not None
        assert bridge.stdout is not None
        writing = threading.Thread(target=_write, args=(bridge.stdin, sent))
        impatient = threading.Timer(LINES_SECONDS, bridge.kill)
        writing.start()
        impatient.start()
        lines, left = list[bytes](), set(wanted)
        for line in bridge.stdout:
            lines.append(line)
            answer = _json(line)
            left -= {answer.get("id")} if isinstance(answer, dict) and "method" not in answer else set()
            if not left:
                break
        writing.join()
        with contextlib.suppress(BrokenPipeError):
            bridge.stdin.close()
        lines.extend(bridge.stdout)
        code = bridge.wait()
        impatient.cancel()
        log.seek(0)
        return subprocess.CompletedProcess(program, code, b"".join(lines), log.read())


def _write(pipe: IO[bytes], sent: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        pipe.write(sent)
        pipe.flush()


async def _until_answered(response: httpx2.Response, id: Any) -> bytes:
    """The body up to the answer: a stream may stay open after it."""
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if any(answer.get("id") == id and "method" not in answer for answer in _answers(body)):
            break
    return body


def _answers(body: bytes) -> list[dict[str, Any]]:
    """The messages in a body, which is one message or a stream of events."""
    found = [_json(line.removeprefix(b"data:")) for line in body.splitlines() if line.startswith(b"data:")]
    return [message for message in [_json(body), *found] if isinstance(message, dict)]


def _json(text: bytes) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return None


def _http_problem(status: int, body: bytes) -> str:
    if status >= 500 and status != 503:
        return f"HTTP {status}: {body[:100]!r}"
    return "a traceback in the body" if b"Traceback (most recent" in body else ""


def _answer_problem(answer: dict[str, Any]) -> str:
    error: Any = answer.get("error") or {}
    if error.get("code") == _INTERNAL:
        return f"an internal error: {error.get('message')}"
    result: Any = answer.get("result")
    said = json.dumps(result.get("content") if isinstance(result, dict) and result.get("isError") else None)
    if "failed inside the server" in said:
        return f"a tool failed: {said[:150]}"
    return "a traceback in the answer" if "Traceback (most recent" in said else ""
