"""What the owner writes into a run directory, and what it reads back from it."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

from server.executors.base import ATTEMPT_FILE, ExecutorError, write_whole
from server.stopping import words
from trainers.spec import RESULT_FILES, RESUME_FILE, Epoch, EvaluationSpec, Revealed, TrialResult, TrialSpec

_EPOCHS = "epochs.jsonl"
_CHECKPOINT = "checkpoint.safetensors"
_RANKS = "validation_ranks.safetensors"
LOG_SHOWN = 65_536
_OF_AN_ATTEMPT = (ATTEMPT_FILE, _EPOCHS, RESULT_FILES["run"], _CHECKPOINT, _RANKS)


class Process(BaseModel):
    """attempt.json: pid and creation time, which together name a process for good."""

    model_config = ConfigDict(frozen=True)

    pid: int
    create_time: float


class Tail(NamedTuple):
    """Epochs that were read, and the offset in epochs.jsonl to go on from."""

    epochs: tuple[Epoch, ...]
    offset: int


def read_ranks(directory: Path) -> npt.NDArray[np.uint8] | None:
    """The validation rank of every user, clipped at 255; None where the run left none that can be read."""
    try:
        return load_file(directory / _RANKS)["ranks"]
    except (OSError, KeyError, SafetensorError):
        return None


def check_room(trials: Path, least_gb: float) -> None:
    """Raises ExecutorError where less than `least_gb` is free on the disk of the run directories."""
    try:
        free = shutil.disk_usage(trials).free / 2**30
    except OSError:
        return
    if free < least_gb:
        raise ExecutorError(
            f"Only {free:.2f} GB are free at {trials}, and no training starts below {least_gb:g} GB (least_free_gb in "
            "virtualmle.yaml): make room, then call again; nothing was lost."
        )


def prepare(directory: Path, spec: TrialSpec) -> None:
    """Makes the run directory ready for a new attempt: an earlier one leaves its log and its state. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in _OF_AN_ATTEMPT:
        (directory / name).unlink(missing_ok=True)
    write_spec(directory, spec)


def write_spec(directory: Path, spec: TrialSpec) -> None:
    """Tells the child what to do. Raises OSError."""
    write_whole(directory / "spec.json", spec.model_dump_json(indent=1))


def read_process(directory: Path) -> Process | None:
    """The process that works or worked on the directory, once it is known."""
    try:
        return Process.model_validate_json((directory / ATTEMPT_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def read_epochs(directory: Path, offset: int = 0) -> Tail:
    """The whole lines of epochs.jsonl from `offset` on; what is half written is left for the next time."""
    try:
        with (directory / _EPOCHS).open("rb") as file:
            file.seek(offset)
            text = file.read()
    except OSError:
        return Tail((), offset)
    whole, newline, _rest = text.rpartition(b"\n")
    found: list[Epoch] = []
    for line in whole.splitlines():
        try:
            found.append(Epoch.model_validate_json(line))
        except ValidationError:
            continue
    return Tail(tuple(found), offset + len(whole) + len(newline))


def read_result(directory: Path, trial_id: str) -> TrialResult | None:
    """How the trial ended by its own account. A result that cannot be believed is a crash."""
    try:
        text = (directory / RESULT_FILES["run"]).read_bytes()
    except OSError:
        return None
    try:
        result = TrialResult.model_validate_json(text)
    except ValidationError as error:
        return _unbelievable(trial_id, str(error.errors()[0]["msg"]))
    if result.trial_id != trial_id:
        return _unbelievable(trial_id, f"it is of trial {result.trial_id!r}")
    broken = {name: value for name, value in result.validation.items() if not math.isfinite(value)}
    if broken:
        return _unbelievable(trial_id, f"validation is not finite, got {broken!r}")
    if result.status == "stopped" and not result.message:
        return result.model_copy(update={"message": _why_stopped(directory, result)})
    return result


def _why_stopped(directory: Path, result: TrialResult) -> str:
    try:
        spec = TrialSpec.model_validate_json((directory / "spec.json").read_bytes())
    except (OSError, ValidationError):
        return f"stopped early at epoch {result.epochs}"
    return words(spec, result)


def prepare_evaluation(directory: Path, asked: EvaluationSpec) -> None:
    """Makes the directory of an evaluation ready; an earlier answer is gone. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / RESULT_FILES["evaluate"]).unlink(missing_ok=True)
    write_whole(directory / "evaluate.json", asked.model_dump_json(indent=1))


def read_revealed(directory: Path) -> Revealed:
    """What the evaluation found; one that cannot be read has failed."""
    try:
        return Revealed.model_validate_json((directory / RESULT_FILES["evaluate"]).read_bytes())
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        return Revealed(status="failed", message=f"revealed.json cannot be read: {reason}")


def sweep(trials: Path) -> None:
    """Removes what an export or a recommendation of an owner that was killed has left beside the trials."""
    for task in ("export", "recommend"):
        for folder in trials.glob(f"{task}-*"):
            shutil.rmtree(folder, ignore_errors=True)


def kept_states(trials: Path) -> list[Path]:
    """The run directories in which a training left its state."""
    return [path.parent for path in trials.glob(f"*/{RESUME_FILE}")]


def forget_state(directory: Path) -> None:
    """Removes what another attempt would go on from: there will be none."""
    with suppress(OSError):
        (directory / RESUME_FILE).unlink(missing_ok=True)


def remove_checkpoint(directory: Path) -> None:
    """Removes the weights; ranks, curve and result stay. Raises OSError."""
    (directory / _CHECKPOINT).unlink(missing_ok=True)


def log_end(directory: Path) -> str:
    """The last 64 kB of trial.log; empty where nothing was written."""
    try:
        with (directory / "trial.log").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_SHOWN))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def has_checkpoint(directory: Path) -> bool:
    """Whether there are weights that metrics could be of."""
    return (directory / _CHECKPOINT).exists()


def _unbelievable(trial_id: str, reason: str) -> TrialResult:
    return TrialResult(
        trial_id=trial_id, status="crashed", message=f"The trainer's result.json is no result: {reason}."
    )
