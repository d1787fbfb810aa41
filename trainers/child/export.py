"""Exports the model of a trial as files, and recommends with the checkpoint of a trial."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from trainers import predict
from trainers.child import onnx_encoder
from trainers.child.trial import line_of
from trainers.contract.fields import Spec
from trainers.contract.metrics import filter_rule
from trainers.contract.regular_files import read_regular
from trainers.contract.specs import SPECS
from trainers.contract.wire import (
    CHECKPOINT_FILE,
    REQUEST_FILES,
    SPEC_FILE,
    Exported,
    ExportSpec,
    Recommendations,
    RecommendedItem,
    RecommendSpec,
    TrialSpec,
)
from trainers.data import DataError, Dataset, TrainingData, find_by_hash, load_ids, load_training, load_whole
from trainers.data.store import ITEMS
from trainers.models import checkpoint
from trainers.models import device as devices
from trainers.models.backbones import Encoder
from trainers.ranking.scoring import Scoring
from trainers.training.train import begin, train_epoch

EMBEDDINGS = "item_embeddings.safetensors"
ONNX = "encoder.onnx"
_EXPORTED_FILES = (predict.MODEL, EMBEDDINGS, ONNX, f"{ONNX}.data", ITEMS)

log = logging.getLogger("trainers")


class TakeHomeError(RuntimeError):
    """A trial cannot be exported or cannot recommend; the message says why."""


def export(directory: Path, datasets: Path, cancelled: Callable[[], bool] = lambda: False) -> Exported:
    """Writes the model of export.json as files in `directory`; any failure is the status `failed` with one line."""
    request = ExportSpec.model_validate_json(read_regular(directory / REQUEST_FILES["export"]))
    torch.set_num_threads(request.threads)
    try:
        trial, folder = _read_trial(directory, request.trial_id)
        dataset = find_by_hash(datasets, trial.dataset_hash)
        shutil.copyfile(dataset.path / ITEMS, directory / ITEMS)
        if trial.backbone not in SPECS:
            shutil.copyfile(folder / CHECKPOINT_FILE, directory / CHECKPOINT_FILE)
            events = len(load_training(dataset.path).items)
            why = f"{trial.backbone} is a trainer of your own"
            return Exported(status="ok", files=(CHECKPOINT_FILE, ITEMS), interactions=events, no_onnx=why)
        return _export_model(directory, dataset, trial, folder, request, cancelled)
    except Exception as error:
        log.exception("export failed")
        return Exported(status="failed", message=_message_of(error))


def _export_model(
    directory: Path,
    dataset: Dataset,
    trial: TrialSpec,
    folder: Path,
    request: ExportSpec,
    cancelled: Callable[[], bool],
) -> Exported:
    data = load_training(dataset.path)
    if request.refit_epochs is None:
        spec, encoder = checkpoint.load(folder / CHECKPOINT_FILE, trial.dataset_hash, torch.device("cpu"))
    else:
        items, offsets = load_whole(dataset.path)
        data = replace(data, items=items, offsets=offsets, validation=items[offsets[1:] - 1], validated=None)
        trial = trial.model_copy(update={"memory_mb": request.memory_mb})
        spec, encoder = refit(trial, data, request.refit_epochs, cancelled)
    scoring = Scoring.of(spec, data, torch.device("cpu"))
    about = {"dataset_hash": trial.dataset_hash, "trial_id": trial.trial_id, "seed": str(trial.seed)}
    if request.refit_epochs is not None:
        about["refit_epochs"] = str(request.refit_epochs)
    recommender = predict.Recommender(spec, encoder.cpu().eval(), scoring, load_ids(dataset.path))
    predict.save(directory / predict.MODEL, recommender, about)
    table = encoder.output_table().detach().contiguous()
    save_file({"embeddings": table}, directory / EMBEDDINGS)
    difference, no_onnx = _export_onnx(encoder, spec, directory / ONNX)
    return Exported(
        status="ok",
        files=tuple(name for name in _EXPORTED_FILES if (directory / name).exists()),
        interactions=len(data.items),
        onnx_difference=difference,
        no_onnx=no_onnx,
    )


def _export_onnx(encoder: Encoder, spec: Spec, path: Path) -> tuple[float | None, str]:
    """The difference between torch and ONNX, or why there is no ONNX encoder; the export is complete without it."""
    if lacking := onnx_encoder.missing():
        return None, f"{' and '.join(lacking)} not installed; {onnx_encoder.INSTALL}, then export again"
    try:
        return onnx_encoder.export(encoder, spec.max_length, path), ""
    except (onnx_encoder.NotEqual, onnx_encoder.NotChecked) as error:
        log.exception("no ONNX encoder")
        return None, str(error)
    except Exception as error:
        log.exception("no ONNX encoder")
        return None, line_of(error)


def refit(
    trial: TrialSpec, everything: TrainingData, epochs: int, cancelled: Callable[[], bool] = lambda: False
) -> tuple[Spec, Encoder]:
    """Trains the configuration and seed of `trial` for `epochs` on `everything`. Raises TakeHomeError if cancelled."""
    spec = SPECS[trial.backbone].model_validate(trial.config)
    state, rows = begin(trial, spec, everything)
    for epoch in range(1, epochs + 1):
        loss = train_epoch(spec, state, rows, trial.seed, epoch, cancelled)
        if loss is None:
            raise TakeHomeError("The refit was cancelled.")
        log.info("refit, epoch %d of %d: loss %.4f", epoch, epochs, loss)
    return spec, state.model


def recommend(directory: Path, datasets: Path) -> Recommendations:
    """The recommendations that recommend.json asks for; any failure is the status `failed` with one line."""
    request = RecommendSpec.model_validate_json(read_regular(directory / REQUEST_FILES["recommend"]))
    try:
        trial, folder = _read_trial(directory, request.trial_id)
        if trial.backbone not in SPECS:
            raise TakeHomeError(f"{trial.backbone} is a trainer of your own: ask it for recommendations.")
        dataset = find_by_hash(datasets, trial.dataset_hash)
        data, device = load_training(dataset.path), devices.pick()
        spec, encoder = checkpoint.load(folder / CHECKPOINT_FILE, trial.dataset_hash, device)
        scoring = Scoring.of(spec, data, device)
        model = predict.Recommender(spec, encoder.eval(), scoring, load_ids(dataset.path))
        unknown = tuple(model.unknown(request.history))
        if len(unknown) == len(request.history):
            raise TakeHomeError(f"Dataset {dataset.name!r} has no item {', '.join(map(repr, unknown))}.")
        exclude = request.exclude_seen
        if exclude is None:
            exclude = filter_rule(trial.filter_seen, data.facts) != "no"
        (best,) = model.recommend([request.history], request.k, exclude)
    except Exception as error:
        log.exception("recommend failed")
        return Recommendations(status="failed", message=_message_of(error))
    items = tuple(RecommendedItem(item=recommended.item, score=recommended.score) for recommended in best)
    return Recommendations(status="ok", items=items, unknown=unknown)


def _read_trial(directory: Path, trial_id: str) -> tuple[TrialSpec, Path]:
    """The spec of a trial and its run directory beside `directory`. Raises TakeHomeError without a checkpoint."""
    folder = directory.parent / trial_id
    if not (folder / CHECKPOINT_FILE).exists():
        raise TakeHomeError(
            f"The checkpoint of trial {trial_id} is gone: a study of the same settings trains it again."
        )
    return TrialSpec.model_validate_json(read_regular(folder / SPEC_FILE)), folder


def _message_of(error: Exception) -> str:
    is_explained = isinstance(error, (TakeHomeError, DataError, predict.ModelError))
    return str(error) if is_explained else line_of(error)
