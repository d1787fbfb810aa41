"""Limits of HTTP connections, on a socket with a real uvicorn: time, bytes and number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import anyio
import pytest
import uvicorn

from server.owner.connections import LimitedConnection, Limits
from server.owner.gate import BodyLimit
from tests.support.trials import until

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"


class App:
    """`/` answers, `/read` reads the body first, `/stream` sends a line at once and another after `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = anyio.Event()
        self.gone = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/read":
            message = {"more_body": True}
            while message.get("more_body"):
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.gone += 1
                    return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/stream":
            await send({"type": "http.response.body", "body": b"first\n", "more_body": True})
            await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"last\n"})


class Served:
    def __init__(self, server: uvicorn.Server, app: App) -> None:
        self.server, self.app = server, app
        self.writers: list[asyncio.StreamWriter] = []
        self.port = server.servers[0].sockets[0].getsockname()[1]

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    async def open(self, sent: bytes) -> asyncio.StreamReader:
        """Sends bytes on a new connection, which stays open."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(sent)
        await writer.drain()
        return reader


@asynccontextmanager
async def served(**limits: Any) -> AsyncIterator[Served]:
    class Connection(LimitedConnection):
        pass

    Connection.limits = Limits(**limits)
    app = App()
    config = uvicorn.Config(
        cast("Any", app), host="127.0.0.1", port=0, http=Connection, lifespan="off", log_config=None, ws="none",
        h11_max_incomplete_event_size=Connection.limits.header_bytes, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    found = Served(server, app)
    try:
        yield found
    finally:
        app.go_on.set()
        for writer in found.writers:
            writer.close()
        server.should_exit = True
        await running


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes the connection."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while piece := await reader.read(65_536):
            received += piece
    return bytes(received)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET, GET + b"x: y\r\n"], ids=["none", "line", "host", "header"])
async def test_headers_that_are_not_sent_to_their_end_close_the_connection(sent: bytes) -> None:
    async with served(header_seconds=0.05) as http:
        assert await end_of(await http.open(sent)) == b""
        await until(lambda: http.connections == 0)


async def test_headers_that_trickle_do_not_extend_their_time() -> None:
    async with served(header_seconds=0.2) as http:
        reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
        writer.write(GET)
        ended = asyncio.create_task(end_of(reader))
        while not ended.done():
            writer.write(b"x: y\r\n")
            await asyncio.sleep(0.01)
        assert await ended == b""
        writer.close()


async def test_a_body_that_is_not_sent_to_its_end_closes_the_connection() -> None:
    async with served(body_seconds=0.05) as http:
        assert await end_of(await http.open(POST.replace(b" / ", b" /read ") + b"half")) == b""
        await until(lambda: http.app.gone == 1)


async def test_the_rest_of_a_body_is_not_waited_for_when_its_request_is_answered() -> None:
    async with served(body_seconds=0.05) as http:
        assert (await end_of(await http.open(POST))).endswith(b"last\n\r\n0\r\n\r\n")
    async with served(unread_bytes=100_000) as http:
        reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
        writer.write(POST.replace(b"1000", b"100000000"))
        ended = asyncio.create_task(end_of(reader))
        with suppress(ConnectionError):
            while not ended.done():
                writer.write(b" " * 10_000)
                await writer.drain()
        await until(lambda: http.connections == 0)
        await ended
        writer.close()


async def test_a_stream_outlives_every_limit_of_time() -> None:
    async with served(header_seconds=0.05, body_seconds=0.05) as http:
        stream = await http.open(GET.replace(b" / ", b" /stream ") + b"\r\n")
        assert b"first" in await stream.readuntil(b"first\n")
        for _ in range(3):
            assert await end_of(await http.open(GET)) == b""
        http.app.go_on.set()
        assert b"last" in await stream.readuntil(b"last\n")


async def test_headers_beyond_the_limit_are_refused() -> None:
    async with served(header_bytes=2_000) as http:
        assert (await end_of(await http.open(GET + b"x: " + b"y" * 5_000))).startswith(b"HTTP/1.1 400")


async def test_a_new_connection_takes_the_place_of_the_one_idle_longest_and_never_of_a_stream() -> None:
    async with served(connections=3) as http:
        stream = await http.open(GET.replace(b" / ", b" /stream ") + b"\r\n")
        await stream.readuntil(b"first\n")
        half = [await http.open(GET) for _ in range(2)]
        await until(lambda: http.connections == 3)
        answered = await http.open(GET + b"\r\n")
        assert b"last" in await answered.readuntil(b"last\n")
        assert await end_of(half[0]) == b""
        for _ in range(20):  # a flood
            await http.open(b"")
        await until(lambda: http.connections == 3)
        http.app.go_on.set()
        assert b"last" in await stream.readuntil(b"last\n")


async def test_a_connection_is_refused_where_all_others_are_at_work() -> None:
    async with served(connections=2) as http:
        streams = [await http.open(GET.replace(b" / ", b" /stream ") + b"\r\n") for _ in range(2)]
        for stream in streams:
            await stream.readuntil(b"first\n")
        assert (await end_of(await http.open(GET + b"\r\n"))).startswith(b"HTTP/1.1 503")


async def test_bodies_that_are_held_at_once_have_a_limit_together() -> None:
    held, statuses = anyio.Event(), list[int]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert len((await receive())["body"]) == 100
        await held.wait()

    limit = BodyLimit(app, 100)
    scope = {"type": "http", "path": "/mcp", "method": "POST", "headers": []}

    async def body() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"jsonrpc":"2.0","id":1,"method":"%s"}' % (b"x" * 64)}

    async def note(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    async with anyio.create_task_group() as tasks:
        for _ in range(16):
            tasks.start_soon(limit, scope, body, note)
        await anyio.wait_all_tasks_blocked()
        await limit(scope, body, note)
        assert statuses == [503]
        held.set()
    await limit(scope, body, note)
    assert statuses == [503]
