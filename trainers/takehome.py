"""What leaves the home: a tuned model as files, and recommendations by a trial's checkpoint."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from trainers import checkpoint, onnx_encoder, predict
from trainers import device as devices
from trainers.backbones import Encoder
from trainers.data import DataError, Dataset, TrainingData, find_by_hash, load_ids, load_training, load_whole
from trainers.data.store import ITEMS
from trainers.fields import Spec
from trainers.metrics import filter_rule
from trainers.scoring import Scoring
from trainers.spec import (
    SPECS,
    Exported,
    ExportSpec,
    Recommendations,
    RecommendedItem,
    RecommendSpec,
    TrialSpec,
)
from trainers.train import begin, train_epoch
from trainers.trial import line_of

CHECKPOINT = "checkpoint.safetensors"
EMBEDDINGS = "item_embeddings.safetensors"
ONNX = "encoder.onnx"
_OF_AN_EXPORT = (predict.MODEL, EMBEDDINGS, ONNX, f"{ONNX}.data", ITEMS)

log = logging.getLogger("trainers")


class TakeHomeError(RuntimeError):
    """There is nothing to take home; the message says why."""


def export(directory: Path, datasets: Path, cancelled: Callable[[], bool] = lambda: False) -> Exported:
    """Leaves the model of export.json as files in `directory`; any failure is the status `failed` with one line."""
    asked = ExportSpec.model_validate_json((directory / "export.json").read_bytes())
    torch.set_num_threads(asked.threads)
    try:
        trial, folder = _trial(directory, asked.trial_id)
        dataset = find_by_hash(datasets, trial.dataset_hash)
        shutil.copyfile(dataset.path / ITEMS, directory / ITEMS)
        if trial.backbone not in SPECS:
            shutil.copyfile(folder / CHECKPOINT, directory / CHECKPOINT)
            events = len(load_training(dataset.path).items)
            why = f"{trial.backbone} is a trainer of your own"
            return Exported(status="ok", files=(CHECKPOINT, ITEMS), interactions=events, no_onnx=why)
        return _exported(directory, dataset, trial, folder, asked, cancelled)
    except Exception as error:
        log.exception("export failed")
        return Exported(status="failed", message=_line(error))


def _exported(
    directory: Path,
    dataset: Dataset,
    trial: TrialSpec,
    folder: Path,
    asked: ExportSpec,
    cancelled: Callable[[], bool],
) -> Exported:
    data = load_training(dataset.path)
    if asked.refit_epochs is None:
        spec, encoder = checkpoint.load(folder / CHECKPOINT, trial.dataset_hash, torch.device("cpu"))
    else:
        items, offsets = load_whole(dataset.path)
        data = replace(data, items=items, offsets=offsets, validation=items[offsets[1:] - 1], validated=None)
        trial = trial.model_copy(update={"memory_mb": asked.memory_mb})
        spec, encoder = refit(trial, data, asked.refit_epochs, cancelled)
    scoring = Scoring.of(spec, data, torch.device("cpu"))
    about = {"dataset_hash": trial.dataset_hash, "trial_id": trial.trial_id, "seed": str(trial.seed)}
    if asked.refit_epochs is not None:
        about["refit_epochs"] = str(asked.refit_epochs)
    recommender = predict.Recommender(spec, encoder.cpu().eval(), scoring, load_ids(dataset.path))
    predict.save(directory / predict.MODEL, recommender, about)
    table = encoder.output_table().detach().contiguous()
    save_file({"embeddings": table}, directory / EMBEDDINGS)
    difference, no_onnx = _onnx(encoder, spec, directory / ONNX)
    return Exported(
        status="ok",
        files=tuple(name for name in _OF_AN_EXPORT if (directory / name).exists()),
        interactions=len(data.items),
        onnx_difference=difference,
        no_onnx=no_onnx,
    )


def _onnx(encoder: Encoder, spec: Spec, path: Path) -> tuple[float | None, str]:
    """The difference between torch and ONNX; or why there is no ONNX encoder: the rest is whole without it."""
    if lacking := onnx_encoder.missing():
        return None, f"{' and '.join(lacking)} not installed; {onnx_encoder.INSTALL}, then export again"
    try:
        return onnx_encoder.export(encoder, spec.max_length, path), ""
    except Exception as error:
        log.exception("no ONNX encoder")
        return None, line_of(error)


def refit(
    trial: TrialSpec, everything: TrainingData, epochs: int, cancelled: Callable[[], bool] = lambda: False
) -> tuple[Spec, Encoder]:
    """The configuration of `trial`, trained with its seed for `epochs` on `everything`; nothing is held out."""
    spec = SPECS[trial.backbone].model_validate(trial.config)
    state, rows = begin(trial, spec, everything)
    for epoch in range(1, epochs + 1):
        loss = train_epoch(spec, state, rows, trial.seed, epoch, cancelled)
        if loss is None:
            raise TakeHomeError("The refit was cancelled.")
        log.info("refit, epoch %d of %d: loss %.4f", epoch, epochs, loss)
    return spec, state.model


def recommend(directory: Path, datasets: Path) -> Recommendations:
    """What recommend.json asks for; any failure is the status `failed` with one line."""
    asked = RecommendSpec.model_validate_json((directory / "recommend.json").read_bytes())
    try:
        trial, folder = _trial(directory, asked.trial_id)
        if trial.backbone not in SPECS:
            raise TakeHomeError(f"{trial.backbone} is a trainer of your own: ask it for recommendations.")
        dataset = find_by_hash(datasets, trial.dataset_hash)
        data, device = load_training(dataset.path), devices.pick()
        spec, encoder = checkpoint.load(folder / CHECKPOINT, trial.dataset_hash, device)
        scoring = Scoring.of(spec, data, device)
        model = predict.Recommender(spec, encoder.eval(), scoring, load_ids(dataset.path))
        unknown = tuple(model.unknown(asked.history))
        if len(unknown) == len(asked.history):
            raise TakeHomeError(f"Dataset {dataset.name!r} has no item {', '.join(map(repr, unknown))}.")
        exclude = asked.exclude_seen
        if exclude is None:
            exclude = filter_rule(trial.filter_seen, data.facts) != "no"
        (best,) = model.recommend([asked.history], asked.k, exclude)
    except Exception as error:
        log.exception("recommend failed")
        return Recommendations(status="failed", message=_line(error))
    items = tuple(RecommendedItem(item=one.item, score=one.score) for one in best)
    return Recommendations(status="ok", items=items, unknown=unknown)


def _trial(directory: Path, trial_id: str) -> tuple[TrialSpec, Path]:
    """The spec of a trial and its run directory, which lies beside `directory`."""
    folder = directory.parent / trial_id
    if not (folder / CHECKPOINT).exists():
        raise TakeHomeError(
            f"The checkpoint of trial {trial_id} is gone: a study of the same settings trains it again."
        )
    return TrialSpec.model_validate_json((folder / "spec.json").read_bytes()), folder


def _line(error: Exception) -> str:
    speaks_for_itself = isinstance(error, (TakeHomeError, DataError, predict.ModelError))
    return str(error) if speaks_for_itself else line_of(error)
