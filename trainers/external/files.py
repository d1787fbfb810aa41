"""Reads and checks the files that a user's own trainer leaves, which may be anything. No torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load  # pyright: ignore[reportUnknownVariableType]

from trainers.contract.metrics import METRICS
from trainers.contract.regular_files import MOST_ARRAYS, read_regular, remove
from trainers.contract.wire import (
    EPOCHS_FILE,
    MOST_EPOCHS,
    RANKS_FILE,
    RESULT_FILE,
    Epoch,
)
from trainers.data import TrainingData
from trainers.external.command import EndedBy, Misbehaved

_MESSAGE_CHARACTERS = 500

Items = npt.NDArray[np.int64]


class ReportedResult(BaseModel):
    """result.json as a trainer writes it; metrics in it are ignored and computed from its ranks."""

    status: Literal["ok", "stopped", "diverged", "out_of_memory", "timed_out", "cancelled", "crashed"]
    message: str = ""
    best_epoch: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] | None = None
    parameters: Annotated[int, Field(ge=0, lt=2**63)] | None = None


def read_result(directory: Path, ended_by: EndedBy | None, stops: bool = True) -> ReportedResult:
    """The result that the trainer reports. Raises Misbehaved.

    Its file is removed, because ours takes its place. `ended_by` says what ended it early, and `stops` whether its spec
    has a `stop_below`: without them it cannot report that it was ended or stopped.
    """
    path = directory / RESULT_FILE
    try:
        text = _read(path)
    except FileNotFoundError:
        if ended_by is not None:
            return ReportedResult(status="cancelled")
        raise Misbehaved("it left no result.json") from None
    finally:
        clear(path)
    try:
        result = ReportedResult.model_validate_json(text)
    except ValidationError as error:
        raise Misbehaved(f"its result.json is no result: {_reason(error)}") from None
    if ended_by is None and (result.status in get_args(EndedBy) or (result.status == "stopped" and not stops)):
        why = "its spec.json has no stop_below" if result.status == "stopped" else "nothing asked it to end"
        raise Misbehaved(f"its result.json has the status {result.status!r}, and {why}")
    return result.model_copy(update={"message": " ".join(result.message.split())[:_MESSAGE_CHARACTERS]})


def read_epochs(directory: Path) -> list[Epoch]:
    """The lines of epochs.jsonl, which a trainer need not write. Raises Misbehaved."""
    try:
        lines = _read(directory / EPOCHS_FILE).splitlines()
    except FileNotFoundError:
        return []
    epochs: list[Epoch] = []
    for number, line in enumerate(lines, 1):
        try:
            epoch = Epoch.model_validate_json(line)
        except ValidationError as error:
            raise Misbehaved(f"line {number} of its epochs.jsonl is no epoch: {_reason(error)}") from None
        if fault := _fault_of(epoch, epochs[-1].epoch if epochs else 0):
            raise Misbehaved(f"line {number} of its epochs.jsonl holds {fault}")
        epochs.append(epoch)
    return epochs


def _fault_of(epoch: Epoch, last: int) -> str | None:
    """What is not allowed in an epoch that comes after the one with the number `last`."""
    if not all(map(math.isfinite, (epoch.loss, epoch.seconds, epoch.eval_seconds, *epoch.validation.values()))):
        return "a number that is not finite"
    if not last < epoch.epoch <= MOST_EPOCHS:
        return f"epoch {epoch.epoch}; the numbers of epochs increase, from 1 to {MOST_EPOCHS}"
    if unknown := set(epoch.validation) - set(METRICS):
        return f"the metric {min(unknown)[:50]!r}; there are {', '.join(METRICS)}"
    if wrong := [value for value in epoch.validation.values() if not 0 <= value <= 1]:
        return f"a metric of {wrong[0]!r}; metrics are from 0 to 1"
    if epoch.seconds < 0 or epoch.eval_seconds < 0:
        return f"{min(epoch.seconds, epoch.eval_seconds)!r} seconds; they are 0 or more"
    return None


def best_epoch(reported: ReportedResult, epochs: list[Epoch]) -> int | None:
    """The best epoch that it reports, or its last. Raises Misbehaved where its epochs.jsonl has no such epoch."""
    if reported.best_epoch is None:
        return epochs[-1].epoch if epochs else None
    if epochs and reported.best_epoch not in {epoch.epoch for epoch in epochs}:
        raise Misbehaved(
            f"its result.json has best_epoch {reported.best_epoch}, and its epochs.jsonl has no such epoch: the last "
            f"is {epochs[-1].epoch}"
        )
    return reported.best_epoch


def read_ranks(directory: Path, data: TrainingData) -> Items:
    """The trainer's ranks (F,) of the validation items, from 1 to V + 1. Raises Misbehaved."""
    (ranks,) = read_arrays(directory / RANKS_FILE, "ranks")
    users = len(data.validation)
    if ranks.shape != (users,):
        raise Misbehaved(f"its ranks have shape {ranks.shape}, not ({users},): one for each validation item")
    if not np.issubdtype(ranks.dtype, np.integer):
        if not np.isfinite(ranks).all():
            raise Misbehaved("some of its ranks are not finite")
        raise Misbehaved(f"its ranks are {ranks.dtype}, not whole numbers")
    if ranks.min() < 1:
        raise Misbehaved(f"its smallest rank is {ranks.min()}; the best is 1")
    if ranks.max() > data.num_items + 1:
        raise Misbehaved(
            f"its largest rank is {ranks.max()}; of {data.num_items} items the last is {data.num_items}, and "
            f"{data.num_items + 1} is for an item that is not ranked"
        )
    return ranks.astype(np.int64)


def read_arrays(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """The arrays called `names` in a safetensors file of a trainer. Raises Misbehaved."""
    try:
        arrays = load(_read(path, MOST_ARRAYS))
    except FileNotFoundError:
        raise Misbehaved(f"it left no {path.name}") from None
    except KeyError as error:
        raise Misbehaved(f"its {path.name} cannot be read: numpy has no type {error}") from None
    except (SafetensorError, ValueError, TypeError, MemoryError) as error:
        raise Misbehaved(f"its {path.name} cannot be read: {_line(error)}") from None
    if missing := [name for name in names if name not in arrays]:
        raise Misbehaved(f"its {path.name} holds no {missing[0]!r}")
    return [arrays[name] for name in names]


def clear(path: Path) -> None:
    """Removes whatever a trainer left at `path`, so that a file of ours can take its place. Raises Misbehaved."""
    try:
        remove(path)
    except OSError as error:
        raise Misbehaved(f"what it left at {path.name} cannot be removed: {error.strerror or error}") from None


def _read(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file. Raises FileNotFoundError where there is none, else Misbehaved."""
    try:
        return read_regular(path) if most is None else read_regular(path, most)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = "it is a link" if path.is_symlink() else error.strerror or str(error)
        raise Misbehaved(f"its {path.name} cannot be read: {reason}") from None


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))[:50]
    return f"{where}: {first['msg']}" if where else _line(first["msg"])


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
