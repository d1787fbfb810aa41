"""Runs a trial with a user's own trainer, from its spec to its checked result. No torch."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

from trainers.contract.metrics import filter_rule, metrics_of
from trainers.contract.wire import (
    RANKS_FILE,
    RESULT_FILE,
    Outcome,
    TrialResult,
    TrialSpec,
)
from trainers.data import find_by_hash, load_training
from trainers.external import registry
from trainers.external.command import EndedBy, Misbehaved, run_command, write_request
from trainers.external.files import best_epoch, clear, read_epochs, read_ranks, read_result
from trainers.external.predictions import verified_measures
from trainers.external.registry import TRAINERS

log = logging.getLogger("trainers")

_MEASURED = ("ok", "timed_out", "cancelled", "stopped")


def run_external_trial(
    directory: Path,
    trial: TrialSpec,
    datasets: Path,
    cancelled: Callable[[], bool] = lambda: False,
    deadline: float = inf,
) -> TrialResult:
    """Trains with the command registered as the trial's backbone; any fault of the trainer is a `crashed` result.

    After `deadline` (of `time.monotonic`) or once `cancelled`, it gets a SIGTERM and time to write what it has.
    """
    started = time.perf_counter()
    version = trial.backbone
    ended_by: EndedBy | None = None
    values: dict[str, Any] = {}

    def result(status: Outcome) -> TrialResult:
        return TrialResult(
            trial_id=trial.trial_id,
            status=status,
            seconds=time.perf_counter() - started,
            threads=trial.threads,
            trainer_version=version,
            versions={"python": platform.python_version()},
            **values,
        )

    try:
        trainer = registry.find(datasets.parent / TRAINERS, trial.backbone)
        version = trainer.version
        folder = find_by_hash(datasets, trial.dataset_hash).path
        data = load_training(folder, trial.training_hash)
        rule = filter_rule(trial.filter_seen, data.facts)
        trainer_spec = trial.model_copy(update={"filter_seen": rule, "num_items": data.num_items})
        write_request(directory, trainer_spec, folder / "train.safetensors")
        ended_by = run_command(trainer, directory, cancelled, deadline)
        epochs = read_epochs(directory)
        reported = read_result(directory, ended_by, stops=bool(trial.stop_below))
        values = {"message": reported.message, "parameters": reported.parameters, "epochs": len(epochs)}
        status: Outcome = ended_by or reported.status
        if status in _MEASURED and (directory / RANKS_FILE).exists():
            ranks = read_ranks(directory, data)
            clear(directory / RANKS_FILE)
            save_file({"ranks": np.minimum(ranks, 255).astype(np.uint8)}, directory / RANKS_FILE)
            values |= {"validation": metrics_of(ranks), "best_epoch": best_epoch(reported, epochs)}
            if status != "cancelled":
                values["measures"] = verified_measures(trainer, directory, trainer_spec, data, ranks, cancelled)
        elif status == "ok":
            raise Misbehaved(f"it left no {RANKS_FILE}")
        return result(status)
    except (Misbehaved, ValueError, OSError, MemoryError) as error:
        log.error("%s", " ".join(str(error).split()))
        with suppress(Misbehaved):
            clear(directory / RESULT_FILE)
        if ended_by == "cancelled" or cancelled():
            values.pop("measures", None)
            return result("cancelled")
        prefix = f"Trainer {trial.backbone}: " if isinstance(error, Misbehaved) else ""
        values = {"message": prefix + _line_of(error)}
        return result("crashed")


def _line_of(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{error.title} {'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(str(error).split())[:500] or type(error).__name__
