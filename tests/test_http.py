"""The owner over HTTP: tokens, Host and Origin, the private routes, and `serve --http`."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from server.app import INSTRUCTIONS, create_app
from server.auth import Token, Tokens, read_tokens
from server.foreground import parse_address
from server.home import PRESENCE_PATH, STATUS_PATH, STOP_PATH, connect, find_or_start
from server.httplog import JsonLines
from server.metering import Meter
from server.owner import Address
from server.settings import Settings, SettingsError
from server.version import installed_version
from server.web import Activity, build_web
from tests.owners import bridge, command, environment, owner_of, run, text

pytestmark = pytest.mark.anyio

PRIVATE = {"authorization": "Bearer private-token"}
ANN = {"authorization": "Bearer ann-token"}
BOB = {"authorization": "Bearer bob-token"}
LISTED = (Token("ann-token", "ann"), Token("bob-token", "bob", "read"))
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


class Owner:
    """An owner's app in this process, over a runtime without anything in it."""

    def __init__(self, http: httpx2.AsyncClient, activity: Activity) -> None:
        self.http, self.activity = http, activity

    async def status(self, headers: dict[str, str], **more: Any) -> int:
        """What a first MCP request gets: 200 where it is let in."""
        body = {
            **LIST,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "test", "version": "1"},
            },
        }
        accept = {"accept": "application/json, text/event-stream"}
        return (await self.http.post("/mcp", json=body, headers={**accept, **headers}, **more)).status_code


@asynccontextmanager
async def owner(required: bool = True, hosts: tuple[str, ...] = (), **settings: Any) -> AsyncGenerator[Owner]:
    activity = Activity()
    tokens = Tokens(Token("private-token", "owner"), LISTED if required else (), required)
    runtime: Any = SimpleNamespace(
        settings=Settings(home=Path("/nowhere"), **settings),
        supervisor=SimpleNamespace(active=0, jobs=[], slots=SimpleNamespace(places=1)),
        autopilot=SimpleNamespace(studies=[]),
        memory=SimpleNamespace(),
    )
    app = build_web(runtime, tokens, activity, hosts)
    transport = httpx2.ASGITransport(app)
    async with (
        _lifespan(app),
        httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", trust_env=False) as http,
    ):
        yield Owner(http, activity)


@asynccontextmanager
async def _lifespan(app: Any) -> AsyncGenerator[None]:
    """What uvicorn does around the app."""
    to_app, from_test = anyio.create_memory_object_stream[dict[str, str]](2)
    answered, from_app = anyio.create_memory_object_stream[dict[str, str]](2)
    with to_app, from_test, answered, from_app:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app, {"type": "lifespan"}, from_test.receive, answered.send)
            await to_app.send({"type": "lifespan.startup"})
            assert (await from_app.receive())["type"] == "lifespan.startup.complete"
            yield
            await to_app.send({"type": "lifespan.shutdown"})
            assert (await from_app.receive())["type"] == "lifespan.shutdown.complete"


async def test_only_a_listed_token_is_let_in() -> None:
    async with owner() as served:
        assert [await served.status(headers) for headers in (ANN, BOB, PRIVATE)] == [200, 200, 200]
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic ann-token"}):
            assert await served.status(headers) == 401
        refused = await served.http.post("/mcp", json=LIST)
        assert refused.headers["www-authenticate"].startswith("Bearer error=")
        assert "private-token" not in refused.text


async def test_an_open_loopback_asks_for_no_token_but_keeps_its_private_routes() -> None:
    async with owner(required=False) as served:
        assert await served.status({}) == 200
        assert (await served.http.get(STATUS_PATH)).status_code == 404
        assert (await served.http.get(STATUS_PATH, headers=PRIVATE)).status_code == 200


async def test_a_listed_token_does_not_open_the_private_routes() -> None:
    async with owner() as served:
        assert (await served.http.get(STATUS_PATH, headers=ANN)).status_code == 404
        assert (await served.http.post(STOP_PATH, headers=ANN)).status_code == 404
        assert (await served.http.get(PRESENCE_PATH, headers=ANN)).status_code == 404
        assert not served.activity.stopping.is_set()


async def test_health_is_open_and_says_the_version() -> None:
    async with owner() as served:
        health = await served.http.get("/health")
        assert (health.status_code, health.json()) == (200, {"status": "ok", "version": installed_version()})


@pytest.mark.parametrize("required", [True, False])
async def test_host_and_origin_are_checked(required: bool) -> None:
    async with owner(required, hosts=("10.0.0.5",), allowed_hosts=("mle.example",)) as served:
        for host in ("localhost:8000", "127.0.0.1:1", "[::1]:8000", "localhost", "10.0.0.5:8000", "mle.example"):
            assert await served.status({**ANN, "host": host}) == 200
        for host in ("evil.example", "localhost.evil.example", "10.0.0.6:8000"):
            assert await served.status({**ANN, "host": host}) == 421
        assert await served.status({**ANN, "origin": "http://localhost:3000"}) == 200
        assert await served.status({**ANN, "origin": "https://mle.example"}) == 200
        assert await served.status({**ANN, "origin": "https://evil.example"}) == 403


async def test_a_token_that_only_reads_changes_nothing() -> None:
    async with owner() as served:
        served.http.headers.update(BOB)
        async with Client(streamable_http_client("http://127.0.0.1:8000/mcp", http_client=served.http)) as client:
            refused = await client.call_tool("start_study", {"dataset": "demo"})
    assert refused.is_error
    assert (
        text(refused) == "start_study changes a study, and this token's role is 'read'; use one with the role 'tune'."
    )


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("read_memory", {"levle": "trial"}, "read_memory has no argument 'levle'. Did you mean 'level'? Arguments: "),
        ("list_datasets", {"name": "demo"}, "list_datasets has no argument 'name'. Arguments: none."),
        ("read_memory", {"limit": "many"}, "read_memory: limit='many': Input should be a valid integer"),
        ("start_study", {}, "start_study needs the argument 'dataset'."),
        ("finish_trail", {}, "There is no tool 'finish_trail'. Did you mean 'finish_study'? Tools: list_datasets, "),
    ],
)
async def test_a_call_that_does_not_fit_is_refused_in_words(tool: str, arguments: dict[str, Any], said: str) -> None:
    runtime: Any = SimpleNamespace()
    async with Client(create_app(runtime)) as client:
        refused = await client.call_tool(tool, arguments)
    assert refused.is_error
    assert text(refused).startswith(said)
    assert len(text(refused).splitlines()) == 1


async def test_the_schema_of_a_tool_admits_no_other_arguments() -> None:
    runtime: Any = SimpleNamespace()
    async with Client(create_app(runtime)) as client:
        tools = (await client.list_tools()).tools
    assert {tool.input_schema["additionalProperties"] for tool in tools} == {False}


def test_the_instructions_are_short() -> None:
    assert len(INSTRUCTIONS.encode()) < 1000


async def test_status_counts_the_clients() -> None:
    async with owner() as served:
        with served.activity.client():
            status = await served.http.get(STATUS_PATH, headers=PRIVATE)
    assert status.json() == {
        "version": installed_version(),
        "clients": 1,
        "busy": False,
        "running": [],
        "queued": [],
        "playing": [],
        "slots": 1,
        "queue": [],
    }


def test_a_token_file_holds_tokens_names_and_roles(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# who may\n\nalpha\n  beta  ann\ngamma bob read\n")
    assert read_tokens(file) == (Token("alpha", "line-3"), Token("beta", "ann"), Token("gamma", "bob", "read"))
    assert "alpha" not in repr(read_tokens(file))


def test_a_broken_token_file_is_refused_without_telling_a_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_tokens(file)
    file.write_text("\n# nothing\n")
    with pytest.raises(SettingsError, match="holds no token; write one a line"):
        read_tokens(file)
    file.write_text("alpha\nbeta ann admin\n")
    with pytest.raises(SettingsError, match=r"line 2: .*\(read or tune\)") as refused:
        read_tokens(file)
    assert "beta" not in str(refused.value)


def test_an_address_is_host_and_port() -> None:
    assert parse_address("127.0.0.1:8000") == Address("127.0.0.1", 8000)
    assert parse_address("[::1]:0") == Address("::1", 0)
    assert parse_address(":8000") == Address("127.0.0.1", 8000)
    loopback = {host: Address(host).is_loopback for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "mle.example")}
    assert loopback == {"127.0.0.1": True, "localhost": True, "::1": True, "0.0.0.0": False, "mle.example": False}


@contextmanager
def foreground(home: Path, *more: str | Path) -> Iterator[subprocess.Popen[str]]:
    """`serve --http` on a port of the system's choice, from when it listens."""
    arguments = command("serve", "--home", home, "--http", "127.0.0.1:0", *more)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline().startswith(f"VirtualMLE serves {home} at http://127.0.0.1:")
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
            yield process
        finally:
            process.kill()


async def test_a_foreground_owner_takes_the_place_of_an_idle_one_and_serves_local_clients_too(
    home: Path, tmp_path: Path
) -> None:
    idle = await find_or_start(Settings(home=home))
    tokens = tmp_path / "tokens"
    tokens.write_text("ann-token ann\n")
    with foreground(home, "--token-file", tokens) as process:
        async with Client(bridge(home)) as client:
            assert not (await client.call_tool("read_memory", {})).is_error
            served = owner_of(home)
            assert (served.pid, process.pid) == (process.pid, served.pid)
            assert served.pid != idle.pid
            async with httpx2.AsyncClient(headers=ANN, trust_env=False) as http:
                async with Client(streamable_http_client(f"{served.url}/mcp", http_client=http)) as remote:
                    assert not (await remote.call_tool("list_datasets", {})).is_error
                http.headers.clear()
                assert (await http.post(f"{served.url}/mcp", json=LIST)).status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    assert not (home / "owner.json").exists()


async def test_a_foreground_owner_leaves_an_owner_in_use_alone(home: Path) -> None:
    async with connect(home) as client:
        await client.list_tools()
        refused = await anyio.to_thread.run_sync(lambda: run("serve", "--home", home, "--http", "127.0.0.1:0"))
        assert refused.returncode == 1
        assert refused.stderr.endswith("1 client); end it with `virtualmle stop`.\n")
        assert len(refused.stderr.splitlines()) == 1
        assert not (await client.call_tool("read_memory", {})).is_error


async def test_ctrl_c_ends_a_foreground_owner_with_its_exit_code(home: Path) -> None:
    with foreground(home) as process:
        async with connect(home) as client:
            await client.list_tools()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130


def test_an_address_that_can_be_reached_from_elsewhere_needs_tokens(home: Path) -> None:
    refused = run("serve", "--home", home, "--http", "0.0.0.0:0")
    assert refused.returncode == 2
    assert "0.0.0.0 can be reached from elsewhere: give --token-file F" in " ".join(refused.stderr.split())


def test_an_address_in_use_is_named(home: Path) -> None:
    with Address().listen() as listener:
        port = listener.getsockname()[1]
        refused = run("serve", "--home", home, "--http", f"127.0.0.1:{port}")
    assert refused.returncode == 1
    assert refused.stderr == f"virtualmle: cannot listen on 127.0.0.1:{port}: Address already in use\n"


async def test_a_request_has_an_id_that_is_the_clients_if_it_is_plain() -> None:
    async with owner() as served:
        own = await served.http.get("/health", headers={"x-request-id": "abc-1"})
        assert own.headers["x-request-id"] == "abc-1"
        made = await served.http.get("/health", headers={"x-request-id": 'a b; "c'})
        assert re.fullmatch(r"[0-9a-f]{16}", made.headers["x-request-id"])


async def test_a_body_beyond_the_limit_is_refused_however_it_comes() -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(3):
            yield b" " * 1024

    async with owner(max_request_mb=2 / 1024) as served:
        for content in (b" " * 3000, pieces()):
            refused = await served.http.post("/mcp", content=content, headers=ANN)
            assert refused.status_code == 413
            assert "2,048 bytes (max_request_mb in virtualmle.yaml)" in refused.json()["error"]
        assert (await served.http.post("/mcp", json=LIST, headers=ANN)).status_code != 413


async def test_metrics_count_calls_and_want_a_token_where_there_are_tokens() -> None:
    async with owner() as served:
        refused = await served.http.get("/metrics")
        assert (refused.status_code, refused.headers["www-authenticate"][:6]) == (401, "Bearer")
        await served.http.get("/health")
        text = (await served.http.get("/metrics", headers=BOB)).text
        assert 'virtualmle_http_requests_total{method="GET",status="200"} 1.0' in text
        assert "virtualmle_policies_playing 0.0" in text
        assert "virtualmle_memory_bytes 0.0" in text
    async with owner(required=False) as served:
        assert (await served.http.get("/metrics")).status_code == 200


def test_calls_are_counted_by_how_they_came_out() -> None:
    meter = Meter(dict)
    meter.called("run_trial", "ok", 0.2)
    meter.called("run_trial", "refused", 0.01)
    text = meter.text().decode()
    assert 'virtualmle_tool_calls_total{outcome="refused",tool="run_trial"} 1.0' in text
    assert 'virtualmle_tool_seconds_bucket{le="0.3",tool="run_trial"} 2.0' in text


def test_log_lines_are_json() -> None:
    record = logging.LogRecord("virtualmle.http", logging.INFO, "f", 1, "%s %s", ("POST", "/mcp"), None)
    record.facts = {"status": 200}
    found = json.loads(JsonLines().format(record))
    assert (found["message"], found["status"], found["level"]) == ("POST /mcp", 200, "INFO")


def test_a_foreground_owner_logs_requests_as_json_without_tokens(home: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("ann-token ann\n")
    arguments = command("serve", "--home", home, "--http", "127.0.0.1:0", "--token-file", tokens)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        process.stderr.readline()
        with httpx2.Client(headers={**ANN, "x-request-id": "mine"}, trust_env=False) as http:
            http.post(f"{owner_of(home).url}/mcp", json=LIST)
        process.send_signal(signal.SIGTERM)
        logged = process.stderr.read()
    lines = [json.loads(line) for line in logged.splitlines()]
    assert next(line for line in lines if line["request_id"] == "mine")["path"] == "/mcp"
    assert "ann-token" not in logged
