"""Answers trials from a table of finished trainings in milliseconds; code that uses executors needs no change."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from server.executors.base import ExecutorError, Exit, Slot, write_whole
from server.executors.process.executor import write_attempt
from server.replay.marker import RECORDED, REPLAY_VERSION, SIMULATED
from server.replay.recorded import Table, TableError, Training
from server.replay.tables import Tables
from trainers.contract.wire import (
    EPOCHS_FILE,
    REQUEST_FILES,
    RESULT_FILES,
    SPEC_FILE,
    ChildTask,
    Epoch,
    EvaluationSpec,
    Revealed,
    TrialResult,
    TrialSpec,
)


class ReplayExecutor:
    """Answers with the scores in `tables`. There are no checkpoints and no ranks."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    async def run(self, directories: Sequence[Path], slot: Slot, task: ChildTask = "run") -> list[Exit]:
        try:
            return [await self._run_one(directory, task) for directory in directories]
        except TableError as error:
            raise ExecutorError(str(error)) from None
        except OSError as error:
            raise ExecutorError(f"The replay cannot write: {error.strerror or error}.") from None

    async def _run_one(self, directory: Path, task: ChildTask) -> Exit:
        write_attempt(directory, os.getpid())
        if task == "run":
            trial = TrialSpec.model_validate_json((directory / SPEC_FILE).read_bytes())
            table = await asyncio.to_thread(self._table_of, trial)
            epochs, result = replayed(trial, table.training(table.space.hash(trial.config), trial.seed), table.seeds)
            text = "".join(epoch.model_dump_json() + "\n" for epoch in epochs)
            (directory / EPOCHS_FILE).write_text(text, encoding="utf-8")
            write_whole(directory / RESULT_FILES[task], result.model_dump_json())
        elif task == "evaluate":
            request = EvaluationSpec.model_validate_json((directory / REQUEST_FILES["evaluate"]).read_bytes())
            write_whole(
                directory / RESULT_FILES[task],
                (await asyncio.to_thread(self._reveal, directory, request)).model_dump_json(),
            )
        else:
            raise ExecutorError("A replay has no weights: there is nothing to take home.")
        return Exit(cause="result")

    def _table_of(self, trial: TrialSpec) -> Table:
        return self._tables.table(self._tables.name_of(trial.dataset_hash), trial.backbone)

    def _reveal(self, directory: Path, request: EvaluationSpec) -> Revealed:
        """Test metrics; for a seed that the table lacks, they are drawn around its configuration's mean."""
        name = self._tables.name_of(request.dataset_hash)
        metrics: dict[str, dict[str, float]] = {}
        for checkpoint in request.checkpoints:
            spec = (directory / checkpoint.path).parent / SPEC_FILE
            trial = TrialSpec.model_validate_json(spec.read_bytes())
            if not self._tables.holds_test(name, trial.backbone):
                return Revealed(status="failed", message="the tables hold no test metrics")
            sealed = self._tables.sealed(name, trial.backbone)
            key = sealed.space.hash(trial.config)
            metrics[checkpoint.trial_id] = sealed.training(key, trial.seed).validation
        return Revealed(status="ok", trials=metrics)


def replayed(trial: TrialSpec, recorded: Training, seeds: Sequence[int] = ()) -> tuple[tuple[Epoch, ...], TrialResult]:
    """The curve and the result of `trial`. Its early-stopping rule ends a recorded curve as it ends a training.

    `seeds`: those that were recorded, for the message of a result whose seed was not.
    """
    source, message = RECORDED, "replayed from a recorded training"
    if recorded.simulated:
        known = f" of the seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
        source, message = (
            SIMULATED,
            f"replayed with a {SIMULATED}: seed {trial.seed} was not recorded, so its scores are drawn around the "
            f"recorded mean{known}",
        )
    result = TrialResult(
        trial_id=trial.trial_id, status=recorded.status, validation=recorded.validation, best_epoch=recorded.best_epoch,
        epochs=len(recorded.epochs), seconds=recorded.seconds, parameters=recorded.parameters, device="replay",
        threads=trial.threads, message=message, versions={REPLAY_VERSION: source},
    )  # fmt: skip
    best = 0.0
    for number, (epoch, floor) in enumerate(zip(recorded.epochs, trial.stop_below, strict=False), 1):
        best = max(best, epoch.validation.get(trial.metric, 0.0))
        if best < floor and number < len(recorded.epochs):
            seen = recorded.epochs[:number]
            top = max(seen, key=lambda epoch: epoch.validation.get(trial.metric, 0.0))
            update = {
                "status": "stopped", "validation": top.validation, "best_epoch": top.epoch, "epochs": number,
                "seconds": sum(epoch.seconds for epoch in seen),
            }  # fmt: skip
            return seen, result.model_copy(update=update)
    return recorded.epochs, result
