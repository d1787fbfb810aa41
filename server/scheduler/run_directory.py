"""What the owner writes into a run directory, and what it reads back from it."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load  # pyright: ignore[reportUnknownVariableType]

from server.executors.base import ExecutorError, write_whole
from server.study.early_stop import STOPPED, stop_message
from trainers.contract.regular_files import MOST_ARRAYS, MOST_TEXT, is_regular, open_regular, read_regular, remove
from trainers.contract.wire import (
    ATTEMPT_FILE,
    CHECKPOINT_FILE,
    EPOCHS_FILE,
    LOG_FILE,
    RANKS_FILE,
    REQUEST_FILES,
    RESULT_FILE,
    RESULT_FILES,
    RESUME_FILE,
    SPEC_FILE,
    TEST_RANKS_FILE,
    UNRECOVERED_FILE,
    Epoch,
    EvaluationSpec,
    Revealed,
    TrialResult,
    TrialSpec,
)

LOG_SHOWN = 65_536
_ATTEMPT_FILES = (ATTEMPT_FILE, EPOCHS_FILE, RESULT_FILE, CHECKPOINT_FILE, RANKS_FILE)
_KEPT_FILES = (SPEC_FILE, LOG_FILE, RESUME_FILE)
"""Files that stay for the next attempt, if they are regular."""


class Process(BaseModel):
    """attempt.json: pid and creation time, which together identify a process for good."""

    model_config = ConfigDict(frozen=True)

    pid: Annotated[int, Field(ge=1, lt=2**31)]
    create_time: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Tail(NamedTuple):
    """Epochs that were read, and the offset in epochs.jsonl at which to continue."""

    epochs: tuple[Epoch, ...]
    offset: int


def read_ranks(directory: Path) -> npt.NDArray[np.uint8] | None:
    """The validation rank of every user, clipped at 255; None if the run left no readable ranks."""
    try:
        ranks = load(read_regular(directory / RANKS_FILE, MOST_ARRAYS))["ranks"]
    except (OSError, KeyError, ValueError, SafetensorError):
        return None
    return ranks if ranks.ndim == 1 and ranks.dtype == np.uint8 else None


def check_room(trials: Path, least_gb: float) -> None:
    """Raises ExecutorError if less than `least_gb` is free on the disk of the run directories."""
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
    """Prepares the run directory for a new attempt, keeping an earlier attempt's log and state. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in (*_ATTEMPT_FILES, *_KEPT_FILES):
        if name in _ATTEMPT_FILES or not is_regular(directory / name):
            remove(directory / name)
    write_spec(directory, spec)


def write_spec(directory: Path, spec: TrialSpec) -> None:
    """Writes spec.json, which tells the child what to do. Raises OSError."""
    write_whole(directory / SPEC_FILE, spec.model_dump_json(indent=1))


def read_process(directory: Path) -> Process | None:
    """The process that works or worked on the directory; None until it is known."""
    try:
        return Process.model_validate_json(read_regular(directory / ATTEMPT_FILE))
    except (OSError, ValidationError):
        return None


def read_epochs(directory: Path, offset: int = 0) -> Tail:
    """The complete lines of epochs.jsonl from `offset`; a half-written line is left for the next read.

    Lines that are no epochs are passed over, as is a line longer than MOST_TEXT bytes.
    """
    try:
        with open_regular(directory / EPOCHS_FILE) as file:
            file.seek(offset)
            text = file.read(MOST_TEXT)
    except OSError:
        return Tail((), offset)
    whole, newline, _rest = text.rpartition(b"\n")
    if not newline and len(text) == MOST_TEXT:
        return Tail((), offset + len(text))
    epochs: list[Epoch] = []
    for line in whole.splitlines():
        try:
            epochs.append(Epoch.model_validate_json(line))
        except ValidationError:
            continue
    return Tail(tuple(epochs), offset + len(whole) + len(newline))


def increasing(epochs: Sequence[Epoch], last: int = 0) -> tuple[Epoch, ...]:
    """The epochs that each have a higher number than all before them, and than `last`."""
    kept: list[Epoch] = []
    for epoch in epochs:
        if epoch.epoch > last:
            kept.append(epoch)
            last = epoch.epoch
    return tuple(kept)


def mark_unrecovered(directory: Path, reason: str) -> None:
    """Leaves the reason where `doctor` finds it."""
    with suppress(OSError):
        write_whole(directory / UNRECOVERED_FILE, reason)


def unrecovered(trials: Path) -> dict[str, str]:
    """By trial id, why an owner could not store what the trial had left."""
    reasons: dict[str, str] = {}
    for path in sorted(trials.glob(f"*/{UNRECOVERED_FILE}")):
        with suppress(OSError):
            reasons[path.parent.name] = read_regular(path).decode("utf-8", errors="replace")
    return reasons


def read_result(directory: Path, trial_id: str) -> TrialResult | None:
    """The result that the trial wrote; None if there is none. An invalid result counts as a crash."""
    try:
        text = read_regular(directory / RESULT_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _invalid_result(trial_id, error.strerror or str(error))
    try:
        result = TrialResult.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        return _invalid_result(trial_id, f"{where}: {problem['msg']}" if where else problem["msg"])
    if result.trial_id != trial_id:
        return _invalid_result(trial_id, f"it is of trial {result.trial_id!r}")
    broken = {name: value for name, value in result.validation.items() if not math.isfinite(value)}
    if broken:
        return _invalid_result(trial_id, f"validation is not finite, got {broken!r}")
    if result.status == "stopped" and STOPPED not in result.message:
        message = "; ".join(filter(None, (result.message, _why_stopped(directory, result))))
        return result.model_copy(update={"message": message})
    return result


def _why_stopped(directory: Path, result: TrialResult) -> str:
    try:
        spec = TrialSpec.model_validate_json(read_regular(directory / SPEC_FILE))
    except (OSError, ValidationError):
        return f"{STOPPED} at epoch {result.epochs}"
    return stop_message(spec, result)


def prepare_evaluation(directory: Path, request: EvaluationSpec) -> None:
    """Prepares the directory of an evaluation and removes an earlier answer. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in (RESULT_FILES["evaluate"], TEST_RANKS_FILE):
        remove(directory / name)
    write_whole(directory / REQUEST_FILES["evaluate"], request.model_dump_json(indent=1))


def read_revealed(directory: Path) -> Revealed:
    """The answer of an evaluation; an unreadable answer counts as a failure."""
    try:
        return Revealed.model_validate_json(read_regular(directory / RESULT_FILES["evaluate"]))
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        return Revealed(status="failed", message=f"revealed.json cannot be read: {reason}")


def take_test_ranks(directory: Path, trial_ids: Sequence[str], users: int) -> dict[str, npt.NDArray[np.uint8]]:
    """The test rank of each of `users`, clipped at 255, by trial; empty if not all of them can be read.

    Removes the file: nothing else needs the ranks, and later studies must not find them.
    """
    path = directory / TEST_RANKS_FILE
    try:
        arrays = load(read_regular(path, MOST_ARRAYS))
        remove(path)
    except (OSError, ValueError, SafetensorError):
        return {}
    found = {name: arrays[name] for name in trial_ids if name in arrays}
    fits = all(ranks.shape == (users,) and ranks.dtype == np.uint8 and ranks.min() >= 1 for ranks in found.values())
    return found if fits and len(found) == len(set(trial_ids)) else {}


def sweep(trials: Path) -> None:
    """Removes what exports and recommendations of a killed owner have left beside the trials."""
    for task in ("export", "recommend"):
        for folder in trials.glob(f"{task}-*"):
            shutil.rmtree(folder, ignore_errors=True)


def kept_states(trials: Path) -> list[Path]:
    """The run directories in which a training left its state."""
    return [path.parent for path in trials.glob(f"*/{RESUME_FILE}")]


def forget_state(directory: Path) -> None:
    """Removes the resume state, since there will be no further attempt."""
    with suppress(OSError):
        remove(directory / RESUME_FILE)


def remove_checkpoints(trials_dir: Path, trial_ids: Sequence[str]) -> None:
    """Removes the weights of these trials where possible; ranks, curve and result stay."""
    folder = str(trials_dir)  # hundreds of names, most of them gone already: a Path for each would be slower
    for trial_id in trial_ids:
        with suppress(OSError):
            os.unlink(f"{folder}{os.sep}{trial_id}{os.sep}{CHECKPOINT_FILE}")  # noqa: PTH108


def log_end(directory: Path) -> str:
    """The last 64 kB of trial.log; empty where nothing was written."""
    try:
        with open_regular(directory / LOG_FILE) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_SHOWN))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def has_checkpoint(directory: Path) -> bool:
    """Whether the training has left its weights."""
    return is_regular(directory / CHECKPOINT_FILE)


def _invalid_result(trial_id: str, reason: str) -> TrialResult:
    return TrialResult(
        trial_id=trial_id, status="crashed", message=f"The trainer's result.json is no result: {reason}."
    )
