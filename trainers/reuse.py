"""The weights and the curve of a finished trial of the same training fingerprint, taken instead of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from trainers import checkpoint
from trainers.backbones import Encoder
from trainers.fields import space_of
from trainers.fingerprint import fingerprint
from trainers.metrics import filter_rule
from trainers.spec import SPECS, TRAINER_VERSION, DatasetFacts, Epoch, TrialResult, TrialSpec


class Unusable(ValueError):
    """The source cannot stand for a training; the message says why."""


@dataclass(frozen=True)
class Source:
    """What a finished training left: its curve, which of its epochs was the best, and the model of that epoch."""

    epochs: tuple[Epoch, ...]
    best_epoch: int
    model: Encoder


def read_source(directory: Path, trial: TrialSpec, facts: DatasetFacts, device: torch.device) -> Source:
    """What the trial that `weights_of` names left beside the run directory `directory`.

    Raises OSError or ValueError where it is not whole, did not end as planned or trained to other weights.
    """
    name = trial.weights_of or ""
    if name in ("", "..", directory.name) or Path(name).name != name:
        raise Unusable(f"{name!r} is not another trial")
    folder = directory.parent / name
    spec = TrialSpec.model_validate_json((folder / "spec.json").read_bytes())
    result = TrialResult.model_validate_json((folder / "result.json").read_bytes())
    lines = (folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = tuple(Epoch.model_validate_json(line) for line in lines)
    if result.status != "ok" or result.best_epoch is None:
        raise Unusable(f"it ended as {result.status}")
    if len(epochs) != result.epochs:
        raise Unusable(f"it has {len(epochs)} of its {result.epochs} epochs")
    if result.trainer_version != TRAINER_VERSION or _fingerprint(spec, facts) != _fingerprint(trial, facts):
        raise Unusable("it has another training fingerprint")
    _, model = checkpoint.load(folder / "checkpoint.safetensors", trial.dataset_hash, device)
    return Source(epochs, result.best_epoch, model)


def _fingerprint(trial: TrialSpec, facts: DatasetFacts) -> str:
    spec = SPECS[trial.backbone]
    return fingerprint(
        space_of(spec),
        spec.model_validate(trial.config).model_dump(),
        seed=trial.seed,
        dataset_hash=trial.dataset_hash,
        metric=trial.metric,
        filter_rule=filter_rule(trial.filter_seen, facts),
    )
