"""What every executor promises: one suite, and a fixture that opens each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from server.executors.base import Executor, ExecutorError, Exit
from server.executors.testing.stub import Answer, StubExecutor, curve
from server.scheduler.run_directory import prepare_evaluation, read_epochs, read_process, read_revealed
from tests.support.engine import docker_executor
from tests.support.ray_nodes import ray_executor
from tests.support.trials import SLOT, prepared, process_executor, result_of, said, until, warm_executor
from trainers.contract.wire import CheckpointPath, EvaluationSpec, TrialSpec

pytestmark = pytest.mark.anyio


class ObedientStub(StubExecutor):
    """A stub whose `hang` is held until it is ended, and whose other behaviours are those of the fake trainer."""

    def __init__(self, home: Path) -> None:
        super().__init__(self._answer)

    def _answer(self, trial: TrialSpec) -> Answer:
        behaviour = trial.config["behaviour"]
        if behaviour == "crash":
            return Answer(exit=Exit(cause="crashed", message="RuntimeError: the matrix is singular"))
        if behaviour == "hang":
            self.gate.clear()
        return curve(trial, epochs=1)


EXECUTORS: dict[str, Callable[[Path], Executor]] = {
    "cold": process_executor,
    "warm": warm_executor,
    "docker": docker_executor,
    "stub": ObedientStub,
}
MARKS = {"docker": pytest.mark.docker, "ray": pytest.mark.ray}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in (*EXECUTORS, "ray")])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Executor:
    if request.param == "ray":
        return ray_executor(request.getfixturevalue("nodes"), tmp_path)
    return EXECUTORS[request.param](tmp_path)


async def test_a_training_leaves_its_files_and_the_cause_is_result(executor: Executor, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1")
    async with executor:
        exits = await executor.run([directory], SLOT)
    result = result_of(directory)
    assert [exit.cause for exit in exits] == ["result"]
    assert (result.status, result.validation["ndcg@10"], result.epochs) == ("ok", 0.05, 1)
    assert [epoch.epoch for epoch in read_epochs(directory).epochs] == [1]


async def test_directories_are_answered_in_order_and_a_failure_spoils_no_other(
    executor: Executor, tmp_path: Path
) -> None:
    behaviours = {"t-1": "well", "t-2": "crash", "t-3": "well"}
    directories = [prepared(tmp_path / "trials", name, behaviour) for name, behaviour in behaviours.items()]
    async with executor:
        exits = await executor.run(directories, SLOT)
    assert [exit.cause for exit in exits] == ["result", "crashed", "result"]
    assert exits[1].message == "RuntimeError: the matrix is singular"


async def test_an_evaluation_is_answered_in_its_own_file(executor: Executor, tmp_path: Path) -> None:
    directory = tmp_path / "reveal-s-1"
    checkpoint = CheckpointPath(trial_id="t-1", path="../t-1/checkpoint.safetensors")
    prepare_evaluation(directory, EvaluationSpec(dataset_hash="abc", checkpoints=(checkpoint,)))
    async with executor:
        (exit,) = await executor.run([directory], SLOT, task="evaluate")
    revealed = read_revealed(directory)
    assert exit.cause == "result"
    assert revealed.status == "ok"
    assert revealed.trials["t-1"]["ndcg@10"] == 0.04


async def test_who_works_on_a_directory_is_known_while_it_works(executor: Executor, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "hang")
    async with executor:
        work = asyncio.create_task(executor.run([directory], SLOT))
        await until(lambda: read_process(directory))
        work.cancel()
        await asyncio.wait({work})
    assert work.cancelled()


async def test_cancelled_work_may_still_leave_a_result(executor: Executor, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "hang")
    async with executor:
        work = asyncio.create_task(executor.run([directory], SLOT))
        await until(lambda: read_epochs(directory).epochs and read_process(directory))
        if not isinstance(executor, StubExecutor):
            await until(said(directory / "ready"))
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    result = result_of(directory)
    assert (result.status, result.validation["ndcg@10"]) == ("cancelled", 0.05)


async def test_two_trainings_at_once_do_not_mix(executor: Executor, tmp_path: Path) -> None:
    directories = [prepared(tmp_path / "trials", f"t-{number}") for number in range(2)]
    async with executor:
        exits = await asyncio.gather(*(executor.run([directory], SLOT) for directory in directories))
    assert [exit.cause for (exit,) in exits] == ["result", "result"]
    assert [result_of(directory).status for directory in directories] == ["ok", "ok"]


async def test_leaving_ends_what_still_runs(executor: Executor, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1", "hang")
    async with executor:
        work = asyncio.create_task(executor.run([directory], SLOT))
        await until(lambda: read_epochs(directory).epochs)
    (exit,) = await work
    assert exit.cause == "killed"


async def test_no_work_starts_once_it_was_left(executor: Executor, tmp_path: Path) -> None:
    async with executor:
        pass
    with pytest.raises(ExecutorError, match="ending"):
        await executor.run([prepared(tmp_path / "trials", "t-1")], SLOT)


async def test_a_directory_that_is_not_there_is_broken_machinery(executor: Executor, tmp_path: Path) -> None:
    async with executor:
        with pytest.raises(ExecutorError) as caught:
            await executor.run([tmp_path / "trials" / "t-1"], SLOT)
    assert "\n" not in str(caught.value)
