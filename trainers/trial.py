"""One trial in its run directory: spec.json in, files out, and every failure a status in result.json."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from math import inf
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors.numpy import save_file

from trainers import checkpoint
from trainers import device as devices
from trainers.data import find_by_hash, load_training
from trainers.evaluate import Diverged
from trainers.spec import Epoch, Outcome, TrialResult, TrialSpec
from trainers.train import TrainState, train

log = logging.getLogger("trainers")


def run(directory: Path, datasets: Path, cancelled: Callable[[], bool] = lambda: False, deadline: float = inf) -> None:
    """Trains the run directory `directory`; result.json comes last, so whoever finds it finds all the rest.

    A trial that timed out or was cancelled reports its best epoch, with checkpoint and ranks. One that diverged, ran
    out of memory or crashed is a failed result: no metrics and no checkpoint; epochs.jsonl shows how far it came.
    Raises only where there is no trial to report on: spec.json cannot be read, or the directory cannot be written.
    """
    trial = TrialSpec.model_validate_json((directory / "spec.json").read_bytes())
    torch.set_num_threads(trial.threads)
    history: list[Epoch] = []
    # an attempt starts afresh: the epochs of one that was interrupted are not its own
    with (directory / "epochs.jsonl").open("w", encoding="utf-8") as lines:

        def on_epoch(epoch: Epoch) -> None:
            history.append(epoch)
            lines.write(epoch.model_dump_json() + "\n")
            lines.flush()
            score = epoch.validation[trial.metric]
            log.info("epoch %d: loss %.4f, %s %.4f", epoch.epoch, epoch.loss, trial.metric, score)

        try:
            result = _trained(directory, trial, datasets, on_epoch, cancelled, deadline)
        except Exception as error:
            log.exception("trial %s failed", trial.trial_id)
            result = _result(trial, _status_of(error), history, message=line_of(error))
    log.info("%s %s", result.status, result.message)
    write(directory / "result.json", result)


def write(path: Path, record: BaseModel) -> None:
    """Writes `record` as JSON by rename: there is a whole file under this name, or none."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def line_of(error: Exception) -> str:
    """`error` as one line; the traceback is for the log."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = "".join(f" {part}" for part in first["loc"])
        return f"{error.title}{where}: {first['msg'].removeprefix('Value error, ')}"
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, Diverged) else f"{type(error).__name__}: {text}".removesuffix(": ")


def _trained(
    directory: Path,
    trial: TrialSpec,
    datasets: Path,
    on_epoch: Callable[[Epoch], None],
    cancelled: Callable[[], bool],
    deadline: float,
) -> TrialResult:
    data = load_training(find_by_hash(datasets, trial.dataset_hash).path)
    outcome, state = train(trial, data, on_epoch, cancelled, deadline)
    if state.best is not None:
        checkpoint.save(directory / "checkpoint.safetensors", trial, state.model, data.num_items)
        clipped = np.minimum(state.best.ranks, 255).astype(np.uint8)
        temporary = directory / "validation_ranks.tmp"
        save_file({"ranks": clipped}, temporary)
        temporary.replace(directory / "validation_ranks.safetensors")
    return _result(trial, outcome, state.history, state)


def _result(
    trial: TrialSpec, status: Outcome, history: list[Epoch], state: TrainState | None = None, message: str = ""
) -> TrialResult:
    device = devices.pick()
    best = state.best if state else None
    return TrialResult(
        trial_id=trial.trial_id,
        status=status,
        message=message,
        validation=best.validation if best else {},
        best_epoch=best.epoch if best else None,
        epochs=len(history),
        seconds=sum(epoch.seconds for epoch in history),
        eval_seconds=sum(epoch.eval_seconds for epoch in history),
        peak_memory_mb=devices.peak_memory_mb(device),
        parameters=sum(weights.numel() for weights in state.model.parameters()) if state else None,
        device=devices.describe(device),
        threads=trial.threads,
        versions={"python": platform.python_version(), "torch": torch.__version__},
    )


def _status_of(error: Exception) -> Outcome:
    if isinstance(error, Diverged):
        return "diverged"
    return "out_of_memory" if devices.is_out_of_memory(error) else "crashed"
