"""A fake executor for tests: it answers from a function and writes the same files as a child, without a process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import save  # pyright: ignore[reportUnknownVariableType]

from server.executors.base import ENDING, ExecutorError, Exit, Slot, write_whole
from server.executors.process.executor import write_attempt
from trainers.contract.metrics import METRICS
from trainers.contract.wire import (
    EPOCHS_FILE,
    REQUEST_FILES,
    RESULT_FILES,
    SPEC_FILE,
    TEST_RANKS_FILE,
    ChildTask,
    Epoch,
    EvaluationSpec,
    Revealed,
    TrialResult,
    TrialSpec,
)


class Answer(BaseModel):
    """What the stub writes for a trial. If there is no result, `exit` says why."""

    model_config = ConfigDict(frozen=True)

    epochs: tuple[Epoch, ...] = ()
    result: TrialResult | None = None
    exit: Exit = Exit(cause="result")


def curve(trial: TrialSpec, best: float = 0.05, epochs: int = 3) -> Answer:
    """A successful training: validation rises evenly to `best`, which every metric reaches in the last epoch."""
    history = tuple(
        Epoch(
            epoch=number,
            loss=10.0 / number,
            validation=dict.fromkeys(METRICS, best * (number / epochs)),
            seconds=1.0,
            eval_seconds=0.5,
        )
        for number in range(1, epochs + 1)
    )
    result = TrialResult(
        trial_id=trial.trial_id,
        status="ok",
        validation=history[-1].validation,
        best_epoch=epochs,
        epochs=epochs,
        seconds=1.0 * epochs,
        eval_seconds=0.5 * epochs,
        peak_memory_mb=100.0,
        parameters=1000,
        device="stub",
        threads=trial.threads,
    )
    return Answer(epochs=history, result=result)


def same_for_all(request: EvaluationSpec) -> Revealed:
    """A reveal in which every checkpoint has the same test scores."""
    return Revealed(status="ok", trials={item.trial_id: dict.fromkeys(METRICS, 0.04) for item in request.checkpoints})


class StubExecutor:
    """Answers with `train` and `reveal`; an ExecutorError that they raise propagates. `ranks`: of each tested user.

    While `gate` is cleared, work waits between its epochs and its result. `started` yields the names of the directories
    as work on them begins; `slots` keeps the slot of each. Cancelled work leaves a result with the status `cancelled`,
    as an obedient child would, unless `obeys` is False.
    """

    def __init__(
        self,
        train: Callable[[TrialSpec], Answer] = curve,
        reveal: Callable[[EvaluationSpec], Revealed] = same_for_all,
        obeys: bool = True,
        ranks: Callable[[EvaluationSpec], dict[str, npt.NDArray[np.uint8]]] | None = None,
    ) -> None:
        self.train = train
        self.reveal = reveal
        self.obeys = obeys
        self.ranks = ranks
        self.gate = asyncio.Event()
        self.gate.set()
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.slots: list[Slot] = []
        self._closing = asyncio.Event()
        self._working = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closing.set()
        await self._idle.wait()

    async def run(self, directories: Sequence[Path], slot: Slot, task: ChildTask = "run") -> list[Exit]:
        if self._closing.is_set():
            raise ExecutorError(ENDING)
        self._working += 1
        self._idle.clear()
        try:
            return [await self._run_one(directory, slot, task) for directory in directories]
        except OSError as error:
            raise ExecutorError(f"The training cannot start: {error.strerror or error}.") from None
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()

    async def _run_one(self, directory: Path, slot: Slot, task: ChildTask) -> Exit:
        self.slots.append(slot)
        write_attempt(directory, os.getpid())
        answer = Answer()
        if task == "run":
            answer = self.train(TrialSpec.model_validate_json((directory / SPEC_FILE).read_bytes()))
            _append(directory / EPOCHS_FILE, answer.epochs)
            outcome: BaseModel | None = answer.result
        else:
            request = EvaluationSpec.model_validate_json((directory / REQUEST_FILES["evaluate"]).read_bytes())
            outcome = self.reveal(request)
            if self.ranks is not None:
                (directory / TEST_RANKS_FILE).write_bytes(save(self.ranks(request)))
        self.started.put_nowait(directory.name)
        try:
            if not await self._await_gate():
                return Exit(cause="killed", message="the owner ended")
        except asyncio.CancelledError:
            if answer.result and self.obeys:
                cancelled = answer.result.model_copy(update={"status": "cancelled"})
                write_whole(directory / RESULT_FILES[task], cancelled.model_dump_json())
            raise
        if outcome:
            write_whole(directory / RESULT_FILES[task], outcome.model_dump_json())
        return answer.exit

    async def _await_gate(self) -> bool:
        """Waits for the gate; False where the executor is closed first."""
        waits = {asyncio.ensure_future(event.wait()) for event in (self.gate, self._closing)}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()
        return self.gate.is_set()


def _append(path: Path, epochs: Sequence[Epoch]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(epoch.model_dump_json() + "\n" for epoch in epochs)
