"""What only the process executor can show, whichever way it starts a child: limits, signals, descendants, its owner."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.executors import base, host_memory
from server.executors.base import ExecutorError, Exit, Slot
from server.executors.environment import HOME_MARK, child_environment
from server.executors.process.executor import TRAINERS, ProcessExecutor
from server.executors.process.process_tree import marked
from server.scheduler.run_directory import read_process, read_result
from tests.support.trials import FAKE, SLOT, gone, prepared, process_executor, said, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _no_process_is_left(tmp_path: Path):
    yield
    assert marked(HOME_MARK, str(tmp_path)) == []


@dataclass(frozen=True)
class Way:
    """A process for each training, a child that a worker forks, or a worker that keeps its GPUs to itself."""

    name: str

    def executor(self, home: Path, **values: Any) -> ProcessExecutor:
        return process_executor(home, warm=self.name != "cold", **values)

    def slot(self, **values: Any) -> Slot:
        return Slot(threads=1, gpu_ids=(0,) if self.name == "alone" else (), **values)

    async def run(self, home: Path, behaviour: str, **values: Any) -> Exit:
        async with self.executor(home) as executor:
            (exit,) = await executor.run([prepared(home / "trials", "t-1", behaviour)], self.slot(**values))
        return exit

    async def started(self, executor: ProcessExecutor, directory: Path) -> asyncio.Task[list[Exit]]:
        """A run whose child has said that it is at work."""
        work = asyncio.create_task(executor.run([directory], self.slot()))
        await until(said(directory / "ready"))
        return work


@pytest.fixture(params=["cold", "warm", "alone"])
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param)


async def test_a_crash_is_told_by_the_last_line_of_the_log(way: Way, tmp_path: Path) -> None:
    exit = await way.run(tmp_path, "crash")
    assert (exit.cause, exit.message) == ("crashed", "RuntimeError: the matrix is singular")


async def test_a_silent_crash_is_told_by_its_exit_code(way: Way, tmp_path: Path) -> None:
    exit = await way.run(tmp_path, "exit 3")
    assert (exit.cause, exit.message) == ("crashed", "ended with exit code 3, without a word")


async def test_the_last_line_is_of_this_child_not_of_an_earlier_one(way: Way, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "exit 3")
    (directory / "trial.log").write_text("what an earlier attempt said\n")
    async with way.executor(tmp_path) as executor:
        (exit,) = await executor.run([directory], way.slot())
    assert exit.message == "ended with exit code 3, without a word"


async def test_a_kill_from_outside_without_evidence_is_a_crash(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.executors.process.executor.oom_kills", lambda: 7)
    exit = await _killed_from_outside(tmp_path, way)
    assert (exit.cause, exit.message) == ("crashed", "killed by signal 9")


async def test_a_kill_that_the_kernel_counted_is_out_of_memory(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([7, 8])
    monkeypatch.setattr("server.executors.process.executor.oom_kills", lambda: next(counts))
    exit = await _killed_from_outside(tmp_path, way)
    assert exit.cause == "out_of_memory"
    assert "when memory ran out" in exit.message


async def test_a_kill_near_the_ceiling_is_out_of_memory(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.executors.process.executor.oom_kills", lambda: 0)
    monkeypatch.setattr("server.executors.process.executor.ceiling_mb", lambda: 1.0)
    exit = await _killed_from_outside(tmp_path, way)
    assert exit.cause == "out_of_memory"


async def _killed_from_outside(tmp_path: Path, way: Way) -> Exit:
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    async with way.executor(tmp_path) as executor:
        work = await way.started(executor, directory)
        (running,) = executor._runs
        await until(lambda: running.child.meter.last_mb)
        os.kill(running.child.pid, signal.SIGKILL)
        (exit,) = await work
    return exit


async def test_too_much_memory_ends_the_child_and_names_limit_and_peak(way: Way, tmp_path: Path) -> None:
    exit = await way.run(tmp_path, "hungry", memory_mb=256)
    assert exit.cause == "out_of_memory"
    assert exit.peak_memory_mb is not None
    assert exit.peak_memory_mb > 256
    assert exit.message == f"used {exit.peak_memory_mb:.0f} MB at its peak; the limit is 256 MB"


async def test_a_child_that_outlives_deadline_and_grace_is_ended(way: Way, tmp_path: Path) -> None:
    exit = await way.run(tmp_path, "hang", deadline_seconds=0.05, grace_seconds=0.05)
    assert (exit.cause, exit.message) == ("timed_out", "still at work 0.05 s after its deadline of 0.05 s")


async def test_a_child_that_ignores_sigterm_is_killed(way: Way, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    async with way.executor(tmp_path, obey_seconds=0.05) as executor:
        work = await way.started(executor, directory)
        pid = int((directory / "ready").read_text())
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert gone(pid)
    assert read_result(directory, "t-1") is None


async def test_cancelling_twice_still_leaves_no_process(way: Way, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    async with way.executor(tmp_path, obey_seconds=0.2) as executor:
        work = await way.started(executor, directory)
        pid = int((directory / "ready").read_text())
        for _ in range(5):
            work.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await work
        assert gone(pid)


@pytest.mark.parametrize("how", ["parent", "forker"], ids=["started", "forked"])
async def test_a_grandchild_in_a_session_of_its_own_ends_with_a_cancelled_child(
    way: Way, tmp_path: Path, how: str
) -> None:
    directory = prepared(tmp_path / "trials", "t-1", how)
    async with way.executor(tmp_path, obey_seconds=0.05) as executor:
        work = await way.started(executor, directory)
        await until(said(directory / "grandchild"))
        grandchild = int((directory / "grandchild").read_text())
        assert not gone(grandchild)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert gone(grandchild)


async def test_a_grandchild_ends_with_a_child_that_ended_by_itself(way: Way, tmp_path: Path) -> None:
    exit = await way.run(tmp_path, "parent that ends")
    assert exit.cause == "result"
    assert gone(int((tmp_path / "trials" / "t-1" / "grandchild").read_text()))


async def test_a_child_is_told_its_share_and_no_secret(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = ("OPENAI_API_KEY", "HF_TOKEN", "DEPLOY_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "CLIENT_SECRET")
    for name in secrets:
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("HARMLESS", "shown")
    gpu_ids = () if way.name == "warm" else (1, 2)
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    try:
        async with way.executor(tmp_path) as executor:
            slot = Slot(threads=3, gpu_ids=gpu_ids, deadline_seconds=90)
            (exit,) = await executor.run([prepared(tmp_path / "trials", "t-1", "look around")], slot)
    finally:
        os.close(read_end)
        os.close(write_end)
    directory = tmp_path / "trials" / "t-1"
    seen = json.loads((directory / "seen.json").read_text())
    log = str(directory / "trial.log")
    assert exit.cause == "result"
    *told, left = seen["asked"]
    assert told == ["run", str(directory), str(tmp_path / "datasets")]
    assert left == pytest.approx(90, abs=5)
    assert seen["cwd"] == str(directory)
    assert seen["descriptors"] == {"0": os.devnull, "1": log, "2": log}
    assert write_end not in seen["open"]
    assert seen["leads_session"]
    assert (directory / "trial.log").read_text() == "said to nobody\n"
    assert "said to nobody" not in capfd.readouterr().out
    given = seen["environment"]
    assert given["HARMLESS"] == "shown"
    assert "hidden" not in given.values()
    expected = {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "MALLOC_MMAP_THRESHOLD_": "8589934592",
        "MALLOC_TRIM_THRESHOLD_": "8589934592",
        HOME_MARK: str(tmp_path),
    }
    if gpu_ids:
        expected["CUDA_VISIBLE_DEVICES"] = "1,2"
    assert {name: given[name] for name in expected} == expected


def test_relative_entries_of_the_path_do_not_reach_the_child(tmp_path: Path) -> None:
    path = os.pathsep.join(["", ".", "decoys", "/absolute"])
    given = child_environment({"PYTHONPATH": path}, SLOT, tmp_path, "run")
    assert given["PYTHONPATH"].split(os.pathsep)[1:] == ["/absolute"]


async def test_decoys_in_the_run_directory_do_not_win(way: Way, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1")
    for name in ("trainers", "server", "memory"):
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text("")
        (directory / name / "__main__.py").write_text("print('the decoy won')")
    command = (*TRAINERS, "--help")
    async with way.executor(tmp_path, command=command) as executor:
        await executor.run([directory], way.slot())
    assert "Train or evaluate in a prepared directory." in (directory / "trial.log").read_text()


async def test_a_missing_interpreter_is_broken_machinery(way: Way, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1")
    async with way.executor(tmp_path, command=("no-such-program",)) as executor:
        with pytest.raises(ExecutorError, match="'no-such-program' is not a program"):
            await executor.run([directory], way.slot())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_broken_machinery_and_leaves_no_process(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    monkeypatch.setattr(base, "create_regular", full)
    async with way.executor(tmp_path, obey_seconds=0.05) as executor:
        with pytest.raises(ExecutorError, match=f"{os.strerror(number)}: make room, then the same run_trial goes on"):
            await executor.run([directory], way.slot())
    assert [path.name for path in directory.iterdir() if path.suffix == ".tmp"] == []


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        base.write_whole(tmp_path / "spec.json", "{}")
    assert list(tmp_path.iterdir()) == []


async def test_other_work_goes_on_while_a_child_runs(way: Way, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "hang")
    async with way.executor(tmp_path, sample_seconds=60) as executor:
        work = await way.started(executor, directory)
        os.kill(int((directory / "ready").read_text()), signal.SIGTERM)
        (exit,) = await work  # noticed at once, not at the next sample
    assert exit.cause == "result"


async def test_a_child_is_watched_where_the_kernel_has_no_pidfd(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", unknown)
    assert (await way.run(tmp_path, "well")).cause == "result"


OWNER = """
import asyncio, sys
from pathlib import Path
from server.executors.base import Slot
from server.executors.process.executor import ProcessExecutor

async def main():
    home, directory, way, *command = sys.argv[1:]
    async with ProcessExecutor(Path(home), Path(home), command, warm=way == "warm") as executor:
        await executor.run([Path(directory)], Slot(threads=1))

asyncio.run(main())
"""


async def _killed_owner(tmp_path: Path, directory: Path, way: str = "cold") -> None:
    """Start an owner in another process, and kill it as soon as its child is at work."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    arguments = [sys.executable, "-P", "-c", OWNER, str(tmp_path), str(directory), way, *FAKE]
    owner = await asyncio.create_subprocess_exec(*arguments, env=environment)
    await until(said(directory / "ready"))
    owner.kill()
    await owner.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("way", ["cold", "warm"])
async def test_a_child_dies_with_its_owner(way: str, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    await _killed_owner(tmp_path, directory, way)
    await until(lambda: gone(int((directory / "ready").read_text())))
    process = read_process(directory)
    assert process is not None
    assert process.pid == int((directory / "ready").read_text())


async def test_what_outlived_a_killed_owner_ends_when_the_next_one_starts(tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "parent")
    await _killed_owner(tmp_path, directory)
    grandchild = int((directory / "grandchild").read_text())
    assert not gone(grandchild)
    async with process_executor(tmp_path / "another home"):
        assert not gone(grandchild)
    async with process_executor(tmp_path):
        assert gone(grandchild)


def test_the_ceiling_is_at_most_the_machines_memory() -> None:
    assert 0 < host_memory.ceiling_mb() <= psutil.virtual_memory().total / 2**20


@pytest.mark.parametrize(
    ("line", "name", "text"),
    [
        ("0::/inner/cell", "inner/cell/memory.events", "low 0\noom 1\noom_kill 3\noom_group_kill 0\n"),
        ("4:memory:/inner", "memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
    ],
)
def test_kills_are_counted_in_both_versions_of_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, name: str, text: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    own = tmp_path / "cgroup"
    own.write_text(f"9:name=systemd:/\n{line}\n")
    monkeypatch.setattr(host_memory, "_ROOT", tmp_path)
    monkeypatch.setattr(host_memory, "_CGROUP_OF_PROCESS", own)
    assert host_memory.oom_kills() == 3


def test_the_tightest_limit_above_is_the_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text(f"{64 << 20}\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/outer/inner\n")
    monkeypatch.setattr(host_memory, "_ROOT", tmp_path)
    monkeypatch.setattr(host_memory, "_CGROUP_OF_PROCESS", own)
    assert host_memory.ceiling_mb() == 64
