"""What holds where a worker forks the children: one start for many, and the end of each is its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.executors.base import ExecutorError, Exit, Slot
from server.executors.environment import HOME_MARK
from server.executors.process.executor import ProcessExecutor
from server.executors.process.process_tree import marked
from tests.support.trials import FAKE, SLOT, gone, prepared, said, until, warm_executor, workers_of

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")]
ON_A_GPU = Slot(threads=1, gpu_ids=(0,))


@pytest.fixture(autouse=True)
def _no_process_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert marked(HOME_MARK, str(tmp_path)) == []


async def begun(executor: ProcessExecutor, directory: Path, sign: str = "ready") -> asyncio.Task[list[Exit]]:
    work = asyncio.create_task(executor.run([directory], SLOT))
    await until(said(directory / sign))
    return work


async def seen(executor: ProcessExecutor, directory: Path, slot: Slot = SLOT) -> dict[str, Any]:
    """What a child that looks around finds."""
    (exit,) = await executor.run([directory], slot)
    assert exit.cause == "result"
    return json.loads((directory / "seen.json").read_text())


def look_around(tmp_path: Path, name: str, behaviour: str = "look around") -> Path:
    return prepared(tmp_path / "trials", name, behaviour)


async def test_each_training_has_a_child_of_its_own_and_all_have_one_worker(tmp_path: Path) -> None:
    async with warm_executor(tmp_path) as executor:
        found = [await seen(executor, look_around(tmp_path, f"t-{number}")) for number in range(3)]
    assert len({one["pid"] for one in found}) == 3
    assert len({one["parent"] for one in found}) == 1
    assert os.getpid() not in {one["parent"] for one in found}


async def test_a_killed_child_touches_neither_its_worker_nor_another_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.executors.process.executor.oom_kills", lambda: 0)
    directories = [prepared(tmp_path / "trials", name, "hang") for name in ("t-1", "t-2")]
    async with warm_executor(tmp_path) as executor:
        first, second = [await begun(executor, directory) for directory in directories]
        (worker,) = workers_of(executor)._all
        os.kill(int((directories[0] / "ready").read_text()), signal.SIGKILL)
        (exit,) = await first
        assert (exit.cause, exit.message) == ("crashed", "killed by signal 9")
        assert not second.done()
        assert (await seen(executor, look_around(tmp_path, "t-3")))["parent"] == worker.pid
        second.cancel()
        await asyncio.wait({second})


async def test_what_a_child_left_behind_is_told_from_what_another_still_needs(tmp_path: Path) -> None:
    directories = [prepared(tmp_path / "trials", name, "forker") for name in ("t-1", "t-2")]
    async with warm_executor(tmp_path) as executor:
        works = [await begun(executor, directory, "grandchild") for directory in directories]
        left, needed = [int((directory / "grandchild").read_text()) for directory in directories]
        await until(said(directories[0] / "ready"))
        works[0].cancel()
        await asyncio.wait({works[0]})
        assert (gone(left), gone(needed)) == (True, False)
        works[1].cancel()
        await asyncio.wait({works[1]})
        assert gone(needed)


async def test_a_worker_that_is_killed_is_replaced_and_no_trial_is_blamed(tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "stubborn")
    async with warm_executor(tmp_path) as executor:
        work = await begun(executor, directory)
        (worker,) = workers_of(executor)._all
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(ExecutorError, match=r"forked the training ended \(killed by signal 9\).*try again"):
            await work
        assert gone(int((directory / "ready").read_text()))
        found = await seen(executor, look_around(tmp_path, "t-2"))
        assert found["parent"] not in (worker.pid, os.getpid())


async def test_a_worker_that_hangs_is_killed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with warm_executor(tmp_path, obey_seconds=0.01) as executor:
        work = await begun(executor, prepared(tmp_path / "trials", "t-1", "hang"))
        (worker,) = workers_of(executor)._all
        os.kill(worker.pid, signal.SIGSTOP)
        with monkeypatch.context() as impatient:
            impatient.setattr("server.executors.process.worker._ANSWER_SECONDS", 0.05)
            work.cancel()
            await asyncio.wait({work})
        assert gone(worker.pid)
        assert (await seen(executor, look_around(tmp_path, "t-2")))["parent"] != worker.pid


async def test_a_worker_that_has_served_its_time_ends_with_its_last_child(tmp_path: Path) -> None:
    async with warm_executor(tmp_path) as executor:
        workers_of(executor)._served = 2
        running = await begun(executor, prepared(tmp_path / "trials", "t-1", "hang"))
        first = await seen(executor, look_around(tmp_path, "t-2"))
        second = await seen(executor, look_around(tmp_path, "t-3"))
        assert second["parent"] != first["parent"]
        assert not gone(first["parent"])
        running.cancel()
        await asyncio.wait({running})
        await until(lambda: gone(first["parent"]))
        assert (await seen(executor, look_around(tmp_path, "t-4")))["parent"] == second["parent"]


async def test_where_no_worker_can_start_it_is_done_cold_and_soon_no_longer_tried(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    code = f"""
import runpy, sys
if sys.argv[1] == "worker":
    open({str(starts)!r}, "a").write("tried\\n")
    sys.exit("no torch here")
runpy.run_path({FAKE[-1]!r}, run_name="__main__")
"""
    async with warm_executor(tmp_path, command=(sys.executable, "-P", "-c", code)) as executor:
        found = [await seen(executor, look_around(tmp_path, f"t-{number}")) for number in range(5)]
    assert {one["parent"] for one in found} == {os.getpid()}
    assert starts.read_text() == 3 * "tried\n"


SLEEPY = (sys.executable, "-P", "-c", "import signal; signal.pause()")


async def test_a_training_that_is_cancelled_while_its_worker_starts_never_begins(tmp_path: Path) -> None:
    async with warm_executor(tmp_path, command=SLEEPY) as executor:
        work = asyncio.create_task(executor.run([prepared(tmp_path / "trials", "t-1")], SLOT))
        await until(lambda: workers_of(executor)._all)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert executor._runs == []


async def test_leaving_while_a_worker_starts_refuses_the_training(tmp_path: Path) -> None:
    async with warm_executor(tmp_path, command=SLEEPY) as executor:
        work = asyncio.create_task(executor.run([prepared(tmp_path / "trials", "t-1")], SLOT))
        await until(lambda: workers_of(executor)._all)
    with pytest.raises(ExecutorError, match="ending"):
        await work


async def test_on_a_gpu_the_worker_itself_does_one_after_the_other(tmp_path: Path) -> None:
    async with warm_executor(tmp_path) as executor:
        found = [await seen(executor, look_around(tmp_path, f"t-{number}"), ON_A_GPU) for number in range(2)]
        (worker,) = workers_of(executor)._all
        assert {one["pid"] for one in found} == {worker.pid}
        hanging = asyncio.create_task(executor.run([look_around(tmp_path, "t-hang", "hang")], ON_A_GPU))
        await until(said(tmp_path / "trials" / "t-hang" / "ready"))
        beside = await seen(executor, look_around(tmp_path, "t-beside"), ON_A_GPU)
        assert beside["parent"] == os.getpid()  # cold, as the worker is busy
        hanging.cancel()
        await asyncio.wait({hanging})
        after = await seen(executor, look_around(tmp_path, "t-after"), ON_A_GPU)
        assert after["pid"] == worker.pid


async def test_on_a_gpu_a_failure_costs_the_worker_since_it_may_have_spoilt_the_device(tmp_path: Path) -> None:
    async with warm_executor(tmp_path) as executor:
        pids = [
            (await seen(executor, look_around(tmp_path, f"t-{number}", "failed"), ON_A_GPU))["pid"]
            for number in range(5)
        ]
    assert len(set(pids)) == 5


async def test_a_worker_ends_with_its_owner(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from server.executors.base import Slot
from server.executors.process.executor import ProcessExecutor

async def main():
    home, directory, *command = sys.argv[1:]
    async with ProcessExecutor(Path(home), Path(home), command) as executor:
        await executor.run([Path(directory)], Slot(threads=1))
        Path(directory, "idle").write_text("yes")
        await asyncio.Event().wait()

asyncio.run(main())
"""
    directory = look_around(tmp_path, "t-1")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", code, str(tmp_path), str(directory), *FAKE, env=environment
    )
    await until(said(directory / "idle"))
    worker = json.loads((directory / "seen.json").read_text())["parent"]
    assert not gone(worker)
    owner.kill()
    await owner.wait()
    await until(lambda: gone(worker))
