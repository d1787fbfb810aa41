"""What is of a cluster alone: nodes that die, freeze or cannot hold a training, and data that travel."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from mcp import Client

from server.executors.base import ExecutorError, Slot
from server.executors.environment import HOME_MARK
from server.executors.ray import node as node_code
from server.executors.ray.driver import Run
from server.executors.ray.files import RunFiles
from server.owner.assembly import open_runtime
from server.runtime import Runtime
from server.scheduler.run_directory import log_end, read_epochs, read_process
from server.settings import Settings
from server.tools.app import create_app
from tests.support.ray_nodes import CPUS, RayNodes, at_work, ray_executor, ray_nodes
from tests.support.trials import SLOT, prepared, result_of, said, until, whole_loop
from trainers.data import ensure

pytestmark = [pytest.mark.anyio, pytest.mark.ray]


WITHOUT_PROJECT = """
import sys, pickle
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("server", "trainers", "memory"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
print(pickle.load(sys.stdin.buffer).__name__)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of which nothing is at work in the end."""
    yield tmp_path
    assert at_work(tmp_path) == []


def of_training(directory: Path) -> int:
    process = read_process(directory)
    assert process is not None
    return process.pid


async def sweeping(nodes: RayNodes, home: Path) -> None:
    """A new actor on a node removes what those had to leave there that were killed."""
    async with ray_executor(nodes, home) as executor:
        await executor.run([prepared(home / "trials", "t-2")], SLOT)


def test_what_travels_to_a_node_needs_no_module_of_the_project() -> None:
    """A node may have no project, or folders that are called like our packages."""
    cloudpickle = pytest.importorskip("ray").cloudpickle
    for module in node_code.BY_VALUE:
        cloudpickle.register_pickle_by_value(module)
    read = subprocess.run(
        [sys.executable, "-c", WITHOUT_PROJECT], input=cloudpickle.dumps(node_code.Node), capture_output=True
    )
    assert (read.returncode, read.stdout.decode().strip()) == (0, "Node"), read.stderr.decode()


async def test_an_owner_whose_own_disk_is_full_says_to_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(files: RunFiles) -> dict[str, bytes]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunFiles, "to_send", full)
    unused: Any = SimpleNamespace(cluster=None)
    answer = await Run(unused, unused, prepared(tmp_path, "t-1"), SLOT, "run").work()
    assert "make room, then the same run_trial goes on" in answer["error"]


async def test_a_training_whose_node_is_killed_goes_on_at_another(nodes: RayNodes, home: Path) -> None:
    directory = prepared(home / "trials", "t-1", "goes on")
    async with ray_executor(nodes, home) as executor:
        work = asyncio.create_task(executor.run([directory], SLOT))
        await until(said(directory / "ready"))
        await asyncio.to_thread(nodes.kill, nodes.node_of(of_training(directory)))
        (exit,) = await work
    result = result_of(directory)
    assert exit.cause == "result"
    assert (result.status, [one.epoch for one in read_epochs(directory).epochs]) == ("ok", [1])
    assert "another node goes on" in log_end(directory)


async def test_a_training_whose_node_is_frozen_goes_on_at_another(nodes: RayNodes, home: Path) -> None:
    directory = prepared(home / "trials", "t-1", "goes on")
    async with ray_executor(nodes, home, heartbeat_seconds=3.0) as executor:
        work = asyncio.create_task(executor.run([directory], SLOT))
        await until(said(directory / "ready"))
        node = nodes.node_of(of_training(directory))
        nodes.freeze(node)
        (exit,) = await work
        await asyncio.to_thread(nodes.kill, node)
    await sweeping(nodes, home)
    assert exit.cause == "result"
    assert "its node has not answered for 3 s" in log_end(directory)


async def test_a_training_that_loses_every_node_is_broken_machinery(nodes: RayNodes, home: Path) -> None:
    directory = prepared(home / "trials", "t-1", "stubborn")
    async with ray_executor(nodes, home) as executor:
        work = asyncio.create_task(executor.run([directory], SLOT))
        killed = [0]
        while True:
            await until(lambda: work.done() or (read_process(directory) and of_training(directory) not in killed))
            if work.done():
                break
            killed.append(of_training(directory))
            psutil.Process(killed[-1]).parents()[1].kill()  # the actor, whose worker has forked the training
        with pytest.raises(ExecutorError, match=r"^The training was lost 4 times, at last because its wor.*") as caught:
            await work
    await sweeping(nodes, home)
    assert "\n" not in str(caught.value)


async def test_an_owner_outlives_its_cluster_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    with ray_nodes() as doomed:
        async with ray_executor(doomed, tmp_path, connect_seconds=10.0) as executor:
            work = asyncio.create_task(executor.run([directory], SLOT))
            await until(said(directory / "ready"))
            await asyncio.to_thread(doomed.end)
            with pytest.raises(ExecutorError, match="the same run_trial goes on"):
                await work
            with pytest.raises(ExecutorError, match=r"^The Ray cluster at .* (is gone|cannot be used|did not answer)"):
                await executor.run([directory], SLOT)


async def test_a_request_that_no_node_can_hold_is_refused_at_once(nodes: RayNodes, home: Path) -> None:
    directory = prepared(home / "trials", "t-1")
    async with ray_executor(nodes, home, gpus=0.5) as executor:
        with pytest.raises(ExecutorError, match=r"can hold a training, which asks for 1 CPU, 0.5 GPU; of its 3 nodes"):
            await executor.run([directory], SLOT)


async def test_a_training_that_waits_for_room_can_be_cancelled(nodes: RayNodes, home: Path) -> None:
    slot = Slot(threads=CPUS)
    busy = [prepared(home / "trials", f"t-{number}", "stubborn") for number in range(2)]
    async with ray_executor(nodes, home) as executor:
        works = [asyncio.create_task(executor.run([directory], slot)) for directory in busy]
        await until(lambda: all(said(directory / "ready")() for directory in busy))
        waiting = asyncio.create_task(executor.run([prepared(home / "trials", "t-9")], slot))
        await asyncio.wait({waiting}, timeout=1)
        for work in (waiting, *works):
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
    assert read_process(home / "trials" / "t-9") is None


async def test_a_cluster_can_be_reached_by_those_who_are_no_node_of_it(nodes: RayNodes, home: Path) -> None:
    directory = prepared(home / "trials", "t-1")
    async with ray_executor(nodes, home, address=nodes.client) as executor:
        (exit,) = await executor.run([directory], SLOT)
    assert exit.cause == "result"


@pytest.mark.parametrize("way", ["address", "client"])
async def test_a_wrong_token_is_one_line(
    way: str, nodes: RayNodes, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 32)
    with pytest.raises(ExecutorError, match="RAY_AUTH_TOKEN") as caught:
        async with ray_executor(nodes, home, address=getattr(nodes, way)):
            pass
    assert "\n" not in str(caught.value)
    assert "f" * 32 not in str(caught.value)


async def test_a_whole_study_is_played_on_a_cluster_and_its_model_recommends(nodes: RayNodes, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", executor="ray", ray_address=nodes.address, threads=1)
    assert await whole_loop(settings) == 3


async def test_a_training_sees_no_secret(nodes: RayNodes, home: Path) -> None:
    directory = prepared(home / "trials", "t-1", "look around")
    async with ray_executor(nodes, home) as executor:
        await executor.run([directory], SLOT)
    seen = (directory / "seen.json").read_text()
    assert HOME_MARK in seen
    assert "RAY_AUTH" not in seen


async def sixteen_trials(settings: Settings, half_way: Callable[[Runtime], Awaitable[None]]) -> list[tuple[Any, ...]]:
    """What each of 16 trials comes to, with its curve; `half_way` is called when 8 are over."""
    ensure(settings.datasets_dir, "demo")
    space = {"max_epochs": 15, "patience": 15, "hidden_dim": 16}
    async with open_runtime(settings) as runtime, Client(create_app(runtime)) as client:

        async def call(tool: str, **asked: Any) -> dict[str, Any]:
            answer = await client.call_tool(tool, asked)
            assert not answer.is_error, answer.content
            return answer.structured_content or {}

        study_id = (await call("start_study", dataset="demo", space=space, early_stop="off"))["study_id"]
        memory = runtime.memory
        for number in range(16):
            changes = {"dropout": 0.1 + 0.2 * (number % 2)}
            await call("run_trial", study_id=study_id, changes=changes, seed=number // 2, wait_seconds=0)
        await until(lambda: sum(trial.finished for trial in memory.trials(study_id)) >= 8)
        await half_way(runtime)
        await until(lambda: all(trial.finished for trial in memory.trials(study_id)))
        found: list[tuple[Any, ...]] = []
        for trial in memory.trials(study_id):
            curve = [(one.epoch, one.loss, one.validation) for one in memory.epochs(trial.trial_id)]
            found.append((trial.status, trial.changes, trial.seed, trial.validation, trial.best_epoch, curve))
        return found


async def test_a_study_whose_node_is_killed_half_way_comes_to_the_numbers_of_one_machine(
    nodes: RayNodes, tmp_path: Path
) -> None:
    async def nothing(runtime: Runtime) -> None:
        return None

    async def kill(runtime: Runtime) -> None:
        found: list[psutil.Popen] = []

        def node_at_work() -> list[psutil.Popen]:
            for one in reversed(runtime.supervisor.active_trials):
                process = read_process(one.directory) if one.epochs else None
                with suppress(psutil.NoSuchProcess):  # a training may end at any moment
                    found.extend([nodes.node_of(process.pid)] if process else [])
            return found

        await until(node_at_work)
        await asyncio.to_thread(nodes.kill, found[0])

    alone = await sixteen_trials(Settings(home=tmp_path / "alone", slots=2, threads=1), nothing)
    cluster = {"executor": "ray", "ray_address": nodes.address, "slots": 4, "threads": 1}
    shared = await sixteen_trials(Settings(home=tmp_path / "shared", **cluster), kill)
    assert [status for status, *_ in alone] == 16 * ["ok"]
    assert shared == alone
    logs = [log_end(path) for path in (tmp_path / "shared" / "trials").iterdir()]
    assert any("another node goes on" in log for log in logs)
