"""A trial by a trainer of the user's own: its command is run in a run directory, and its files checked. No torch."""

from __future__ import annotations

import json
import logging
import math
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

from trainers import registry
from trainers.data import TrainingData, find_by_hash, load_training
from trainers.held_out import HeldOut
from trainers.metrics import LIST, filter_rule, measures_of, metrics_of
from trainers.registry import ExternalTrainer
from trainers.spec import Epoch, Outcome, TrialResult, TrialSpec

log = logging.getLogger("trainers")

RANKS = "validation_ranks.safetensors"
LOG = "trial.log"
_MEASURED = ("ok", "timed_out", "cancelled", "stopped")
TRAINERS = "trainers"
"""The folder of registered trainers, beside that of the datasets."""
PREDICTIONS = 20
"""Items that a trainer predicts for each user."""
OBEY_SECONDS = 30.0
"""How long a trainer that was asked to end (SIGTERM) may take to leave its result."""
PREDICT_SECONDS = 600.0
_POLL_SECONDS = 0.1
_DISAGREE = 0.01
"""Share of users for whom ranks and predictions may differ: a machine may add in another order."""

Items = npt.NDArray[np.int64]


class Misbehaved(RuntimeError):
    """A trainer that does not keep the protocol; the message is one line that says how."""


class _Result(BaseModel):
    """result.json as a trainer writes it; metrics are computed from its ranks, whatever it says of them."""

    status: Literal["ok", "stopped", "diverged", "out_of_memory", "timed_out", "cancelled", "crashed"]
    message: str = ""
    best_epoch: int | None = None
    parameters: int | None = None


def run(
    directory: Path,
    trial: TrialSpec,
    datasets: Path,
    cancelled: Callable[[], bool] = lambda: False,
    deadline: float = inf,
) -> TrialResult:
    """Trains by the command registered as the trial's backbone; every fault of the trainer is a `crashed` result.

    After `deadline` (of `time.monotonic`) or once `cancelled` it gets a SIGTERM and a while to leave what it has.
    """
    started = time.perf_counter()
    version = trial.backbone
    try:
        trainer = registry.find(datasets.parent / TRAINERS, trial.backbone)
        version = trainer.version
        folder = find_by_hash(datasets, trial.dataset_hash).path
        data = load_training(folder)
        rule = filter_rule(trial.filter_seen, data.facts)
        told = trial.model_copy(update={"filter_seen": rule, "num_items": data.num_items})
        _give(directory, told, folder / "train.safetensors")
        ended_by = _command(trainer, directory, cancelled, deadline)
        epochs = _epochs(directory)
        found = _result(directory, ended_by)
        values: dict[str, Any] = {"message": found.message, "parameters": found.parameters, "epochs": len(epochs)}
        status: Outcome = ended_by or found.status
        if status in _MEASURED and (directory / RANKS).exists():
            ranks = _ranks(directory, data)
            save_file({"ranks": np.minimum(ranks, 255).astype(np.uint8)}, directory / RANKS)
            values |= {"validation": metrics_of(ranks), "best_epoch": found.best_epoch or (len(epochs) or None)}
            if status != "cancelled":
                values["measures"] = _verified(trainer, directory, told, data, ranks)
        elif status == "ok":
            raise Misbehaved(f"it left no {RANKS}")
    except (Misbehaved, ValueError, OSError) as error:
        log.error("%s", error)
        named = f"Trainer {trial.backbone}: " if isinstance(error, Misbehaved) else ""
        status, values = "crashed", {"message": named + " ".join(str(error).split())}
    return TrialResult(
        trial_id=trial.trial_id,
        status=status,
        seconds=time.perf_counter() - started,
        threads=trial.threads,
        trainer_version=version,
        versions={"python": platform.python_version()},
        **values,
    )


def ranks_of(checkpoint: Path, folder: Path, datasets: Path, wanted: HeldOut) -> Items:
    """Ranks (F,) of the `wanted` items by the trial whose checkpoint this is: V + 1 where it does not predict them.

    `folder` is made for the prediction, and removed. Raises Misbehaved.
    """
    trial = TrialSpec.model_validate_json((checkpoint.parent / "spec.json").read_bytes())
    trainer = registry.find(datasets.parent / TRAINERS, trial.backbone)
    train = find_by_hash(datasets, trial.dataset_hash).path / "train.safetensors"
    try:
        lists = _predictions(trainer, folder, trial, checkpoint, train, wanted)
    except Misbehaved as error:
        raise Misbehaved(f"Trainer {trial.backbone}: {error}") from None
    return _places(lists, wanted, trial.num_items or 0)


def _give(directory: Path, spec: TrialSpec, train: Path) -> None:
    """Tells the trainer what to do, and gives it a copy of the training split; the test stays out of sight."""
    (directory / "spec.json").write_text(spec.model_dump_json(indent=1), encoding="utf-8")
    shutil.copyfile(train, directory / "train.safetensors")


def _command(
    trainer: ExternalTrainer, directory: Path, cancelled: Callable[[], bool], deadline: float
) -> Literal["timed_out", "cancelled"] | None:
    """Runs the command to its end; what ended it early, if anything did. Raises Misbehaved."""
    ended_by: Literal["timed_out", "cancelled"] | None = None
    command = [*trainer.command, str(directory.absolute())]
    with (
        (directory / LOG).open("ab") as output,
        subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process,
    ):
        until = inf
        while process.poll() is None:
            now = time.monotonic()
            if ended_by is None and ((asked := cancelled()) or now >= deadline):
                ended_by = "cancelled" if asked else "timed_out"
                until = now + OBEY_SECONDS
                process.terminate()
            elif now >= until:
                process.kill()
                process.wait()
                raise Misbehaved(f"it did not end within {OBEY_SECONDS:g} s of a SIGTERM")
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
    if process.returncode and ended_by is None:
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        raise Misbehaved(f"its command ended with {how}: {_last_words(directory / LOG)}")
    return ended_by


def _last_words(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it said nothing")


def _result(directory: Path, ended_by: str | None) -> _Result:
    """What the trainer says of its end; its file is removed, since ours takes its place."""
    path = directory / "result.json"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if ended_by is not None:
            return _Result(status="cancelled")
        raise Misbehaved("it left no result.json") from None
    path.unlink()
    try:
        return _Result.model_validate(json.loads(text))
    except (ValidationError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise Misbehaved(f"its result.json is no result: {reason}") from None


def _epochs(directory: Path) -> list[Epoch]:
    """The lines of epochs.jsonl, which a trainer need not write."""
    found: list[Epoch] = []
    path = directory / "epochs.jsonl"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
        try:
            epoch = Epoch.model_validate_json(line)
        except ValidationError as error:
            raise Misbehaved(f"line {number} of its epochs.jsonl is no epoch: {error.errors()[0]['msg']}") from None
        if not all(map(math.isfinite, (epoch.loss, *epoch.validation.values()))):
            raise Misbehaved(f"line {number} of its epochs.jsonl holds a number that is not finite")
        found.append(epoch)
    return found


def _ranks(directory: Path, data: TrainingData) -> Items:
    """The ranks (F,) of the validation items, from 1."""
    (ranks,) = _arrays(directory / RANKS, "ranks")
    users = len(data.validation)
    if ranks.shape != (users,):
        raise Misbehaved(f"its ranks have shape {ranks.shape}, not ({users},): one for each validation item")
    if not np.issubdtype(ranks.dtype, np.integer):
        if not np.isfinite(ranks).all():
            raise Misbehaved("some of its ranks are not finite")
        raise Misbehaved(f"its ranks are {ranks.dtype}, not whole numbers")
    if ranks.min() < 1:
        raise Misbehaved(f"its smallest rank is {ranks.min()}; the best is 1")
    return ranks.astype(np.int64)


def _verified(
    trainer: ExternalTrainer, directory: Path, spec: TrialSpec, data: TrainingData, ranks: Items
) -> dict[str, float]:
    """What is measured of its predictions after the validation histories, which must agree with its ranks."""
    if not (directory / "checkpoint.safetensors").exists():
        raise Misbehaved("it left no checkpoint.safetensors, so it cannot be asked to predict")
    wanted = data.held_out()
    started = time.perf_counter()
    checkpoint, train = directory / "checkpoint.safetensors", directory / "train.safetensors"
    lists = _predictions(trainer, directory / "predict", spec, checkpoint, train, wanted)
    seconds = time.perf_counter() - started
    places = _places(lists, wanted, data.num_items)
    wrong = int(((ranks < places) & (np.minimum(ranks, places) <= PREDICTIONS)).sum())
    if wrong > _DISAGREE * len(ranks):
        raise Misbehaved(
            f"its ranks are better than its predictions for {wrong:,} of {len(ranks):,} users; are both in the order "
            "of the users in train.safetensors?"
        )
    events = np.bincount(data.items, minlength=data.num_items)
    return measures_of(lists[:, :LIST], events) | {"ms_per_1000_users": 1e6 * seconds / len(ranks)}


def _predictions(
    trainer: ExternalTrainer, folder: Path, spec: TrialSpec, checkpoint: Path, train: Path, wanted: HeldOut
) -> Items:
    """Items (F, 20) predicted after the histories of `wanted`, whose targets are not shown."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _give(folder, spec.model_copy(update={"task": "predict"}), train)
        shutil.copyfile(checkpoint, folder / "checkpoint.safetensors")
        save_file({"items": wanted.items, "offsets": wanted.offsets}, folder / "histories.safetensors")
        ended_by = _command(trainer, folder, lambda: False, time.monotonic() + PREDICT_SECONDS)
        if ended_by is not None:
            raise Misbehaved(f"asked to predict, it did not end within {PREDICT_SECONDS:g} s")
        (lists,) = _arrays(folder / "predictions.safetensors", "items")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _checked(lists, spec, wanted)


def _checked(lists: npt.NDArray[Any], spec: TrialSpec, wanted: HeldOut) -> Items:
    users, num_items = len(wanted.targets), spec.num_items or 0
    if lists.shape != (users, PREDICTIONS):
        raise Misbehaved(f"its predictions have shape {lists.shape}, not ({users}, {PREDICTIONS})")
    if not np.issubdtype(lists.dtype, np.integer):
        raise Misbehaved(
            f"its predictions are {lists.dtype}, not whole numbers: items by number, -1 where none is left"
        )
    lists = lists.astype(np.int64)
    if lists.min() < -1 or lists.max() >= num_items:
        raise Misbehaved(f"it predicts item {lists.min() if lists.min() < -1 else lists.max()} of {num_items}")
    ordered = np.sort(lists, 1)
    if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()):
        raise Misbehaved("it predicts an item twice for the same user")
    if spec.filter_seen == "yes":
        rows = np.repeat(np.arange(users), np.diff(wanted.offsets))
        seen = np.unique(rows * num_items + wanted.items)
        codes = np.arange(users)[:, None] * num_items + lists
        if bool((np.isin(codes, seen) & (lists >= 0)).any()):
            raise Misbehaved('it predicts items of the history, and spec.json says filter_seen "yes"')
    return lists


def _places(lists: Items, wanted: HeldOut, num_items: int) -> Items:
    """Where in its list (F, 20) each target stands, from 1; V + 1 where it does not."""
    found = lists == wanted.targets[:, None]
    return np.where(found.any(1), found.argmax(1) + 1, num_items + 1)


def _arrays(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    try:
        arrays = load_file(path)
        return [arrays[name] for name in names]
    except FileNotFoundError:
        raise Misbehaved(f"it left no {path.name}") from None
    except KeyError as error:
        raise Misbehaved(f"its {path.name} holds no {error}") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise Misbehaved(f"its {path.name} cannot be read: {' '.join(str(error).split())[:200]}") from None
