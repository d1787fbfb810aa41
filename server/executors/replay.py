"""Answers trials from a table of finished trainings, in milliseconds: what stands on executors runs on it unchanged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from server.executors.base import ExecutorError, Exit, Slot, write_whole
from server.executors.process import write_attempt
from server.executors.recorded import Table, TableError, Training
from trainers.spec import RESULT_FILES, Epoch, EvaluationSpec, Revealed, Task, TrialResult, TrialSpec


class ReplayExecutor:
    """`table` answers validation, `sealed` the tests; nobody is asked for a checkpoint, and there are no ranks."""

    def __init__(self, table: Table, sealed: Table | None = None) -> None:
        self._table = table
        self._sealed = sealed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    async def run(self, directories: Sequence[Path], slot: Slot, task: Task = "run") -> list[Exit]:
        try:
            return [self._one(directory, task) for directory in directories]
        except TableError as error:
            raise ExecutorError(str(error)) from None
        except OSError as error:
            raise ExecutorError(f"The replay cannot write: {error.strerror or error}.") from None

    def _one(self, directory: Path, task: Task) -> Exit:
        write_attempt(directory, os.getpid())
        if task == "run":
            trial = TrialSpec.model_validate_json((directory / "spec.json").read_bytes())
            found = self._table.training(self._table.space.hash(trial.config), trial.seed)
            epochs, result = replayed(trial, found)
            text = "".join(epoch.model_dump_json() + "\n" for epoch in epochs)
            (directory / "epochs.jsonl").write_text(text, encoding="utf-8")
            write_whole(directory / RESULT_FILES[task], result.model_dump_json())
        elif task == "evaluate":
            asked = EvaluationSpec.model_validate_json((directory / "evaluate.json").read_bytes())
            write_whole(directory / RESULT_FILES[task], self._revealed(directory, asked).model_dump_json())
        else:
            raise ExecutorError("A replay has no weights: there is nothing to take home.")
        return Exit(cause="result")

    def _revealed(self, directory: Path, asked: EvaluationSpec) -> Revealed:
        """Test metrics, of a seed that the table lacks those of its configuration."""
        if self._sealed is None:
            return Revealed(status="failed", message="the table holds no test metrics")
        found: dict[str, dict[str, float]] = {}
        for one in asked.checkpoints:
            spec = (directory / one.path).parent / "spec.json"
            trial = TrialSpec.model_validate_json(spec.read_bytes())
            key = self._sealed.space.hash(trial.config)
            found[one.trial_id] = self._sealed.training(key, trial.seed).validation
        return Revealed(status="ok", trials=found)


def replayed(trial: TrialSpec, found: Training) -> tuple[tuple[Epoch, ...], TrialResult]:
    """The curve and the result of `trial`, whose rule of early stopping ends a recorded curve as it does a training."""
    result = TrialResult(
        trial_id=trial.trial_id, status=found.status, validation=found.validation, best_epoch=found.best_epoch,
        epochs=len(found.epochs), seconds=found.seconds, parameters=found.parameters, device="replay",
        threads=trial.threads, message="simulated: drawn around the table's mean" if found.simulated else "",
    )  # fmt: skip
    best = 0.0
    for number, (epoch, floor) in enumerate(zip(found.epochs, trial.stop_below, strict=False), 1):
        best = max(best, epoch.validation.get(trial.metric, 0.0))
        if best < floor and number < len(found.epochs):
            seen = found.epochs[:number]
            top = max(seen, key=lambda one: one.validation.get(trial.metric, 0.0))
            update = {
                "status": "stopped", "validation": top.validation, "best_epoch": top.epoch, "epochs": number,
                "seconds": sum(one.seconds for one in seen),
            }  # fmt: skip
            return seen, result.model_copy(update=update)
    return found.epochs, result
