"""What is of a cluster alone: nodes that die, freeze or cannot hold a training, and data that travel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.executors.base import ExecutorError, Slot
from server.executors.environment import HOME_MARK
from server.run_directory import log_end, read_epochs, read_process, read_result
from tests.ray_nodes import CPUS, RayNodes, at_work, ray_executor, ray_nodes
from tests.trials import SLOT, prepared, said, until

pytestmark = [pytest.mark.anyio, pytest.mark.ray]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of which nothing is at work in the end."""
    yield tmp_path
    assert at_work(tmp_path) == []


def of_training(directory: Path) -> int:
    process = read_process(directory)
    assert process is not None
    return process.pid


async def test_a_training_whose_node_is_killed_goes_on_at_another(nodes: RayNodes, home: Path) -> None:
    directory = prepared(home / "trials", "t-1", "goes on")
    async with ray_executor(nodes, home) as executor:
        work = asyncio.create_task(executor.run([directory], SLOT))
        await until(said(directory / "ready"))
        await asyncio.to_thread(nodes.kill, nodes.node_of(of_training(directory)))
        (exit,) = await work
    result = read_result(directory, "t-1")
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
        await executor.run([prepared(home / "trials", "t-2")], SLOT)  # sweeps what the frozen one could not
    assert exit.cause == "result"
    assert "its node has not answered for 3 s" in log_end(directory)


async def test_a_training_that_loses_every_node_is_broken_machinery(nodes: RayNodes, home: Path) -> None:
    directory = prepared(home / "trials", "t-1", "stubborn")
    async with ray_executor(nodes, home) as executor:
        work = asyncio.create_task(executor.run([directory], SLOT))
        killed = [0]
        for _ in range(3):
            await until(lambda: read_process(directory) and of_training(directory) not in killed)
            killed.append(of_training(directory))
            psutil.Process(killed[-1]).parent().kill()
        with pytest.raises(ExecutorError, match=r"^The training was lost 3 times, at last because its wor.*") as caught:
            await work
        await executor.run([prepared(home / "trials", "t-2")], SLOT)  # sweeps what the last one could not
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
            with pytest.raises(ExecutorError, match=r"^The Ray cluster at .* (is gone|cannot be used)"):
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


async def test_a_training_sees_no_secret_and_the_device_of_its_node(nodes: RayNodes, home: Path) -> None:
    directory = prepared(home / "trials", "t-1", "look around")
    async with ray_executor(nodes, home) as executor:
        await executor.run([directory], SLOT)
    seen = (directory / "seen.json").read_text()
    assert HOME_MARK in seen
    assert "RAY_AUTH" not in seen
