"""What every executor makes of the ways in which a training can die; each is told apart, and nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from docker.errors import DockerException

from server.executors.base import Executor, ExecutorError, Exit, Slot
from server.executors.docker.confinement import WORK
from server.executors.docker.executor import DockerExecutor
from server.executors.environment import HOME_MARK
from server.executors.process.process_tree import marked
from server.scheduler.run_directory import read_process, read_result
from tests.support.engine import BASE, containers, containers_of, docker_executor, inside, needs
from tests.support.ray_nodes import at_work, ray_executor
from tests.support.trials import prepared, process_executor, said, until, warm_executor

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Way:
    """An executor, and what of a home is still at work in its manner."""

    opened: Callable[..., Executor]
    left: Callable[[Path], list[Any]]

    async def run(self, home: Path, behaviour: str, **slot: Any) -> Exit:
        directory = prepared(home / "trials", "t-1", behaviour)
        async with self.opened(home) as executor:
            (exit,) = await executor.run([directory], Slot(threads=1, **slot))
        return exit


def _marked(home: Path) -> list[Any]:
    return marked(HOME_MARK, str(home))


WAYS = {
    "cold": Way(process_executor, _marked),
    "warm": Way(warm_executor, _marked),
    "docker": Way(docker_executor, containers),
}
MARKS = {"docker": pytest.mark.docker, "ray": pytest.mark.ray}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in (*WAYS, "ray")])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Way]:
    if request.param == "docker":
        needs(BASE)
    if request.param == "ray":
        found = Way(partial(ray_executor, request.getfixturevalue("nodes")), at_work)
    else:
        found = WAYS[request.param]
    yield found
    assert found.left(tmp_path) == []


async def test_a_child_that_is_killed_has_crashed(way: Way, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    async with way.opened(tmp_path) as executor:
        work = asyncio.create_task(executor.run([directory], Slot(threads=1)))
        await until(lambda: read_process(directory) and said(directory / "ready")())
        process = read_process(directory)
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        (exit,) = await work
    assert (exit.cause, exit.message) == ("crashed", "killed by signal 9")


async def test_what_outgrows_its_memory_is_out_of_memory(way: Way, tmp_path: Path) -> None:
    exit = await way.run(tmp_path, "hungry", memory_mb=200)
    assert exit.cause == "out_of_memory"
    assert "200 MB" in exit.message


async def test_what_outlives_deadline_and_grace_has_timed_out(way: Way, tmp_path: Path) -> None:
    exit = await way.run(tmp_path, "stubborn", deadline_seconds=0.5, grace_seconds=0.5)
    assert (exit.cause, exit.message) == ("timed_out", "still at work 0.5 s after its deadline of 0.5 s")


async def test_a_child_that_does_not_obey_a_cancellation_is_killed(way: Way, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    async with way.opened(tmp_path) as executor:
        work = asyncio.create_task(executor.run([directory], Slot(threads=1)))
        await until(said(directory / "ready"))
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        if way.left is containers:
            assert containers(tmp_path) == []
    assert read_result(directory, "t-1") is None


@pytest.mark.parametrize("behaviour", ["disk full", "quota used up"])
async def test_a_full_disk_is_broken_machinery(way: Way, tmp_path: Path, behaviour: str) -> None:
    with pytest.raises(ExecutorError, match=r"is full, and the training in t-1 ended with it: make room") as caught:
        await way.run(tmp_path, behaviour)
    assert "\n" not in str(caught.value)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes where the run directories are."""
    trials = tmp_path / "trials"
    trials.mkdir()
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", trials], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield trials
    subprocess.run(["umount", "-l", trials], check=True)


@pytest.mark.usefixtures("small_disk")
async def test_a_disk_that_is_really_full_is_broken_machinery(way: Way, tmp_path: Path) -> None:
    with pytest.raises(ExecutorError, match="make room"):
        await way.run(tmp_path, "fills the disk")


async def test_a_half_written_result_is_a_crash(way: Way, tmp_path: Path) -> None:
    exit = await way.run(tmp_path, "half")
    assert exit.cause == "result"
    result = read_result(tmp_path / "trials" / "t-1", "t-1")
    assert result is not None
    assert (result.status, result.message[:40]) == ("crashed", "The trainer's result.json is no result: ")


async def test_a_training_of_an_owner_that_was_killed_is_ended_by_the_next(way: Way, tmp_path: Path) -> None:
    """The first executor is not told: what it sees is a training that somebody ended."""
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    async with way.opened(tmp_path) as first:
        work = asyncio.create_task(first.run([directory], Slot(threads=1)))
        await until(said(directory / "ready"))
        async with way.opened(tmp_path):
            if way.left is containers:
                assert containers(tmp_path) == []
        await asyncio.wait({work})
    error = work.exception()
    if error is None:
        assert work.result()[0].cause == "crashed"
    else:
        assert re.search(r"the same run_trial goes on|try again", str(error))


class Wire:
    """A socket that passes everything on to the engine's, until it is cut."""

    def __init__(self, path: Path, engine: str) -> None:
        self.path, self._engine = path, engine
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.path.unlink()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._engine)
            self._open += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.mark.docker
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_engine_that_is_gone_in_mid_trial_is_broken_machinery_and_its_container_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(BASE)
    engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not engine.startswith("unix://"):
        pytest.skip(f"the engine at {engine} has no socket file to stand before")
    wire = Wire(tmp_path / "s", engine.removeprefix("unix://"))
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    with monkeypatch.context() as changed:
        changed.setenv("DOCKER_HOST", f"unix://{wire.path}")
        async with docker_executor(tmp_path) as executor:
            work = asyncio.create_task(executor.run([directory], Slot(threads=1)))
            await until(said(directory / "ready"))
            wire.cut()
            with pytest.raises(ExecutorError, match=r"^The Docker engine at .* does not answer .*: start it"):
                await work
            with pytest.raises(ExecutorError, match="does not answer"):
                await executor.run([directory], Slot(threads=1))
    assert len(containers(tmp_path)) == 1
    async with docker_executor(tmp_path):
        assert containers(tmp_path) == []


async def test_a_user_who_may_not_use_the_engine_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        cause = PermissionError(13, "Permission denied")
        raise DockerException(f"Error while fetching server API version: ('Connection aborted.', {cause!r})")

    monkeypatch.setattr("docker.from_env", refuse)
    with pytest.raises(ExecutorError, match=r"^This user may not use the Docker engine's socket at .*: join its group"):
        async with DockerExecutor(tmp_path / "datasets", tmp_path, "virtualmle"):
            pass


@pytest.mark.docker
@pytest.mark.parametrize(
    ("given", "slot", "words"),
    [
        ({"image": "virtualmle:none"}, {}, r"^There is no image 'virtualmle:none' here: `docker build"),
        ({}, {"gpu_ids": (0,)}, r"^Docker has no GPU runtime here \(.*\): install the NVIDIA container toolkit"),
    ],
)
async def test_what_the_engine_has_not_is_said(
    given: dict[str, Any], slot: dict[str, Any], words: str, tmp_path: Path
) -> None:
    directory = prepared(tmp_path / "trials", "t-1")
    async with docker_executor(tmp_path, **given) as executor:
        with pytest.raises(ExecutorError, match=words):
            await executor.run([directory], Slot(threads=1, **slot))
    assert containers(tmp_path) == []


@pytest.mark.docker
async def test_a_container_is_locked_down(tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    async with docker_executor(tmp_path) as executor:
        work = asyncio.create_task(executor.run([directory], Slot(threads=1, memory_mb=512)))
        await until(said(directory / "ready"))
        with containers_of(tmp_path) as (container,):
            host, user = container.attrs["HostConfig"], container.attrs["Config"]["User"]
            outside = inside(container, "python3", "-c", "open('/etc/x', 'w')")
            network = inside(container, "python3", "-c", "import socket; print(socket.if_nameindex())")
        work.cancel()
        await asyncio.wait({work})
    assert "Read-only file system" in outside or "Permission denied" in outside
    assert network.strip() == "[(1, 'lo')]"
    assert user.split(":")[0] not in ("", "0", "root")
    assert (host["ReadonlyRootfs"], host["NetworkMode"], host["Init"]) == (True, "none", True)
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (512 << 20, 10**9, 512)


@pytest.mark.docker
async def test_the_weights_that_a_trial_names_can_be_read_and_others_are_not_there(tmp_path: Path) -> None:
    for name in ("t-named", "t-other"):
        (tmp_path / "trials" / name).mkdir(parents=True)
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    spec = (directory / "spec.json").read_text().replace('"weights_of":null', '"weights_of":"t-named"')
    (directory / "spec.json").write_text(spec)
    async with docker_executor(tmp_path) as executor:
        work = asyncio.create_task(executor.run([directory], Slot(threads=1)))
        await until(said(directory / "ready"))
        with containers_of(tmp_path) as (container,):
            seen = inside(container, "ls", str(WORK / "trials")).split()
        work.cancel()
        await asyncio.wait({work})
    assert seen == ["t-1", "t-named"]
