"""Trials from submission to their end, over the stub executor; a few over real children."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from memory.errors import MemoryFault
from memory.store import Memory
from server.executors.base import Executor, ExecutorError, Exit, Slot
from server.executors.process.executor import write_attempt
from server.executors.testing.stub import Answer, StubExecutor, curve
from server.scheduler import active_trial, run_directory
from server.scheduler.outcome import Traces
from server.scheduler.sealed_test import evaluate
from server.scheduler.slots import Place, Slots
from server.scheduler.supervisor import Supervisor
from server.settings import Settings
from tests.support.examples import study, trial
from tests.support.trials import add_trial, gone, process_executor, said, until
from trainers.contract.wire import ChildTask, Epoch, EvaluationSpec, Revealed, TrialSpec

pytestmark = pytest.mark.anyio
SECONDS = 60.0


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    found = Memory.open(tmp_path / "memory.duckdb")
    yield found
    found.close()


@asynccontextmanager
async def supervised(memory: Memory, executor: Executor, tmp_path: Path, slots: int = 1) -> AsyncIterator[Supervisor]:
    settings = Settings(home=tmp_path, threads=2, slots=slots, trial_memory_mb=4096)
    async with executor, Supervisor(memory, executor, settings, poll_seconds=0.005) as found:
        yield found


def failing(exit: Exit, epochs: int = 0) -> StubExecutor:
    return StubExecutor(lambda trial: Answer(epochs=curve(trial, epochs=epochs).epochs if epochs else (), exit=exit))


async def test_a_finished_trial_is_in_the_books_whole(memory: Memory, tmp_path: Path) -> None:
    executor = StubExecutor()
    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory, budget_seconds=None, trial_seconds=90.0)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
        assert not owner.busy
    found = memory.trial(trial.trial_id)
    (attempt,) = memory.attempts(trial.trial_id)
    assert (found.status, found.validation["ndcg@10"], found.best_epoch) == ("ok", 0.05, 3)
    assert [epoch.epoch for epoch in memory.epochs(trial.trial_id)] == [1, 2, 3]
    assert attempt.cause == "ok"
    (slot,) = executor.slots
    assert (slot.threads, slot.memory_mb, slot.deadline_seconds) == (2, 4096, 90.0)
    assert TrialSpec.model_validate_json(
        (tmp_path / "trials" / trial.trial_id / "spec.json").read_bytes()
    ) == TrialSpec(
        trial_id=trial.trial_id,
        backbone="sasrec",
        config=trial.config,
        seed=0,
        dataset_hash="abc",
        threads=2,
        memory_mb=4096,
    )


async def test_no_more_trials_run_than_there_are_slots_and_in_the_order_they_came(
    memory: Memory, tmp_path: Path
) -> None:
    executor = StubExecutor()
    executor.gate.clear()
    async with supervised(memory, executor, tmp_path, slots=2) as owner:
        added = [add_trial(memory, seed=seed) for seed in range(4)]
        ids = [trial.trial_id for trial, _ in added]
        for trial, study in added:
            await owner.enqueue(trial, study)
        begun = [await executor.started.get() for _ in range(2)]
        await until(lambda: memory.trial(ids[1]).status == "running")
        assert sorted(begun) == sorted(ids[:2])  # two start at once, in threads
        assert executor.started.empty()
        assert [memory.trial(one).status for one in ids] == ["running", "running", "queued", "queued"]
        assert len(owner.active_trials) == 4
        executor.gate.set()
        await asyncio.gather(*(owner.wait(one, SECONDS) for one in ids))
        assert [await executor.started.get() for _ in range(2)] == ids[2:]
    assert {memory.trial(one).status for one in ids} == {"ok"}


async def test_a_trial_that_is_here_already_is_not_started_twice(memory: Memory, tmp_path: Path) -> None:
    executor = StubExecutor()
    executor.gate.clear()
    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory)
        for _ in range(3):
            await owner.enqueue(trial, study)
        executor.gate.set()
        await owner.wait(trial.trial_id, SECONDS)
    assert len(executor.slots) == 1


async def test_the_deadline_is_what_is_left_of_the_budget(memory: Memory, tmp_path: Path) -> None:
    created = datetime.now(UTC) - timedelta(seconds=400)
    executor = StubExecutor()
    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory, created_at=created, budget_seconds=1000.0, trial_seconds=5000.0)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
    assert executor.slots[0].deadline_seconds is not None
    assert 0 < executor.slots[0].deadline_seconds <= 600


async def test_no_trial_starts_once_the_budget_is_up(memory: Memory, tmp_path: Path) -> None:
    created = datetime.now(UTC) - timedelta(seconds=11)
    executor = StubExecutor()
    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory, created_at=created, budget_seconds=10.0)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
    found = memory.trial(trial.trial_id)
    assert (found.status, found.validation, executor.slots) == ("timed_out", {}, [])
    assert "budget" in found.message


async def test_waiting_ends_when_the_time_is_up_and_the_trial_goes_on(memory: Memory, tmp_path: Path) -> None:
    executor = StubExecutor()
    executor.gate.clear()
    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await executor.started.get()
        await owner.wait(trial.trial_id, 0.01)
        assert owner.holds(trial.trial_id)
        executor.gate.set()
        await owner.wait(trial.trial_id, SECONDS)
    assert memory.trial(trial.trial_id).status == "ok"


async def test_progress_tells_every_reading_of_epochs_and_speaks_in_the_silence(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_trial, "PROGRESS_SECONDS", 0.001)
    executor = StubExecutor()
    executor.gate.clear()
    heard: list[int] = []

    async def listen(epochs: int) -> None:
        heard.append(epochs)
        if heard.count(3) == 2:
            executor.gate.set()

    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS, listen)
    assert sorted(heard) == heard
    assert heard.count(3) >= 2


async def test_a_waiter_that_is_cancelled_or_fails_touches_neither_trial_nor_other_waiters(
    memory: Memory, tmp_path: Path
) -> None:
    executor = StubExecutor()
    executor.gate.clear()

    async def fail(epochs: int) -> None:
        raise ConnectionError("the client is gone")

    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await executor.started.get()
        vanishing, patient = (asyncio.create_task(owner.wait(trial.trial_id, SECONDS)) for _ in range(2))
        with pytest.raises(ConnectionError):
            await owner.wait(trial.trial_id, SECONDS, fail)
        vanishing.cancel()
        await asyncio.wait({vanishing})
        assert owner.holds(trial.trial_id)
        executor.gate.set()
        await patient
    assert memory.trial(trial.trial_id).status == "ok"


async def test_a_queued_trial_is_cancelled_without_having_started(memory: Memory, tmp_path: Path) -> None:
    executor = StubExecutor()
    executor.gate.clear()
    async with supervised(memory, executor, tmp_path) as owner:
        (first, study), (second, _) = add_trial(memory), add_trial(memory, seed=1)
        await owner.enqueue(first, study)
        await owner.enqueue(second, study)
        await owner.cancel(second.trial_id)
        assert memory.trial(second.trial_id).status == "cancelled"
        executor.gate.set()
        await owner.wait(first.trial_id, SECONDS)
    assert memory.trial(first.trial_id).status == "ok"
    assert len(executor.slots) == 1


async def test_whoever_waits_for_a_queued_trial_hears_of_its_cancellation_once_that_is_stored(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = StubExecutor()
    executor.gate.clear()
    storing, let_go = threading.Event(), threading.Event()
    async with supervised(memory, executor, tmp_path) as owner:
        (first, study), (second, _) = add_trial(memory), add_trial(memory, seed=1)
        await owner.enqueue(first, study)
        await owner.enqueue(second, study)
        store = owner.recorder.cancel_unfinished

        def held(trial_id: str, traces: Traces | None = None) -> None:
            storing.set()
            let_go.wait(SECONDS)
            store(trial_id, traces)

        async def hear() -> str:
            await owner.wait(second.trial_id, SECONDS)
            return memory.trial(second.trial_id).status

        monkeypatch.setattr(owner.recorder, "cancel_unfinished", held)
        hearing = asyncio.create_task(hear())
        await asyncio.sleep(0)
        cancelling = asyncio.create_task(owner.cancel(second.trial_id))
        await asyncio.to_thread(storing.wait, SECONDS)
        heard_early = hearing.done()
        let_go.set()
        await cancelling
        assert (heard_early, await hearing) == (False, "cancelled")
        executor.gate.set()
        await owner.wait(first.trial_id, SECONDS)


async def test_the_end_of_a_trial_is_announced_once_however_often_it_is_cancelled(
    memory: Memory, tmp_path: Path
) -> None:
    told: list[str] = []
    async with supervised(memory, StubExecutor(), tmp_path) as owner:
        trial, _ = add_trial(memory)
        owner.recorder.on_finished = told.append
        for _ in range(3):
            await owner.cancel(trial.trial_id)
    assert (told, memory.trial(trial.trial_id).status) == ([trial.trial_id], "cancelled")


@pytest.mark.parametrize(("obeys", "scored"), [(True, 0.05), (False, None)])
async def test_a_running_trial_that_is_cancelled_keeps_what_its_child_still_wrote(
    memory: Memory, tmp_path: Path, obeys: bool, scored: float | None
) -> None:
    executor = StubExecutor(obeys=obeys)
    executor.gate.clear()
    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await executor.started.get()
        await owner.cancel(trial.trial_id)
        found = memory.trial(trial.trial_id)
        assert not owner.busy
    assert (found.status, found.validation.get("ndcg@10")) == ("cancelled", scored)
    assert [attempt.cause for attempt in memory.attempts(trial.trial_id)] == ["cancelled"]


async def test_a_cancelled_real_child_is_gone_when_cancel_returns(memory: Memory, tmp_path: Path) -> None:
    async with supervised(memory, process_executor(tmp_path), tmp_path) as owner:
        trial, study = add_trial(memory, "hang")
        directory = tmp_path / "trials" / trial.trial_id
        await owner.enqueue(trial, study)
        await until(said(directory / "ready"))
        await owner.cancel(trial.trial_id)
        assert gone(int((directory / "ready").read_text()))
    found = memory.trial(trial.trial_id)
    assert (found.status, found.validation["ndcg@10"], found.epochs) == ("cancelled", 0.05, 1)


async def test_an_interrupted_trial_can_be_cancelled(memory: Memory, tmp_path: Path) -> None:
    trial, _ = add_trial(memory)
    memory.end_attempt(memory.start_attempt(trial.trial_id, 1, 1.0).attempt_id, "interrupted")
    async with supervised(memory, StubExecutor(), tmp_path) as owner:
        await owner.cancel(trial.trial_id)
    assert memory.trial(trial.trial_id).status == "cancelled"


@pytest.mark.parametrize(
    ("exit", "status"),
    [
        (Exit(cause="crashed", message="killed by signal 9"), "crashed"),
        (Exit(cause="out_of_memory", message="used 9 MB; the limit is 8 MB", peak_memory_mb=9.0), "out_of_memory"),
        (Exit(cause="timed_out", message="still at work"), "timed_out"),
    ],
)
async def test_a_child_without_a_result_leaves_a_failed_trial_with_its_epochs(
    memory: Memory, tmp_path: Path, exit: Exit, status: str
) -> None:
    async with supervised(memory, failing(exit, epochs=2), tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
    found = memory.trial(trial.trial_id)
    assert (found.status, found.message, found.peak_memory_mb) == (status, exit.message, exit.peak_memory_mb)
    assert (found.validation, found.epochs, found.seconds, found.eval_seconds) == ({}, 2, 2.0, 1.0)


async def test_a_trial_ended_after_its_deadline_keeps_its_best_epoch_if_there_are_weights(
    memory: Memory, tmp_path: Path
) -> None:

    def train(asked: TrialSpec) -> Answer:
        (tmp_path / "trials" / asked.trial_id / "checkpoint.safetensors").touch()
        falling = curve(asked).epochs[1], curve(asked).epochs[2], curve(asked).epochs[0].model_copy(update={"epoch": 4})
        return Answer(epochs=falling, exit=Exit(cause="timed_out", message="still at work"))

    async with supervised(memory, StubExecutor(train), tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
    found = memory.trial(trial.trial_id)
    assert (found.status, found.best_epoch, found.validation["ndcg@10"], found.scored) == ("timed_out", 3, 0.05, True)


async def test_a_result_written_on_the_way_out_after_the_deadline_is_timed_out_not_cancelled(
    memory: Memory, tmp_path: Path
) -> None:

    def train(asked: TrialSpec) -> Answer:
        answer = curve(asked)
        assert answer.result is not None
        written = answer.result.model_copy(update={"status": "cancelled"})
        return answer.model_copy(update={"result": written, "exit": Exit(cause="timed_out", message="still at work")})

    async with supervised(memory, StubExecutor(train), tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
    found = memory.trial(trial.trial_id)
    assert (found.status, found.message, found.validation["ndcg@10"]) == ("timed_out", "still at work", 0.05)


@pytest.mark.parametrize("behaviour", ["garbage", "half"])
async def test_a_result_that_cannot_be_read_is_a_crash(memory: Memory, tmp_path: Path, behaviour: str) -> None:
    async with supervised(memory, process_executor(tmp_path), tmp_path) as owner:
        trial, study = add_trial(memory, behaviour)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
    found = memory.trial(trial.trial_id)
    assert found.status == "crashed"
    assert found.message.startswith("The trainer's result.json is no result: ")


@pytest.mark.parametrize("change", [{"trial_id": "t-other"}, {"validation": {"ndcg@10": float("nan")}}])
async def test_a_result_that_cannot_be_believed_is_a_crash(
    memory: Memory, tmp_path: Path, change: dict[str, object]
) -> None:

    def train(asked: TrialSpec) -> Answer:
        answer = curve(asked)
        assert answer.result is not None
        return answer.model_copy(update={"result": answer.result.model_copy(update=change)})

    async with supervised(memory, StubExecutor(train), tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
    assert (memory.trial(trial.trial_id).status, memory.trial(trial.trial_id).validation) == ("crashed", {})


async def test_broken_machinery_interrupts_the_trial_and_the_next_try_starts_anew(
    memory: Memory, tmp_path: Path
) -> None:
    broken = True

    def train(asked: TrialSpec) -> Answer:
        if broken:
            raise ExecutorError("No interpreter here.")
        return curve(asked, epochs=1)

    async with supervised(memory, StubExecutor(train), tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
        assert memory.trial(trial.trial_id).status == "interrupted"
        assert owner.failure(trial.trial_id) == "No interpreter here."
        broken = False
        await owner.enqueue(memory.trial(trial.trial_id), study)
        await owner.wait(trial.trial_id, SECONDS)
        assert owner.failure(trial.trial_id) is None
    assert memory.trial(trial.trial_id).status == "ok"
    assert [attempt.cause for attempt in memory.attempts(trial.trial_id)] == ["No interpreter here.", "ok"]


async def test_a_trial_that_no_process_could_be_started_for_is_interrupted(memory: Memory, tmp_path: Path) -> None:
    async with supervised(memory, process_executor(tmp_path, command=("no-such-program",)), tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
        assert "'no-such-program' is not a program" in (owner.failure(trial.trial_id) or "")
    assert memory.trial(trial.trial_id).status == "interrupted"


async def test_a_new_attempt_finds_nothing_of_the_one_before_but_its_log(memory: Memory, tmp_path: Path) -> None:
    names = ("epochs.jsonl", "checkpoint.safetensors", "validation_ranks.safetensors", "attempt.json", "trial.log")
    executor = StubExecutor()
    executor.gate.clear()
    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory)
        directory = tmp_path / "trials" / trial.trial_id
        directory.mkdir(parents=True)
        for name in names:
            (directory / name).write_text("old")
        await owner.enqueue(trial, study)
        left = {path.name for path in directory.iterdir()}
        executor.gate.set()
        await owner.wait(trial.trial_id, SECONDS)
    assert left - {"spec.json"} == {"trial.log"}
    assert memory.trial(trial.trial_id).status == "ok"


async def test_a_full_disk_refuses_the_trial_in_one_line(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_directory, "write_whole", full)
    async with supervised(memory, StubExecutor(), tmp_path) as owner:
        trial, study = add_trial(memory)
        message = f"The run directory of {trial.trial_id} cannot be written: No space left on device."
        with pytest.raises(ExecutorError) as caught:
            await owner.enqueue(trial, study)
        assert not owner.busy
    found = memory.trial(trial.trial_id)
    assert (str(caught.value), found.status, found.message) == (message, "crashed", message)


def test_a_half_written_epoch_is_read_once_it_is_whole(tmp_path: Path) -> None:
    trial = TrialSpec(trial_id="t-1", backbone="sasrec", config={}, seed=0, dataset_hash="abc", threads=1)
    one, two, three = (epoch.model_dump_json() for epoch in curve(trial).epochs)
    path = tmp_path / "epochs.jsonl"
    assert run_directory.read_epochs(tmp_path) == ((), 0)
    path.write_text(f"{one}\n{two[:20]}")
    first = run_directory.read_epochs(tmp_path)
    path.write_text(f"{one}\n{two}\nno epoch\n{three}\n")
    second = run_directory.read_epochs(tmp_path, first.offset)
    assert [epoch.epoch for epoch in first.epochs] == [1]
    assert [epoch.epoch for epoch in second.epochs] == [2, 3]
    assert run_directory.read_epochs(tmp_path, second.offset) == ((), second.offset)


@pytest.mark.parametrize("fault", [MemoryFault("The disk is full."), RuntimeError("a bug")], ids=["memory", "bug"])
async def test_the_hook_runs_once_per_trial_before_waiters_wake_and_may_fail(
    memory: Memory, tmp_path: Path, fault: Exception
) -> None:
    told: list[tuple[str, str]] = []

    def hook(trial_id: str) -> None:
        told.append((trial_id, memory.trial(trial_id).status))
        raise fault

    async with supervised(memory, StubExecutor(), tmp_path) as owner:
        trial, study = add_trial(memory)
        owner.recorder.on_finished = hook
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
        assert told == [(trial.trial_id, "ok")]
        assert [attempt.cause for attempt in memory.attempts(trial.trial_id)] == ["ok"]
        next_one, _ = add_trial(memory, seed=1)
        await owner.enqueue(next_one, study)
        await owner.wait(next_one.trial_id, SECONDS)
        assert memory.trial(next_one.trial_id).status == "ok"  # the slot lives on


async def test_a_reading_that_memory_refuses_is_made_again(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_epochs = memory.add_epochs
    refused: list[str] = []
    executor = StubExecutor()
    executor.gate.clear()

    def refuse_once(trial_id: str, epochs: Sequence[Epoch]) -> None:
        if not refused:
            refused.append(trial_id)
            raise MemoryFault("The disk is full.")
        executor.gate.set()
        add_epochs(trial_id, epochs)

    monkeypatch.setattr(memory, "add_epochs", refuse_once)
    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
    assert [epoch.epoch for epoch in memory.epochs(trial.trial_id)] == [1, 2, 3]


async def test_a_result_that_memory_refuses_is_told_and_the_slot_goes_on(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = memory.finish_trial

    def refuse_first(result):
        if result.trial_id == first.trial_id:
            raise MemoryFault("The disk is full.")
        return finish(result)

    monkeypatch.setattr(memory, "finish_trial", refuse_first)
    async with supervised(memory, StubExecutor(), tmp_path) as owner:
        (first, study), (second, _) = add_trial(memory), add_trial(memory, seed=1)
        await owner.enqueue(first, study)
        await owner.enqueue(second, study)
        await owner.wait(first.trial_id, SECONDS)
        await owner.wait(second.trial_id, SECONDS)
        assert owner.failure(first.trial_id) == "The disk is full."
    assert memory.trial(second.trial_id).status == "ok"


async def test_an_evaluation_reads_the_kept_checkpoints(memory: Memory, tmp_path: Path) -> None:
    executor = StubExecutor()
    async with supervised(memory, executor, tmp_path) as owner:
        revealed = await evaluate(owner, "s-1", "abc", "yes", ["t-1", "t-2"])
        assert not owner.busy
    asked = EvaluationSpec.model_validate_json((tmp_path / "trials" / "reveal-s-1" / "evaluate.json").read_bytes())
    assert set(revealed.trials) == {"t-1", "t-2"}
    assert (asked.dataset_hash, asked.filter_seen) == ("abc", "yes")
    assert [(one.trial_id, one.path) for one in asked.checkpoints] == [
        ("t-1", "../t-1/checkpoint.safetensors"),
        ("t-2", "../t-2/checkpoint.safetensors"),
    ]


async def test_a_failed_evaluation_is_told_in_one_line(memory: Memory, tmp_path: Path) -> None:
    executor = StubExecutor(reveal=lambda asked: Revealed(status="failed", message="no such checkpoint"))
    async with supervised(memory, executor, tmp_path) as owner:
        with pytest.raises(ExecutorError, match=r"study 's-1' failed: no such checkpoint$"):
            await evaluate(owner, "s-1", "abc", "auto", ["t-1"])


async def test_nothing_is_taken_any_more_once_the_owner_ends(memory: Memory, tmp_path: Path) -> None:
    async with supervised(memory, StubExecutor(), tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.aclose()
        with pytest.raises(ExecutorError, match="ending"):
            await owner.enqueue(trial, study)
    assert memory.trial(trial.trial_id).status == "queued"


async def test_the_slot_seconds_of_a_study_end_its_trainings(memory: Memory, tmp_path: Path) -> None:
    executor = StubExecutor()
    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory, gpu_seconds=100.0)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
        assert executor.slots[0].deadline_seconds == 100.0
        assert memory.slot_seconds(study.study_id) < 100.0
        assert memory.slot_seconds(study.study_id) > 0.0


async def test_only_trainings_that_hold_a_slot_share_the_slot_seconds(memory: Memory, tmp_path: Path) -> None:
    executor = StubExecutor()
    executor.gate.clear()
    async with supervised(memory, executor, tmp_path) as owner:
        added = [add_trial(memory, seed=seed, gpu_seconds=100.0) for seed in range(2)]
        async with owner.slots.take("s-other", 0.0):  # so that both are queued before either trains
            for trial, study in added:
                await owner.enqueue(trial, study)
        await executor.started.get()
        assert [slot.deadline_seconds for slot in executor.slots] == [100.0]
        executor.gate.set()
        for trial, _ in added:
            await owner.wait(trial.trial_id, SECONDS)


@pytest.mark.parametrize(
    ("used", "sharers", "seconds"),
    [(0.0, 1, 100.0), (40.0, 1, 60.0), (40.0, 2, 30.0), (40.0, 0, 60.0), (100.0, 2, 0.0)],
)
def test_trainings_share_what_is_left_of_the_slot_seconds(
    used: float, sharers: int, seconds: float, tmp_path: Path
) -> None:
    active = active_trial.ActiveTrial(trial(0, None), study(gpu_seconds=100.0), tmp_path, threads=1)
    assert active.deadline_seconds(used, sharers) == seconds


async def test_a_study_keeps_the_threads_that_it_began_with(memory: Memory, tmp_path: Path) -> None:
    trial, study = add_trial(memory)
    async with supervised(memory, StubExecutor(), tmp_path) as owner:
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
    executor = StubExecutor()
    settings = Settings(home=tmp_path, threads=1)
    async with executor, Supervisor(memory, executor, settings) as owner:
        again, _ = add_trial(memory, seed=5)
        await owner.enqueue(again, study)
        await owner.wait(again.trial_id, SECONDS)
    assert [slot.threads for slot in executor.slots] == [2]


async def test_a_new_owner_knows_how_much_memory_the_study_wanted(memory: Memory, tmp_path: Path) -> None:
    wanted: list[float] = []
    for seed in range(2):
        executor = StubExecutor()
        async with executor, Supervisor(memory, executor, Settings(home=tmp_path)) as owner:
            trial, study = add_trial(memory, seed=seed)
            await owner.enqueue(trial, study)
            await executor.started.get()
            wanted += [job.wanted_mb for job in owner.active_trials]
            await owner.wait(trial.trial_id, SECONDS)
    rough, corrected = wanted
    assert corrected < rough  # the stub's trials tell of less than a process takes


@asynccontextmanager
async def packed(memory: Memory, executor: Executor, tmp_path: Path) -> AsyncIterator[Supervisor]:
    """Two slots that share the machine's memory."""
    slots = Slots([Place(lane=0), Place(lane=1)], {None: 8000.0})
    async with executor, Supervisor(memory, executor, Settings(home=tmp_path), slots=slots) as found:
        yield found


def short_of_memory(times: int, caught: bool) -> Callable[[TrialSpec], Answer]:
    """Trainings of seed 0 run out of memory so often, as their process or the system says; others do well."""
    left = [times]

    def train(trial: TrialSpec) -> Answer:
        well = curve(trial)
        if trial.seed or not left[0] or well.result is None:
            return well
        left[0] -= 1
        if not caught:
            return Answer(epochs=well.epochs, exit=Exit(cause="out_of_memory", message="killed"))
        return well.model_copy(update={"result": well.result.model_copy(update={"status": "out_of_memory"})})

    return train


async def trained_together(
    memory: Memory, tmp_path: Path, train: Callable[[TrialSpec], Answer], count: int
) -> list[str]:
    """Trials of seeds from 0 on, of which the first two are at work before either goes on."""
    executor = StubExecutor(train)
    executor.gate.clear()
    async with packed(memory, executor, tmp_path) as owner:
        added = [add_trial(memory, seed=seed) for seed in range(count)]
        for trial, study in added:
            await owner.enqueue(trial, study)
        for _ in range(2):
            await executor.started.get()
        executor.gate.set()
        for trial, _ in added:
            await owner.wait(trial.trial_id, SECONDS)
    return [trial.trial_id for trial, _ in added]


@pytest.mark.parametrize("caught", [True, False])
async def test_a_trial_that_had_company_when_memory_ran_out_trains_again_alone(
    memory: Memory, tmp_path: Path, caught: bool
) -> None:
    ids = await trained_together(memory, tmp_path, short_of_memory(1, caught), count=3)
    assert [memory.trial(one).status for one in ids] == ["ok"] * 3
    assert [attempt.cause for attempt in memory.attempts(ids[0])] == [active_trial.NO_MEMORY_LEFT, "ok"]
    assert [epoch.epoch for epoch in memory.epochs(ids[0])] == [1, 2, 3]


async def test_a_trial_that_runs_out_of_memory_alone_did_not_fit(memory: Memory, tmp_path: Path) -> None:
    ids = await trained_together(memory, tmp_path, short_of_memory(2, caught=True), count=2)
    assert [memory.trial(one).status for one in ids] == ["out_of_memory", "ok"]
    assert len(memory.attempts(ids[0])) == 2


async def test_a_trial_that_never_had_company_is_not_tried_again(memory: Memory, tmp_path: Path) -> None:
    executor = StubExecutor(short_of_memory(1, caught=True))
    async with packed(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
    assert memory.trial(trial.trial_id).status == "out_of_memory"
    assert len(memory.attempts(trial.trial_id)) == 1


class ShortOfMemory(StubExecutor):
    """Trial `short` runs out of memory at once; others are held at the gate."""

    short = ""

    async def run(self, directories: Sequence[Path], slot: Slot, task: ChildTask = "run") -> list[Exit]:
        if directories[0].name != self.short:
            return await super().run(directories, slot, task)
        write_attempt(directories[0], os.getpid())
        return [Exit(cause="out_of_memory")]


async def test_a_trial_that_waits_to_train_alone_can_be_cancelled(memory: Memory, tmp_path: Path) -> None:
    executor = ShortOfMemory()
    executor.gate.clear()
    async with packed(memory, executor, tmp_path) as owner:
        other, study = add_trial(memory, seed=1)
        short, _ = add_trial(memory)
        executor.short = short.trial_id
        await owner.enqueue(other, study)
        await owner.enqueue(short, study)
        await until(lambda: [one.cause for one in memory.attempts(short.trial_id)] == [active_trial.NO_MEMORY_LEFT])
        assert (len(owner.active_trials), memory.trial(short.trial_id).status) == (2, "interrupted")
        await owner.cancel(short.trial_id)
        assert memory.trial(short.trial_id).status == "cancelled"
        executor.gate.set()
        await owner.wait(other.trial_id, SECONDS)
    assert memory.trial(other.trial_id).status == "ok"


async def test_a_trial_that_is_cancelled_as_its_result_is_stored_keeps_it(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, let_go = threading.Event(), threading.Event()
    async with supervised(memory, StubExecutor(), tmp_path) as owner:
        store = owner.recorder.store_attempt

        def held(*arguments: Any) -> None:
            stored.set()
            let_go.wait(SECONDS)
            store(*arguments)

        monkeypatch.setattr(owner.recorder, "store_attempt", held)
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await asyncio.to_thread(stored.wait, SECONDS)
        cancelling = asyncio.create_task(owner.cancel(trial.trial_id))
        await asyncio.sleep(0)
        let_go.set()
        await cancelling
        assert (memory.trial(trial.trial_id).status, memory.open_attempts()) == ("ok", [])


async def test_a_trial_that_was_cancelled_before_it_entered_the_queue_is_not_trained(
    memory: Memory, tmp_path: Path
) -> None:
    executor = StubExecutor()
    async with supervised(memory, executor, tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.cancel(trial.trial_id)
        await owner.enqueue(trial, study)
        assert (owner.busy, executor.slots, memory.trial(trial.trial_id).status) == (False, [], "cancelled")


async def test_epochs_that_a_child_writes_just_before_its_end_are_stored(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    class EndsDuringARead(StubExecutor):
        async def run(self, directories: Sequence[Path], slot: Slot, task: ChildTask = "run") -> list[Exit]:
            await asyncio.to_thread(begun.wait, SECONDS)
            exits = await super().run(directories, slot, task)
            asyncio.get_running_loop().call_later(0, ended.set)
            return exits

    read = active_trial.ActiveTrial.read_progress

    def slow_read(self: active_trial.ActiveTrial, store: Memory) -> bool:
        found = read(self, store)
        if not begun.is_set():  # the child writes and ends while the owner still stores what was there before
            begun.set()
            ended.wait(SECONDS)
        return found

    monkeypatch.setattr(active_trial.ActiveTrial, "read_progress", slow_read)
    async with supervised(memory, EndsDuringARead(), tmp_path) as owner:
        trial, study = add_trial(memory)
        await owner.enqueue(trial, study)
        await owner.wait(trial.trial_id, SECONDS)
    assert [epoch.epoch for epoch in memory.epochs(trial.trial_id)] == [1, 2, 3]
