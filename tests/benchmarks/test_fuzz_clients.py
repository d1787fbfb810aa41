"""What clients send: 2,000 inputs of every kind are answered, without a 500, a traceback or a dead bridge."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from benchmarks import fuzz_clients
from benchmarks.hostile import calls, clients
from benchmarks.hostile.calls import Input
from benchmarks.hostile.serving import hostile_clients


def test_two_thousand_inputs_are_all_answered() -> None:
    values = fuzz_clients.run_unit(0, seed=1, amount=2000)
    assert (values["inputs"], values["failed"], values["problems"]) == (2000, 0, "")
    assert min(int(str(values[kind])) for kind in ("messages", "routes", "lines")) > 200


def test_the_same_number_draws_the_same_inputs_of_every_tool() -> None:
    tools = {f"tool{n}": {"properties": {"limit": {"type": "integer"}}, "required": ["limit"]} for n in range(3)}
    strategy = calls.inputs(tools, ["virtualmle://a/{id}/b", "virtualmle://c/{id}/{offset}"])
    drawn = calls.draw(strategy, 5, 150)
    assert [repr(one) for one in drawn] == [repr(one) for one in calls.draw(strategy, 5, 150)]
    assert [repr(one) for one in drawn] != [repr(one) for one in calls.draw(strategy, 6, 150)]
    named = {
        one.content["params"].get("name")
        for one in drawn
        if one.kind == "message" and isinstance(one.content["params"], dict)
    }
    assert set(tools) <= named
    assert {one.kind for one in drawn} == {"message", "route", "line"}


@pytest.mark.anyio
async def test_what_is_wrong_with_an_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hostile_clients(tmp_path / "home") as tried:

        async def attempt(method: str, params: Any = None, id: Any = 1) -> str:
            message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}
            return await tried.attempt(Input("message", message))

        assert await attempt("ping") == ""
        assert await attempt("tools/call", {"name": "get_study", "arguments": {"study_id": "$study0"}}) == ""

        def breaks(*_: Any) -> None:
            raise ZeroDivisionError("by hand")

        monkeypatch.setattr("server.tools.policies.offset_of", breaks)
        monkeypatch.setattr("server.tools.resources.data_card", breaks)
        monkeypatch.setattr("server.dashboard.routes._study_lines", breaks)
        called = await attempt("tools/call", {"name": "get_study", "arguments": {"study_id": "$study0"}})
        assert called.startswith("a tool failed: ")
        assert await attempt("resources/read", {"uri": "virtualmle://datasets/demo"}) != ""
        route = {
            "method": "GET",
            "path": "/page/studies",
            "body": b"",
            "token": True,
            "accept": "",
            "type": "",
            "version": "",
        }
        assert (await tried.attempt(Input("route", route))).startswith("HTTP 500")
        monkeypatch.setattr(clients, "SECONDS", 0.0)
        assert await attempt("ping") == "no answer"


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import sys; sys.stdin.readline(); sys.exit(3)", "the bridge ended with 3"),
        ("print('x')", "a line of the bridge is no message"),
        ("import sys; print('Traceback (most', file=sys.stderr)", "the bridge printed a traceback"),
    ],
)
@pytest.mark.anyio
async def test_a_bridge_that_dies_or_loses_a_call_is_told(
    program: str, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clients, "bridge_command", lambda url: [sys.executable, "-c", program])
    http: Any = None
    tried = clients.HostileClients(http, "http://127.0.0.1:9", {}, clients.Tracebacks())
    ping = {"jsonrpc": "2.0", "id": "a", "method": "ping", "params": {}}
    problems = await tried.lines([Input("line", (ping, 5, b"")), Input("line", (ping, 1, b"noise"))])
    assert any(found.startswith(problem) for found in problems)
    assert sum(found.startswith("lost call") for found in problems) == 1


@pytest.mark.parametrize(("way", "id"), [(0, "a-4"), (1, None), (2, None), (3, "a-4")])
def test_a_line_is_written_with_an_id_of_its_own(way: int, id: str | None) -> None:
    message = {"jsonrpc": "2.0", "id": "a", "method": "ping", "params": {}}
    known, line = calls.written(message, way, b"no\nise", 4)
    assert known == id
    assert b"\n" not in line
    if id is not None:
        assert json.loads(line.removeprefix(b"\xef\xbb\xbf"))["id"] == id
    number, _ = calls.written({**message, "id": 2.0}, 3, b"", 4)
    assert repr(number) == "4.0"


def test_rows_that_are_there_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units: list[int] = []

    def run_unit(unit: int, seed: int) -> dict[str, object]:
        units.append(unit)
        bad = "oh <- message" if unit == 1 else ""
        return {"inputs": 250, "failed": int(bool(bad)), "problems": bad, "messages": 1, "routes": 1, "lines": 1}

    monkeypatch.setattr(fuzz_clients, "run_unit", run_unit)
    words = ["--rows", str(tmp_path / "rows.jsonl")]
    assert [fuzz_clients.main([*words, "--inputs", "250"]) for _ in range(2)] == [0, 0]
    assert units == [0]
    assert fuzz_clients.main([*words, "--inputs", "500", "--minutes", "0"]) == 1
    assert fuzz_clients.main([*words, "--inputs", "500"]) == 1
    assert units == [0, 1]
