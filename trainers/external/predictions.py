"""Asks a user's own trainer for predictions, checks them and finds the targets in them. No torch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

from trainers.contract.metrics import LIST_LENGTH, measures_of
from trainers.contract.regular_files import read_regular
from trainers.contract.wire import (
    CHECKPOINT_FILE,
    SPEC_FILE,
    TrialSpec,
)
from trainers.data import TrainingData, find_by_hash
from trainers.data.held_out import HeldOut
from trainers.external import registry
from trainers.external.command import Misbehaved, copy_regular, run_command, write_request
from trainers.external.files import clear, read_arrays
from trainers.external.registry import TRAINERS, ExternalTrainer

PREDICTIONS = 20
"""Number of items that a trainer predicts for each user."""
PREDICT_SECONDS = 600.0
_DISAGREE = 0.01
"""Share of users for whom ranks and predictions may disagree, because sums may be added in another order."""

Items = npt.NDArray[np.int64]


def ranks_of(checkpoint: Path, folder: Path, datasets: Path, held_out: HeldOut) -> Items:
    """Ranks (F,) of the held-out targets by the trainer of this checkpoint: V + 1 for those it does not predict.

    `folder` is created for the prediction and removed again. Raises Misbehaved.
    """
    try:
        trial = TrialSpec.model_validate_json(read_regular(checkpoint.parent / SPEC_FILE))
    except (OSError, ValidationError):
        raise Misbehaved(f"The spec.json of {checkpoint.parent.name} cannot be read.") from None
    trainer = registry.find(datasets.parent / TRAINERS, trial.backbone)
    dataset = find_by_hash(datasets, trial.dataset_hash)
    trial = trial.model_copy(update={"num_items": dataset.facts.items})
    try:
        lists = predict(trainer, folder, trial, checkpoint, dataset.path / "train.safetensors", held_out)
    except (Misbehaved, OSError) as error:
        raise Misbehaved(f"Trainer {trial.backbone}: {' '.join(str(error).split())}") from None
    return _places(lists, held_out, dataset.facts.items)


def verified_measures(
    trainer: ExternalTrainer,
    directory: Path,
    spec: TrialSpec,
    data: TrainingData,
    ranks: Items,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Measures of predictions after the validation histories. Raises Misbehaved if they contradict `ranks` (F,)."""
    held_out = data.held_out()
    started = time.perf_counter()
    checkpoint, train = directory / CHECKPOINT_FILE, directory / "train.safetensors"
    lists = predict(trainer, directory / "predict", spec, checkpoint, train, held_out, cancelled)
    seconds = time.perf_counter() - started
    places = _places(lists, held_out, data.num_items)
    wrong = int(((ranks < places) & (np.minimum(ranks, places) <= PREDICTIONS)).sum())
    if wrong > _DISAGREE * len(ranks):
        raise Misbehaved(
            f"its ranks are better than its predictions for {wrong:,} of {len(ranks):,} users; are both in the order "
            "of the users in train.safetensors?"
        )
    events = np.bincount(data.items, minlength=data.num_items)
    return measures_of(lists[:, :LIST_LENGTH], events) | {"ms_per_1000_users": 1e6 * seconds / len(ranks)}


def predict(
    trainer: ExternalTrainer,
    folder: Path,
    spec: TrialSpec,
    checkpoint: Path,
    train: Path,
    held_out: HeldOut,
    cancelled: Callable[[], bool] = lambda: False,
) -> Items:
    """Items (F, 20) that the trainer predicts after the histories of `held_out`; it does not see the targets."""
    if not checkpoint.exists():
        raise Misbehaved("it left no checkpoint.safetensors, so it cannot be asked to predict")
    clear(folder)
    folder.mkdir(parents=True)
    try:
        write_request(folder, spec.model_copy(update={"task": "predict"}), train)
        try:
            copy_regular(checkpoint, folder / CHECKPOINT_FILE)
        except OSError as error:
            raise Misbehaved(f"its {CHECKPOINT_FILE} cannot be copied: {error.strerror or error}") from None
        save_file({"items": held_out.items, "offsets": held_out.offsets}, folder / "histories.safetensors")
        ended_by = run_command(trainer, folder, cancelled, time.monotonic() + PREDICT_SECONDS)
        if ended_by == "timed_out":
            raise Misbehaved(f"asked to predict, it did not end within {PREDICT_SECONDS:g} s")
        if ended_by == "cancelled":
            raise Misbehaved("it was cancelled while it predicted")
        (lists,) = read_arrays(folder / "predictions.safetensors", "items")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _check_lists(lists, spec, held_out)


def _check_lists(lists: npt.NDArray[Any], spec: TrialSpec, held_out: HeldOut) -> Items:
    users, num_items = len(held_out.targets), spec.num_items or 0
    if lists.shape != (users, PREDICTIONS):
        raise Misbehaved(f"its predictions have shape {lists.shape}, not ({users}, {PREDICTIONS})")
    if not np.issubdtype(lists.dtype, np.integer):
        raise Misbehaved(
            f"its predictions are {lists.dtype}, not whole numbers: items by number, -1 where none is left"
        )
    if lists.min() < -1 or lists.max() >= num_items:
        raise Misbehaved(f"it predicts item {lists.min() if lists.min() < -1 else lists.max()} of {num_items}")
    lists = lists.astype(np.int64)
    ordered = np.sort(lists, 1)
    if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()):
        raise Misbehaved("it predicts an item twice for the same user")
    if spec.filter_seen == "yes":
        rows = np.repeat(np.arange(users), np.diff(held_out.offsets))
        seen = np.unique(rows * num_items + held_out.items)
        codes = np.arange(users)[:, None] * num_items + lists
        if bool((np.isin(codes, seen) & (lists >= 0)).any()):
            raise Misbehaved('it predicts items of the history, and spec.json says filter_seen "yes"')
    return lists


def _places(lists: Items, held_out: HeldOut, num_items: int) -> Items:
    """The place (F,) of each target in its list of `lists` (F, 20), from 1; V + 1 if it is not there."""
    is_target = lists == held_out.targets[:, None]
    return np.where(is_target.any(1), is_target.argmax(1) + 1, num_items + 1)
