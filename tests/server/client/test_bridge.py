"""The stdio bridge as a client sees it: real bridges, real owners, and what happens when one of them is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest
from mcp import Client
from mcp_types import PROTOCOL_VERSION_META_KEY

from server.client.home import OWNER_ENDED, STATUS_PATH, find_owner, open_http
from server.client.message import VERSION_KEY, Message
from server.client.status import Status
from server.client.stop import stop_owner
from server.settings import Settings
from tests.support.owners import (
    CLONE,
    bridge,
    bridges,
    command,
    environment,
    json_lines,
    kill,
    new_study,
    owner_of,
    owners,
    run,
    run_trial,
    wait_gone,
)
from tests.support.texts import text
from tests.support.trials import gone

pytestmark = pytest.mark.anyio

ERAS = pytest.mark.parametrize("era", ["auto", "legacy"])
VERSIONS = {"auto": "2026-07-28", "legacy": "2025-11-25"}


async def _status(home: Path) -> Status:
    async with open_http(owner_of(home)) as http:
        return Status.model_validate_json((await http.get(STATUS_PATH)).content)


async def _training(client: Client, home: Path, tasks: anyio.abc.TaskGroup) -> tuple[str, str, list[Any]]:
    """A run_trial in flight: its study, its trial, and the list that its answer comes into."""
    study_id, answers = await new_study(client), []
    tasks.start_soon(run_trial, client, study_id, answers)
    with anyio.fail_after(30):
        while not (running := (await _status(home)).running):  # noqa: ASYNC110 - another process brings it about
            await anyio.sleep(0.02)
    return study_id, running[0], answers


async def _trials(client: Client, study_id: str) -> dict[str, str]:
    """{trial_id: status}"""
    read = await client.call_tool("read_memory", {"study_id": study_id})
    assert read.structured_content is not None, text(read)
    return {item["id"]: item["facts"]["status"] for item in read.structured_content["items"]}


@ERAS
async def test_a_client_of_either_era_works_through_the_bridge(home: Path, era: str) -> None:
    async with Client(bridge(home), mode=era) as client:
        assert client.protocol_version == VERSIONS[era]
        assert client.instructions is not None
        assert "start_study" in {tool.name for tool in (await client.list_tools()).tools}
        read = await client.call_tool("read_memory", {})
        assert read.structured_content is not None
        assert json.loads(text(read)) == read.structured_content
        refused = await client.call_tool("read_memory", {"levle": "trial"})
        assert text(refused).startswith("read_memory has no argument 'levle'. Did you mean 'level'?")
        assert {prompt.name for prompt in (await client.list_prompts()).prompts} >= {"tune"}
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(client.call_tool, "read_memory", {})
    assert owner_of(home)


async def test_two_bridges_started_at_once_share_one_owner(home: Path) -> None:
    async def work() -> None:
        async with Client(bridge(home)) as client:
            studies.append(await new_study(client))

    studies: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        tasks.start_soon(work)
    assert len(set(studies)) == 2
    assert [process.pid for process in owners(home)] == [owner_of(home).pid]


async def test_two_studies_at_once_from_two_stdio_clients_do_not_mix(home: Path) -> None:
    async with Client(bridge(home)) as one, Client(bridge(home)) as other:
        clients, answers = (one, other), ([], [])
        studies = [await new_study(client, space={"max_epochs": 1, "dropout": [0.5, 0.1]}) for client in clients]
        async with anyio.create_task_group() as tasks:
            for client, study_id, answer in zip(clients, studies, answers, strict=True):
                tasks.start_soon(run_trial, client, study_id, answer)
        trials = [answer[0].structured_content["trial_id"] for answer in answers]
        for client, study_id, trial_id in zip(clients, studies, trials, strict=True):
            ended = await client.call_tool("get_trial", {"trial_id": trial_id, "wait_seconds": 120})
            assert (ended.structured_content["study_id"], ended.structured_content["number"]) == (study_id, 0)
            assert await _trials(client, study_id) == {trial_id: "ok"}
        assert trials[0] != trials[1]
        assert len(owners(home)) == 1


@ERAS
async def test_a_session_goes_on_with_a_new_owner_after_the_owner_was_killed(home: Path, era: str) -> None:
    async with Client(bridge(home), mode=era) as client:
        study_id = await new_study(client)
        before = owner_of(home).pid
        kill(before)
        assert await _trials(client, study_id) == {}
        assert owner_of(home).pid != before


@ERAS
async def test_an_owner_killed_during_a_trial_gives_an_error_that_says_what_to_do(home: Path, era: str) -> None:
    async with Client(bridge(home), mode=era) as client:
        found: list[tuple[str, str, list[Any]]] = []
        async with anyio.create_task_group() as tasks:
            found.append(await _training(client, home, tasks))
            kill(owner_of(home).pid)
        ((study_id, trial_id, answers),) = found
        assert (answers[0].is_error, text(answers[0])) == (True, OWNER_ENDED)
        assert await _trials(client, study_id) == {trial_id: "interrupted"}


@ERAS
async def test_progress_reaches_the_client_and_a_cancelled_call_ends_the_wait_only(home: Path, era: str) -> None:
    async with Client(bridge(home), mode=era) as client:
        study_id, told = await new_study(client), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_trial, client, study_id, [], told)
            with anyio.fail_after(30):
                await told.wait()
            tasks.cancel_scope.cancel()
        trials = await _trials(client, study_id)
        assert list(trials.values()) in (["running"], ["queued"])  # it waits for its worker on a busy machine
        cancelled = await client.call_tool("cancel_trial", {"trial_id": next(iter(trials))})
        assert json.loads(text(cancelled))["status"] == "cancelled"


async def test_stop_interrupts_a_trial_that_outlived_its_killed_bridge_and_leaves_no_process(home: Path) -> None:
    async def until_the_bridge_is_killed() -> None:
        async with Client(bridge(home)) as client, anyio.create_task_group() as tasks:
            found.append(await _training(client, home, tasks))
            for process in bridges(home):
                kill(process.pid)

    found: list[tuple[str, str, list[Any]]] = []
    with pytest.raises(BaseExceptionGroup):
        await until_the_bridge_is_killed()
    study_id, trial_id, _ = found[0]
    assert (await _status(home)).running == [trial_id]
    children = psutil.Process(owner_of(home).pid).children(recursive=True)
    stopped = await anyio.to_thread.run_sync(stop_owner, Settings(home=home))
    assert stopped is not None
    assert stopped.interrupted == [trial_id]
    assert children
    assert all(gone(child.pid) for child in children)
    async with Client(bridge(home)) as client:
        assert await _trials(client, study_id) == {trial_id: "interrupted"}


async def test_a_killed_client_takes_its_bridge_with_it_and_not_its_trial(home: Path) -> None:
    program = f"import anyio; from tests.support.owners import train; anyio.run(train, {str(home)!r})"
    client = await anyio.open_process([sys.executable, "-c", program], cwd=CLONE, env=environment(), stderr=None)
    async with client:
        with anyio.fail_after(60):
            while not (find_owner(Settings(home=home)) and (running := (await _status(home)).running)):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        left = bridges(home)
        assert len(left) == 1
        client.kill()
    wait_gone(left[0].pid)
    assert (await _status(home)).running == running


def test_requests_on_a_pipe_are_answered_before_the_bridge_ends(home: Path) -> None:
    meta = {
        VERSION_KEY: "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "pipe", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    lines = [
        {"jsonrpc": "2.0", "id": "ä", "method": "tools/list", "params": {"_meta": meta}},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": "lïst_datasets", "arguments": {}, "_meta": meta},
        },
    ]
    ended = run("serve", "--home", home, stdin="\n".join([*map(json.dumps, lines), "not json", "[]", ""]))
    assert (ended.returncode, ended.stderr) == (0, "")
    answers = {str(answer["id"]): answer for answer in json_lines(ended.stdout) if answer["id"] is not None}
    assert {tool["name"] for tool in answers["ä"]["result"]["tools"]} >= {"run_trial"}
    assert (
        "There is no tool 'lïst_datasets'. Did you mean 'list_datasets'?"
        in answers["2"]["result"]["content"][0]["text"]
    )
    refused = [answer["error"]["code"] for answer in json_lines(ended.stdout) if answer["id"] is None]
    assert refused == [-32700, -32600]


def test_whatever_a_client_writes_every_call_is_answered_and_the_bridge_goes_on(home: Path) -> None:
    def request(id: Any, method: str, **params: Any) -> bytes:
        return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode()

    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    nested = b'{"jsonrpc":"2.0","id":"deep","method":"tools/call","params":' + b"[" * 1500 + b"]" * 1500 + b"}"
    lines = [
        b"\xef\xbb\xbf" + request("first", "ping"),
        b"\xef\xbb\xbf" + request(0, "initialize", **hello),
        b'{"jsonrpc":"2.0","id":null,"method":"notifications/initialized"}',
        request(2.0, "ping"),
        nested,
        request("half", "tools/call", name="read_memory", arguments={"query": "half of it: \ud83d"}),
        request("\ud800", "tools/call", name="x\ud800", arguments={}),
        request("text", "tools/call", name="read_memory", arguments='{"limit": 1, "level": null}'),
        request("twice", "tools/call", name="read_memory", arguments=json.dumps(json.dumps({"levle": "trial"}))),
        request("list", "tools/call", name="read_memory", arguments=[1]),
        request("nulls", "tools/call", name="read_memory", arguments={"limit": None, "detail": None, "query": None}),
        request("prompt", "prompts/get", name="tune", arguments={"trials": 9, "metric": None}),
        request("last", "ping"),
    ]
    done = subprocess.run(
        command("serve", "--home", home), input=b"\n".join(lines), capture_output=True, env=environment(), timeout=120
    )
    assert (done.returncode, done.stderr) == (0, b"")
    answers = {answer["id"]: answer for answer in json_lines(done.stdout.decode())}
    assert [answers[id]["result"] for id in ("first", 2.0, "last")] == [{}, {}, {}]
    assert b'"id":2.0' in done.stdout
    assert answers["deep"]["error"]["message"] == "The message is nested too deeply; flatten it."
    said = {
        id: answer["result"]["content"][0]["text"]
        for id, answer in answers.items()
        if "content" in answer.get("result", {})
    }
    assert "There is no tool 'x\ufffd'" in said["\ud800"]
    for id in ("half", "text", "nulls"):
        assert not answers[id]["result"].get("isError"), said[id]
    assert said["twice"].startswith("read_memory has no argument 'levle'. Did you mean 'level'?")
    assert said["list"] == ('read_memory: arguments must be one JSON object, as in {"study_id": "s-…"}; got [1].')
    told = answers["prompt"]["result"]["messages"][0]["content"]["text"]
    assert "for the best ndcg@10,\nin at most 9 configurations" in told


def test_the_bridge_ends_with_its_stdin(home: Path) -> None:
    with subprocess.Popen(
        command("serve", "--home", home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ping = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
        process.stdin.write(json.dumps(ping).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        process.stdin.close()
        assert process.wait(timeout=20) == 0
    assert owner_of(home)


def test_a_home_that_cannot_be_used_ends_the_bridge_with_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    ended = run("serve", "--home", file)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"virtualmle: {file}")


def test_the_bridge_opens_nothing_heavy() -> None:
    program = (
        "import server.client.bridge, sys; print([name for name in ('mcp', 'duckdb', 'numpy') if name in sys.modules])"
    )
    loaded = subprocess.run(
        [*command()[:2], "-c", program], capture_output=True, text=True, env=environment(), check=True
    )
    assert loaded.stdout == "[]\n"


def test_a_message_names_its_version_method_and_target_in_headers() -> None:
    assert VERSION_KEY == PROTOCOL_VERSION_META_KEY
    body = {"id": 1, "method": "resources/read", "params": {"uri": "a b", "_meta": {VERSION_KEY: "2026-07-28"}}}
    assert Message(b"", body).headers == {
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "resources/read",
        "mcp-name": "a b",
    }
    assert Message(b"", {"id": 1, "method": "tools/list"}).headers == {}


def test_half_a_character_in_a_target_becomes_the_replacement_character_in_its_header() -> None:
    half, whole = (
        {"id": 1, "method": "tools/call", "params": {"name": name, "_meta": {VERSION_KEY: "2026-07-28"}}}
        for name in ("a\ud800", "a\ufffd")
    )
    assert Message(b"", half).headers == Message(b"", whole).headers


async def test_the_owner_answers_nobody_without_its_token(home: Path) -> None:
    async with Client(bridge(home)) as client:
        await client.list_tools()
        owner = owner_of(home)
        async with httpx2.AsyncClient(base_url=owner.url, trust_env=False) as stranger:
            assert (await stranger.post("/mcp", json={})).status_code == 401
            assert (await stranger.get(STATUS_PATH)).status_code == 404
            assert (await stranger.post("/owner/stop")).status_code == 404
