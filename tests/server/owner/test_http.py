"""The owner over HTTP: tokens, Host and Origin, the private routes, and `serve --http`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.types import ASGIApp

from server.auth import Token, Tokens
from server.client.home import EXPORT_PATH, PACK_PATH, PRESENCE_PATH, RECOMMEND_PATH, STATUS_PATH, STOP_PATH
from server.owner.access_log import JsonLines
from server.owner.activity import Activity
from server.owner.metrics import Meter
from server.owner.web import build_web
from server.settings import Settings
from server.tools.app import INSTRUCTIONS, create_app
from server.version import installed_version
from tests.support.texts import text

pytestmark = pytest.mark.anyio

PRIVATE = {"authorization": "Bearer private-token"}
ANN = {"authorization": "Bearer ann-token-of-a-test"}
BOB = {"authorization": "Bearer bob-token"}
TWIN = {"authorization": "Bearer twin-token"}
LISTED = (Token("ann-token-of-a-test", "ann"), Token("bob-token", "bob", "read"), Token("twin-token", "ann"))
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
CLIENT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
INITIALIZE = {**LIST, "method": "initialize", "params": CLIENT}


class Owner:
    """An owner's app in this process, over a runtime without anything in it."""

    def __init__(self, app: ASGIApp, http: httpx2.AsyncClient, activity: Activity) -> None:
        self.app, self.http, self.activity = app, http, activity

    async def status(self, headers: dict[str, str], **more: Any) -> int:
        """What a first MCP request gets: 200 where it is let in."""
        accept = {"accept": "application/json, text/event-stream"}
        return (await self.http.post("/mcp", json=INITIALIZE, headers={**accept, **headers}, **more)).status_code


@asynccontextmanager
async def owner(required: bool = True, hosts: tuple[str, ...] = (), **settings: Any) -> AsyncGenerator[Owner]:
    activity = Activity()
    tokens = Tokens(Token("private-token", "owner"), LISTED if required else (), required)
    runtime: Any = SimpleNamespace(
        settings=Settings(home=Path("/nowhere"), **settings),
        supervisor=SimpleNamespace(busy=False, active_trials=[], slots=SimpleNamespace(places=1)),
        autopilot=SimpleNamespace(studies=[]),
        memory=SimpleNamespace(),
        tables=None,
    )
    app = build_web(runtime, tokens, activity, hosts)
    transport = httpx2.ASGITransport(app)
    async with (
        _lifespan(app),
        httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", trust_env=False) as http,
    ):
        yield Owner(app, http, activity)


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
        assert await served.status({"authorization": "bearer  ann-token-of-a-test"}) == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic ann-token-of-a-test"}):
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


@pytest.mark.parametrize("path", ["/", "/page/studies", "/page/studies/s-1", "/metrics", STATUS_PATH, "/mcp", "/none"])
async def test_every_path_but_health_checks_host_and_origin(path: str) -> None:
    async with owner(required=False) as served:
        for token in ({}, PRIVATE):
            strange = [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}]
            found = [(await served.http.get(path, headers={**token, **header})).status_code for header in strange]
            assert found == [421, 403, 403]
        assert (await served.http.get("/health", headers={"host": "10.1.2.3:8000"})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({**ANN, "host": "evil.example"}, 421),
        ({**ANN, "origin": "https://evil.example"}, 403),
        ({**ANN, "x-long": "x" * 20_000}, 431),
        ({**ANN, "content-length": "5000000"}, 413),
        ({**ANN, "content-length": "9" * 5_000}, 413),
    ],
)
async def test_a_request_is_refused_before_its_body_is_read(headers: dict[str, str], status: int) -> None:
    async with owner() as served:
        sent: list[Any] = []

        async def body() -> Any:
            raise AssertionError("the body was read")

        async def send(message: Any) -> None:
            sent.append(message)

        fields = {"host": "127.0.0.1:8000", "content-type": "application/json", **headers}
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        scope = {"type": "http", "method": "POST", "path": "/mcp", "query_string": b"", "headers": raw}
        await served.app(scope, body, send)
        assert sent[0]["status"] == status


async def test_a_session_is_for_the_token_that_opened_it() -> None:
    accept = {"accept": "application/json, text/event-stream"}
    async with owner() as served:
        opened = await served.http.post("/mcp", json=INITIALIZE, headers={**accept, **ANN})
        session = {"mcp-session-id": opened.headers["mcp-session-id"], **accept}
        listed = [
            (await served.http.post("/mcp", json=LIST, headers={**session, **token})).status_code
            for token in (ANN, BOB, TWIN, PRIVATE)
        ]
        assert listed == [200, 404, 404, 404]


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
    runtime: Any = SimpleNamespace(tables=None)
    async with Client(create_app(runtime)) as client:
        refused = await client.call_tool(tool, arguments)
    assert refused.is_error
    assert text(refused).startswith(said)
    assert len(text(refused).splitlines()) == 1


async def test_the_schema_of_a_tool_admits_no_other_arguments() -> None:
    runtime: Any = SimpleNamespace(tables=None)
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
        "replay": None,
    }


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


async def test_a_message_is_mended_or_refused_by_its_id_before_it_reaches_the_server() -> None:
    async with owner() as served:
        headers = {"accept": "application/json, text/event-stream", "content-type": "application/json", **ANN}

        async def answer(body: bytes) -> tuple[int, str]:
            answered = await served.http.post("/mcp", content=body, headers=headers)
            return answered.status_code, answered.text

        hello = json.dumps({**INITIALIZE, "id": 2.0}).encode()
        status, said = await answer(b"\xef\xbb\xbf" + hello)
        assert status == 200
        assert '"id":2,' in said
        status, said = await answer(b'{"id": 7, "method": ' + b"[" * 3000)
        assert (status, json.loads(said)["id"], json.loads(said)["error"]["code"]) == (400, 7, -32600)
        status, said = await answer(b"")
        assert (status, json.loads(said)["error"]["code"]) == (400, -32700)


@pytest.mark.parametrize("path", [PACK_PATH, EXPORT_PATH, RECOMMEND_PATH])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 3000 + b"]" * 3000, b"{}", b"null", b"1" * 5000])
async def test_a_private_request_that_cannot_be_read_is_one_line(path: str, body: bytes) -> None:
    async with owner() as served:
        refused = await served.http.post(path, content=body, headers=PRIVATE)
        assert refused.status_code in (400, 409), refused.text
        assert refused.json()["error"]
        assert "\n" not in refused.json()["error"]


def test_methods_that_a_client_invents_are_counted_as_one() -> None:
    meter = Meter(dict)
    for number in range(3):
        meter.count_request(f"X{number}", 405)
    assert 'virtualmle_http_requests_total{method="other",status="405"} 3.0' in meter.text().decode()
    assert "X1" not in meter.text().decode()


def test_calls_are_counted_by_how_they_came_out() -> None:
    meter = Meter(dict)
    meter.count_call("run_trial", "ok", 0.2)
    meter.count_call("run_trial", "refused", 0.01)
    text = meter.text().decode()
    assert 'virtualmle_tool_calls_total{outcome="refused",tool="run_trial"} 1.0' in text
    assert 'virtualmle_tool_seconds_bucket{le="0.3",tool="run_trial"} 2.0' in text


def test_log_lines_are_json() -> None:
    record = logging.LogRecord("virtualmle.http", logging.INFO, "f", 1, "%s %s", ("POST", "/mcp"), None)
    record.facts = {"status": 200}
    found = json.loads(JsonLines().format(record))
    assert (found["message"], found["status"], found["level"]) == ("POST /mcp", 200, "INFO")
