"""Reuses the weights and the curve of a finished trial with the same training fingerprint, instead of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from trainers.contract.facts import DatasetFacts
from trainers.contract.fields import space_of
from trainers.contract.fingerprint import fingerprint
from trainers.contract.metrics import filter_rule
from trainers.contract.regular_files import read_regular
from trainers.contract.specs import SPECS
from trainers.contract.wire import (
    CHECKPOINT_FILE,
    EPOCHS_FILE,
    RESULT_FILE,
    SPEC_FILE,
    TRAINER_VERSION,
    Epoch,
    TrialResult,
    TrialSpec,
)
from trainers.models import checkpoint
from trainers.models.backbones import Encoder


class Unusable(ValueError):
    """The source cannot replace a training; the message says why."""


@dataclass(frozen=True)
class Source:
    """The results of a finished training: its curve, the best epoch, and the model of that epoch."""

    epochs: tuple[Epoch, ...]
    best_epoch: int
    model: Encoder


def read_source(directory: Path, trial: TrialSpec, facts: DatasetFacts, device: torch.device) -> Source:
    """Reads the trial named by `weights_of`, whose run directory lies beside `directory`.

    Raises OSError or ValueError if it is not complete, did not end as planned, or trained to other weights.
    """
    name = trial.weights_of or ""
    if name in ("", "..", directory.name) or Path(name).name != name:
        raise Unusable(f"{name!r} is not another trial")
    folder = directory.parent / name
    spec = TrialSpec.model_validate_json(read_regular(folder / SPEC_FILE))
    result = TrialResult.model_validate_json(read_regular(folder / RESULT_FILE))
    lines = read_regular(folder / EPOCHS_FILE).splitlines()
    epochs = tuple(Epoch.model_validate_json(line) for line in lines)
    if result.status != "ok" or result.best_epoch is None:
        raise Unusable(f"it ended as {result.status}")
    if len(epochs) != result.epochs:
        raise Unusable(f"it has {len(epochs)} of its {result.epochs} epochs")
    if result.trainer_version != TRAINER_VERSION or _fingerprint(spec, facts) != _fingerprint(trial, facts):
        raise Unusable("it has another training fingerprint")
    _, model = checkpoint.load(folder / CHECKPOINT_FILE, trial.dataset_hash, device)
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
