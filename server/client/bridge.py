"""The stdio server: passes MCP messages unchanged between a client's pipes and a server's HTTP endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading

import anyio

from server.client.connection import OwnerConnection
from server.client.endpoint import Endpoint
from server.client.message import BadLine, Message, as_line, read_message

_DRAIN_SECONDS = 3.0
"""How long answers in progress are awaited after the end of stdin, if the client still reads them."""


def run_bridge(endpoint: Endpoint) -> None:
    """Bridges this process's stdin and stdout to `endpoint` until stdin ends. Raises HomeError if nothing answers."""
    anyio.run(_Bridge(endpoint).run)


class _Bridge:
    def __init__(self, endpoint: Endpoint) -> None:
        self._connection = OwnerConnection(endpoint, self._write)
        self._calls: dict[str | int, anyio.CancelScope] = {}
        self._idle = anyio.Event()

    async def run(self) -> None:
        lines = _read_lines(asyncio.get_running_loop())
        try:
            async with anyio.create_task_group() as tasks:
                await self._connection.open(tasks)
                while line := await lines.get():
                    await self._handle_line(line, tasks)
                await self._drain()
                tasks.cancel_scope.cancel()
        except* BrokenPipeError:
            pass  # the client is gone, so nobody can read an error
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
                await self._connection.close()

    async def _handle_line(self, line: bytes, tasks: anyio.abc.TaskGroup) -> None:
        try:
            message = read_message(line)
        except BadLine as problem:
            error = {"code": problem.code, "message": str(problem)}
            self._write(as_line({"jsonrpc": "2.0", "id": problem.id, "error": error}))
            return
        if message.is_request:
            scope = anyio.CancelScope()
            self._calls[message.id] = scope
            if message.method == "initialize":
                await self._answer_call(message, scope)  # later lines need the session that it opens
            else:
                tasks.start_soon(self._answer_call, message, scope)
        else:
            # Sent in order, before later lines: `initialized` opens the session, `cancelled` precedes a reused id.
            await self._connection.notify(message)
            if message.cancels in self._calls:
                self._calls[message.cancels].cancel()

    async def _answer_call(self, message: Message, scope: anyio.CancelScope) -> None:
        with scope:
            await self._connection.call(message)
        if self._calls.get(message.id) is scope:
            del self._calls[message.id]
        if not self._calls:
            self._idle.set()

    async def _drain(self) -> None:
        with anyio.move_on_after(_DRAIN_SECONDS):
            while self._calls and not _reader_is_gone():
                self._idle = anyio.Event()
                await self._idle.wait()

    def _write(self, text: str) -> None:
        data = memoryview(text.encode() + b"\n")
        while data:
            data = data[os.write(1, data) :]


def _read_lines(loop: asyncio.AbstractEventLoop) -> asyncio.Queue[bytes]:
    """Lines of stdin as they arrive, b"" at its end. A thread reads them: stdin may be a file, a pipe or a terminal."""
    lines: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        # Its own descriptor: a daemon thread must not hold sys.stdin's lock when the interpreter ends.
        with os.fdopen(os.dup(0), "rb") as stdin, contextlib.suppress(RuntimeError):
            for line in stdin:
                if line.strip():
                    loop.call_soon_threadsafe(lines.put_nowait, line.strip())
            loop.call_soon_threadsafe(lines.put_nowait, b"")

    threading.Thread(target=read, daemon=True).start()
    return lines


def _reader_is_gone() -> bool:
    """Whether nobody holds the other end of stdout any more; False where the system cannot tell."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
