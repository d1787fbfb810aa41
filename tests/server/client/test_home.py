"""connect(home): one owner per home, found or started, and its end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio
import psutil
import pytest

from server.cli.main import main
from server.client.home import (
    HomeError,
    Owner,
    connect,
    find_or_start,
    find_owner,
    is_running,
    make_home,
    take_lock,
)
from server.client.stop import stop_idle_owner, stop_owner
from server.owner.activity import Activity
from server.owner.process import write_owner
from server.settings import Settings
from server.version import installed_version
from tests.support.owners import CLONE, kill, owner_of, owners, wait_gone

pytestmark = pytest.mark.anyio


def _made(home: Path) -> Settings:
    home.mkdir()
    return Settings(home=home)


def _owner(**changed: object) -> Owner:
    process = psutil.Process()
    return Owner.model_validate(
        {
            "pid": process.pid,
            "create_time": process.create_time(),
            "host": "127.0.0.1",
            "port": 1,
            "token": "secret-token",
            "version": installed_version(),
            "started": "2026-01-01T00:00:00+00:00",
            **changed,
        }
    )


async def test_connect_starts_a_detached_owner_that_outlives_the_client(home: Path) -> None:
    async with connect(home) as client:
        assert "run_trial" in {tool.name for tool in (await client.list_tools()).tools}
    owner = owner_of(home)
    process = psutil.Process(owner.pid)
    assert os.getsid(owner.pid) == owner.pid
    assert Path(process.cwd()) == home
    assert owner.token not in " ".join(process.cmdline())
    assert (home / "owner.json").stat().st_mode & 0o777 == 0o600
    assert owner.token not in repr(owner)
    async with connect(home) as client:
        await client.list_tools()
    assert owner_of(home) == owner


async def test_many_clients_at_once_get_one_owner(home: Path) -> None:
    found: list[int] = []

    async def client() -> None:
        async with connect(home) as connected:
            await connected.list_tools()
            found.append(owner_of(home).pid)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(client)
    assert len(set(found)) == 1
    assert [process.pid for process in owners(home)] == found[:1]


async def test_an_owner_json_left_behind_by_a_killed_owner_is_replaced(home: Path) -> None:
    async with connect(home) as client:
        await client.list_tools()
    before = owner_of(home)
    kill(before.pid)
    assert find_owner(Settings(home=home)) is None
    async with connect(home) as client:
        await client.list_tools()
    assert owner_of(home).pid != before.pid


async def test_a_process_that_got_the_pid_of_an_owner_is_not_taken_for_it(home: Path) -> None:
    settings = _made(home)
    write_owner(settings, _owner(create_time=psutil.Process().create_time() - 1000))
    assert find_owner(settings) is None
    assert is_running(os.getpid(), psutil.Process().create_time())
    async with connect(home) as client:
        await client.list_tools()


async def test_an_owner_of_another_version_is_named_with_what_to_do(home: Path) -> None:
    settings = _made(home)
    write_owner(settings, _owner(version="0.0.1"))
    with pytest.raises(HomeError) as refused:
        await find_or_start(settings)
    assert str(refused.value) == (
        f"The owner of {home} is version 0.0.1 and this is {installed_version()}; "
        "end it with `virtualmle stop`, and the next call starts one of this version."
    )


async def test_a_home_that_is_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(HomeError, match="is a file, not a folder; name another home with --home"):
        await find_or_start(Settings(home=file))
    with pytest.raises(HomeError, match="cannot be made: Not a directory"):
        await find_or_start(Settings(home=file / "below"))


async def test_a_start_that_fails_tells_the_last_line_of_the_log(home: Path) -> None:
    settings = _made(home)
    (home / "virtualmle.yaml").write_text("slots: many\n")
    with pytest.raises(HomeError, match=r"The owner did not start: .*slots='many'"):
        await find_or_start(settings)


async def test_an_owner_nobody_needs_ends_by_itself(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUALMLE_IDLE_SECONDS", "0.2")
    async with connect(home) as client:
        await client.list_tools()
        owner = owner_of(home)
    wait_gone(owner.pid)
    assert not (home / "owner.json").exists()


async def test_an_owner_with_a_client_is_not_idle() -> None:
    activity = Activity()
    with activity.client():
        assert (activity.clients, activity.idle_seconds) == (1, 0.0)
    assert activity.clients == 0


async def test_stop_waits_until_the_owner_is_gone(home: Path) -> None:
    settings = Settings(home=home)
    assert stop_owner(settings) is None
    owner = await find_or_start(settings)
    stopped = stop_owner(settings)
    assert stopped is not None
    assert (stopped.pid, stopped.interrupted) == (owner.pid, [])
    assert not is_running(owner.pid, owner.create_time)
    assert not (home / "owner.json").exists()


async def test_sigterm_ends_the_owner_cleanly_with_a_client_connected(home: Path) -> None:
    async with connect(home) as client:
        await client.list_tools()
        owner = owner_of(home)
        os.kill(owner.pid, signal.SIGTERM)
        wait_gone(owner.pid)
    assert not (home / "owner.json").exists()
    assert (home / "owner.log").read_text() == ""


async def test_a_foreground_owner_takes_the_place_of_an_idle_one_only(home: Path) -> None:
    settings = Settings(home=home)
    async with connect(home) as client:
        await client.list_tools()
        owner = owner_of(home)
        with pytest.raises(HomeError, match=rf"in use \(pid {owner.pid}; 1 client\); end it with `virtualmle stop`"):
            stop_idle_owner(settings)

    stop_idle_owner(settings)
    assert not is_running(owner.pid, owner.create_time)


async def test_the_lock_admits_one_owner(home: Path) -> None:
    settings = _made(home)
    lock = take_lock(settings)
    assert lock is not None
    with lock:
        assert take_lock(settings) is None
    freed = take_lock(settings)
    assert freed is not None
    freed.close()


@pytest.mark.skipif(sys.platform == "win32", reason="modes of folders are POSIX's")
@pytest.mark.parametrize("first", ["import", "trainer", "owner"])
def test_whoever_needs_a_home_first_makes_it_for_its_user_alone(tmp_path: Path, first: str) -> None:
    home, log = tmp_path / "home", tmp_path / "log.txt"
    log.write_text("".join(f"{user} 1 2 3 4 {user % 5 + 5}\n" for user in range(20)))
    space = CLONE / "examples" / "item_knn" / "space.yaml"
    words = {"import": ["data", "add", "log", str(log)], "trainer": ["trainer", "add", "knn", str(space)]}
    before = os.umask(0o022)
    try:
        if first == "owner":
            make_home(Settings(home=home))
        else:
            assert main([*words[first], "--home", str(home)]) == 0
    finally:
        os.umask(before)
    folders = (home, home / "datasets", home / "trials", home / "reports", home / "trainers")
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700] * 5
    imported = [*(home / "datasets").rglob("*")]
    assert [path for path in imported if path.stat().st_mode & 0o077] == []


@pytest.mark.skipif(sys.platform == "win32", reason="modes of folders are POSIX's")
@pytest.mark.parametrize(("held", "mode"), [(None, 0o700), ("memory.duckdb", 0o700), ("thesis.tex", 0o755)])
def test_a_folder_that_is_there_is_closed_to_others_where_it_is_a_home_alone(
    tmp_path: Path, held: str | None, mode: int
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    if held is not None:
        (home / held).write_text("")
    make_home(Settings(home=home))
    assert home.stat().st_mode & 0o777 == mode
