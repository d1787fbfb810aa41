"""What a next owner makes of the home that another one left, orderly or not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from memory.store import Memory
from server.client.home import HomeError
from server.executors.base import Executor
from server.executors.testing.stub import StubExecutor
from server.owner.assembly import open_runtime
from server.runtime import Runtime
from server.scheduler.recovery import OWNER_ENDED
from server.scheduler.run_directory import Process
from server.settings import Settings
from tests.support.trials import FAKE, add_trial, gone, left_behind, process_executor, said, until
from trainers.contract.wire import TrialResult

pytestmark = pytest.mark.anyio
SECONDS = 60.0


@asynccontextmanager
async def owner(home: Path, executor: Executor | None = None) -> AsyncIterator[Runtime]:
    async with open_runtime(Settings(home=home), executor or StubExecutor()) as runtime:
        yield runtime


async def test_a_trial_whose_result_is_there_is_finished_from_its_directory(tmp_path: Path) -> None:
    trial = left_behind(tmp_path, status="ok", epochs=3)
    (tmp_path / "trials" / trial.trial_id / "attempt.json").write_text(
        Process(pid=4_000_000, create_time=1.5).model_dump_json()
    )
    async with owner(tmp_path) as runtime:
        found = runtime.memory.trial(trial.trial_id)
        assert (found.status, found.validation["ndcg@10"], found.epochs) == ("ok", 0.05, 3)
        assert [epoch.epoch for epoch in runtime.memory.epochs(trial.trial_id)] == [1, 2, 3]
        assert [attempt.cause for attempt in runtime.memory.attempts(trial.trial_id)] == ["ok"]
        assert not runtime.supervisor.busy


async def test_a_trial_without_a_result_is_interrupted_and_is_not_begun_again_unasked(tmp_path: Path) -> None:
    trial = left_behind(tmp_path, epochs=2)
    executor = StubExecutor()
    async with owner(tmp_path, executor) as runtime:
        assert runtime.memory.trial(trial.trial_id).status == "interrupted"
        assert [attempt.cause for attempt in runtime.memory.attempts(trial.trial_id)] == [OWNER_ENDED]
        assert (runtime.memory.open_attempts(), runtime.supervisor.busy, executor.slots) == ([], False, [])


async def test_a_process_that_was_not_noted_before_the_kill_is_noted_now(tmp_path: Path) -> None:
    trial = left_behind(tmp_path, attempts=0, epochs=2)
    process = Process(pid=4_000_000, create_time=12.25)
    (tmp_path / "trials" / trial.trial_id / "attempt.json").write_text(process.model_dump_json())
    async with owner(tmp_path) as runtime:
        (attempt,) = runtime.memory.attempts(trial.trial_id)
        assert (attempt.pid, attempt.create_time, attempt.cause) == (4_000_000, 12.25, OWNER_ENDED)
        assert [epoch.epoch for epoch in runtime.memory.epochs(trial.trial_id)] == [1, 2]
        assert runtime.memory.trial(trial.trial_id).status == "interrupted"


async def test_a_result_of_a_child_that_the_owner_ended_is_no_cancelled_trial(tmp_path: Path) -> None:
    trial = left_behind(tmp_path, status="cancelled", epochs=1)
    async with owner(tmp_path) as runtime:
        assert runtime.memory.trial(trial.trial_id).status == "interrupted"


async def test_a_result_that_cannot_be_read_is_a_crash(tmp_path: Path) -> None:
    trial = left_behind(tmp_path)
    (tmp_path / "trials" / trial.trial_id / "result.json").write_text('{"trial_id": "t')
    async with owner(tmp_path) as runtime:
        assert runtime.memory.trial(trial.trial_id).status == "crashed"
        assert [attempt.cause for attempt in runtime.memory.attempts(trial.trial_id)] == ["crashed"]


async def test_a_trial_that_was_accepted_but_never_started_is_trained_now(tmp_path: Path) -> None:
    trial = left_behind(tmp_path, attempts=0)
    async with owner(tmp_path) as runtime:
        await runtime.supervisor.wait(trial.trial_id, SECONDS)
        assert runtime.memory.trial(trial.trial_id).status == "ok"


async def test_a_queued_trial_of_a_study_whose_budget_is_up_is_not_started(tmp_path: Path) -> None:
    trial = left_behind(tmp_path, attempts=0, created_at=datetime.now(UTC) - timedelta(days=1), budget_seconds=60.0)
    executor = StubExecutor()
    async with owner(tmp_path, executor) as runtime:
        await runtime.supervisor.wait(trial.trial_id, SECONDS)
        assert (runtime.memory.trial(trial.trial_id).status, executor.slots) == ("timed_out", [])


async def test_an_attempt_left_open_on_a_finished_trial_is_ended(tmp_path: Path) -> None:
    trial = left_behind(tmp_path)
    memory = Memory.open(tmp_path / "memory.duckdb")
    memory.finish_trial(TrialResult(trial_id=trial.trial_id, status="diverged"))
    memory.close()
    async with owner(tmp_path) as runtime:
        assert [attempt.cause for attempt in runtime.memory.attempts(trial.trial_id)] == ["diverged"]


async def test_the_state_of_a_finished_training_is_removed_and_that_of_an_interrupted_one_stays(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    async with open_runtime(settings, StubExecutor()) as runtime:
        finished, study = add_trial(runtime.memory)
        await runtime.supervisor.enqueue(finished, study)
        await runtime.supervisor.wait(finished.trial_id, 60)
        going, _ = add_trial(runtime.memory, seed=1)
        attempt = runtime.memory.start_attempt(going.trial_id, 1, 1.0)
        runtime.memory.end_attempt(attempt.attempt_id, "interrupted")
    for trial in (finished, going):
        (settings.trials_dir / trial.trial_id).mkdir(exist_ok=True)
        (settings.trials_dir / trial.trial_id / "training.safetensors").write_bytes(b"state")
    async with open_runtime(settings, StubExecutor()):
        left = [path.parent.name for path in settings.trials_dir.glob("*/training.safetensors")]
    assert left == [going.trial_id]


async def test_an_orderly_end_interrupts_what_runs_and_keeps_what_waits(tmp_path: Path) -> None:
    executor = StubExecutor()
    executor.gate.clear()
    async with owner(tmp_path, executor) as runtime:
        (first, study), (second, _) = add_trial(runtime.memory), add_trial(runtime.memory, seed=1)
        await runtime.supervisor.enqueue(first, study)
        await runtime.supervisor.enqueue(second, study)
        await executor.started.get()
        waiting = asyncio.create_task(runtime.supervisor.wait(second.trial_id, SECONDS))
    await waiting
    memory = Memory.open(tmp_path / "memory.duckdb")
    assert [memory.trial(one.trial_id).status for one in (first, second)] == ["interrupted", "queued"]
    assert memory.open_attempts() == []
    memory.close()
    async with owner(tmp_path) as runtime:
        await runtime.supervisor.enqueue(runtime.memory.trial(first.trial_id), study)
        for one in (first, second):
            await runtime.supervisor.wait(one.trial_id, SECONDS)
        assert [runtime.memory.trial(one.trial_id).status for one in (first, second)] == ["ok", "ok"]
        assert len(runtime.memory.attempts(first.trial_id)) == 2


async def test_an_orderly_end_leaves_no_child_behind(tmp_path: Path) -> None:
    async with owner(tmp_path, process_executor(tmp_path)) as runtime:
        trial, study = add_trial(runtime.memory, "hang")
        directory = tmp_path / "trials" / trial.trial_id
        await runtime.supervisor.enqueue(trial, study)
        await until(said(directory / "ready"))
    assert gone(int((directory / "ready").read_text()))
    memory = Memory.open(tmp_path / "memory.duckdb")
    assert memory.trial(trial.trial_id).status == "interrupted"
    memory.close()


OWNER = """
import asyncio, sys
from pathlib import Path
from memory.store import Memory
from server.executors.process.executor import ProcessExecutor
from server.owner.assembly import open_runtime
from server.settings import Settings

async def main():
    home, trial_id, *command = sys.argv[1:]
    settings = Settings(home=Path(home))
    async with open_runtime(settings, ProcessExecutor(settings.datasets_dir, settings.home, command)) as runtime:
        await runtime.supervisor.wait(trial_id, 600)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_after_kill_9_of_the_owner_no_child_lives_and_the_next_start_shows_a_true_state(tmp_path: Path) -> None:
    memory = Memory.open(tmp_path / "memory.duckdb")
    trial, _ = add_trial(memory, "hang")
    memory.close()
    directory = tmp_path / "trials" / trial.trial_id
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    arguments = [sys.executable, "-P", "-c", OWNER, str(tmp_path), trial.trial_id, *FAKE]
    killed = await asyncio.create_subprocess_exec(*arguments, env=environment, stdout=subprocess.DEVNULL)
    await until(said(directory / "ready"))
    killed.kill()
    await killed.wait()
    pid = int((directory / "ready").read_text())
    await until(lambda: gone(pid))
    async with owner(tmp_path, process_executor(tmp_path)) as runtime:
        found = runtime.memory.trial(trial.trial_id)
        assert found.status == "interrupted"
        assert [attempt.pid for attempt in runtime.memory.attempts(trial.trial_id)] == [pid]
        assert [epoch.epoch for epoch in runtime.memory.epochs(trial.trial_id)] == [1]


async def test_kill_9_of_the_child_is_a_crashed_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.executors.process.executor.oom_kills", lambda: 0)
    async with owner(tmp_path, process_executor(tmp_path)) as runtime:
        trial, study = add_trial(runtime.memory, "hang")
        directory = tmp_path / "trials" / trial.trial_id
        await runtime.supervisor.enqueue(trial, study)
        await until(said(directory / "ready"))
        os.kill(int((directory / "ready").read_text()), 9)
        await runtime.supervisor.wait(trial.trial_id, SECONDS)
        found = runtime.memory.trial(trial.trial_id)
        assert (found.status, found.message, found.epochs) == ("crashed", "killed by signal 9", 1)


async def test_a_home_is_made_for_its_user_alone(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    async with owner(home):
        pass
    assert {path.name: path.stat().st_mode & 0o777 for path in (home, home / "trials", home / "datasets")} == {
        "home": 0o700,
        "trials": 0o700,
        "datasets": 0o700,
    }


async def test_a_home_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HomeError) as caught:
        async with owner(tmp_path / "file" / "home"):
            pass
    assert str(caught.value).startswith(f"{tmp_path / 'file' / 'home'} cannot be made: ")
    assert "\n" not in str(caught.value)


def test_opening_a_runtime_loads_nothing_heavy() -> None:
    code = "import server.runtime, sys; print([name for name in ('torch', 'ray', 'docker') if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"
