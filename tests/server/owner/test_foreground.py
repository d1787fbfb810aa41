"""`serve --http`: an owner in the foreground, and what becomes of the owner that was there before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import anyio
import httpx2
import psutil
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from server.client.home import STATUS_PATH, STOP_PATH, HomeError, connect, find_or_start, find_owner
from server.client.stop import stop_idle_owner
from server.owner.foreground import parse_address
from server.owner.process import Address, write_owner
from server.settings import Settings
from tests.support.owners import bridge, command, environment, foreground, owner_of, run

pytestmark = pytest.mark.anyio

ANN = {"authorization": "Bearer ann-token-of-a-test"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def test_an_address_is_host_and_port() -> None:
    assert parse_address("127.0.0.1:8000") == Address("127.0.0.1", 8000)
    assert parse_address("[::1]:0") == Address("::1", 0)
    assert parse_address(":8000") == Address("127.0.0.1", 8000)
    loopback = {host: Address(host).is_loopback for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "mle.example")}
    assert loopback == {"127.0.0.1": True, "localhost": True, "::1": True, "0.0.0.0": False, "mle.example": False}


async def test_a_foreground_owner_takes_the_place_of_an_idle_one_and_serves_local_clients_too(
    home: Path, tmp_path: Path
) -> None:
    idle = await find_or_start(Settings(home=home))
    tokens = tmp_path / "tokens"
    tokens.write_text("ann-token-of-a-test ann\n")
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


def test_a_foreground_owner_logs_requests_as_json_without_tokens(home: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("ann-token-of-a-test ann\n")
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
    assert "ann-token-of-a-test" not in logged


async def test_a_second_serve_is_refused_in_one_line_and_the_working_owner_stays(home: Path) -> None:
    with foreground(home) as process:
        working = owner_of(home)
        for address in ("127.0.0.1:0", f"127.0.0.1:{working.port}"):
            refused = await anyio.to_thread.run_sync(lambda at=address: run("serve", "--home", home, "--http", at))
            assert (refused.returncode, refused.stdout, refused.stderr) == (
                1,
                "",
                f"virtualmle: {home} has an owner at {working.url}/mcp in the foreground (pid {working.pid}); "
                "end it with `virtualmle stop`.\n",
            )
        assert process.poll() is None
        assert owner_of(home) == working
        async with connect(home) as client:
            assert not (await client.call_tool("read_memory", {})).is_error


async def test_a_foreground_owner_refuses_to_make_way_and_ends_with_an_error_if_another_process_ends_it(
    home: Path,
) -> None:
    with foreground(home) as process:
        owner = owner_of(home)
        with httpx2.Client(base_url=owner.url, headers=owner.headers, trust_env=False) as http:
            assert http.post(f"{STOP_PATH}?by=successor").status_code == 409
            assert http.get(STATUS_PATH).status_code == 200
            http.post(STOP_PATH)  # as a `serve --http` of an earlier version does
        assert process.wait(timeout=20) == 1


async def test_a_foreground_owner_that_its_user_stops_ends_without_an_error(home: Path) -> None:
    with foreground(home) as process:
        stopped = await anyio.to_thread.run_sync(lambda: run("stop", "--home", home))
        assert stopped.returncode == 0
        assert process.wait(timeout=20) == 0


async def test_a_detached_owner_that_a_client_has_come_to_does_not_make_way(home: Path) -> None:
    async with connect(home):
        owner = owner_of(home)
        async with httpx2.AsyncClient(base_url=owner.url, headers=owner.headers, trust_env=False) as http:
            assert (await http.post(f"{STOP_PATH}?by=successor")).status_code == 409
        assert owner_of(home) == owner


async def test_an_owner_of_a_version_that_does_not_say_its_kind_is_found_and_left_alone(home: Path) -> None:
    settings = Settings(home=home)
    owner = await find_or_start(settings)
    assert owner.kind == "detached"
    (home / "owner.json").write_text(owner.model_dump_json(exclude={"kind"}))
    assert find_owner(settings) == owner.model_copy(update={"kind": None})
    with pytest.raises(HomeError) as refused:
        stop_idle_owner(settings)
    assert str(refused.value) == (
        f"{home} has an owner at {owner.url}/mcp of version {owner.version}, perhaps in the foreground "
        f"(pid {owner.pid}); end it with `virtualmle stop`."
    )
    async with connect(home) as client:
        await client.list_tools()


async def test_a_foreground_owner_starts_where_another_left_its_record_behind(home: Path) -> None:
    with foreground(home) as process:
        left = owner_of(home)
        process.kill()
        process.wait()
    me = psutil.Process()
    reused = left.model_copy(update={"pid": me.pid, "create_time": me.create_time() - 1000})
    for record in (left, reused):
        write_owner(Settings(home=home), record)
        with foreground(home) as process:
            assert owner_of(home).pid == process.pid


@pytest.mark.parametrize("left", ["pipe", "link", "huge pid", "no port", "not a number", "bytes"])
def test_whatever_lies_in_the_place_of_the_owners_record_is_no_owner(home: Path, left: str) -> None:
    home.mkdir()
    file, me = home / "owner.json", psutil.Process()
    record = {"pid": me.pid, "create_time": me.create_time(), "host": "127.0.0.1", "port": 1, "token": "secret"}
    record |= {"version": "1", "started": "2026-01-01T00:00:00+00:00"}
    if left == "pipe":
        os.mkfifo(file)
    elif left == "link":
        (home / "elsewhere").write_text(json.dumps(record))
        file.symlink_to(home / "elsewhere")
    elif left == "bytes":
        file.write_bytes(b"\xff\x00{")
    else:
        changed = {"huge pid": {"pid": 10**40}, "no port": {"port": 10**9}, "not a number": {"create_time": "nan"}}
        file.write_text(json.dumps(record | changed[left]))
    assert find_owner(Settings(home=home)) is None
