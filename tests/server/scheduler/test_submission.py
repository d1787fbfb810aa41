"""server.scheduler.submission: requests that come at once, callers that leave, and trials that did not get in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from memory.errors import MemoryFault
from memory.off_loop import off_loop
from memory.records import NewTrial, Trial
from server.executors.base import ExecutorError
from server.scheduler import submission
from server.scheduler.submission import Submission
from server.study.admission import ProtocolError
from server.study.requests import TrialRequest
from tests.support.tool_client import ToolClient, tool_client

pytestmark = pytest.mark.anyio
SECONDS = 60.0
Result = TypeVar("Result")


async def opened(at: ToolClient, **more: Any) -> str:
    return (await at.call("start_study", dataset="demo", **more))["study_id"]


async def let_others_run() -> None:
    """Gives every task its turns, until each waits for something outside the loop."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_two_requests_at_once_never_pass_the_same_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await opened(at, max_trials=1)
        read, reading, let_go = at.runtime.memory.trials, threading.Event(), threading.Event()
        admitting: list[TrialRequest] = []

        def held(study_id: str) -> list[Trial]:
            found = read(study_id)
            reading.set()
            let_go.wait(SECONDS)
            return found

        async def noted(function: Callable[[TrialRequest], Result], request: TrialRequest) -> Result:
            admitting.append(request)
            return await off_loop(function, request)

        monkeypatch.setattr(at.runtime.memory, "trials", held)
        monkeypatch.setattr(submission, "off_loop", noted)
        requests = [TrialRequest(study_id=study_id, changes={"dropout": dropout}) for dropout in (0.1, 0.2)]
        calls = [asyncio.create_task(at.runtime.scheduler.submit(request)) for request in requests]
        await asyncio.to_thread(reading.wait, SECONDS)
        await let_others_run()
        begun = list(admitting)
        let_go.set()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert begun == requests[:1]
        assert [type(end) for end in ends] == [Submission, ProtocolError]
        assert [trial.changes for trial in read(study_id)] == [{"dropout": 0.1}]


async def test_a_stored_trial_reaches_the_queue_though_its_caller_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tool_client(tmp_path) as at:
        at.executor.gate.clear()
        study_id = await opened(at)
        start, stored, let_go = at.runtime.memory.start_trial, threading.Event(), threading.Event()

        def held(new: NewTrial) -> Trial:
            started = start(new)
            stored.set()
            let_go.wait(SECONDS)
            return started

        monkeypatch.setattr(at.runtime.memory, "start_trial", held)
        call = asyncio.create_task(at.runtime.scheduler.submit(TrialRequest(study_id=study_id)))
        await asyncio.to_thread(stored.wait, SECONDS)
        call.cancel()
        await let_others_run()
        let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        (trial,) = at.runtime.memory.trials(study_id)
        assert at.runtime.supervisor.holds(trial.trial_id)
        at.executor.gate.set()
        await at.runtime.supervisor.wait(trial.trial_id, SECONDS)
        assert at.runtime.memory.trial(trial.trial_id).status == "ok"


@pytest.mark.parametrize("key", [{"request_key": "k"}, {}], ids=["with a key", "without"])
async def test_a_stored_trial_that_did_not_reach_the_queue_is_trained_when_it_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: dict[str, str]
) -> None:
    def fail(*_: object) -> None:
        raise MemoryFault("The disk is full.")

    async with tool_client(tmp_path) as at:
        study_id = await opened(at)
        with monkeypatch.context() as full:
            full.setattr(at.runtime.supervisor.recorder, "threads", fail)
            assert await at.refused("run_trial", study_id=study_id, **key) == "The disk is full."
        (stored,) = at.runtime.memory.trials(study_id)
        assert stored.status == "queued"
        again = await at.call("run_trial", study_id=study_id, **key)
        assert (again["trial_id"], again["status"], again["trainings"]) == (stored.trial_id, "ok", 1)


async def test_where_there_is_no_room_nothing_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise ExecutorError("No room here.")

    monkeypatch.setattr(submission, "check_room", full)
    async with tool_client(tmp_path) as at:
        study_id = await opened(at)
        with pytest.raises(ExecutorError, match="No room here"):
            await at.runtime.scheduler.submit(TrialRequest(study_id=study_id))
        assert at.runtime.memory.trials(study_id) == []
