"""Checkpoints: the weights of an encoder, with everything that is needed to build it again."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainers.contract.fields import Spec
from trainers.contract.regular_files import check_regular
from trainers.contract.specs import SPECS
from trainers.contract.wire import TRAINER_VERSION, TrialSpec
from trainers.models.backbones import Encoder, build


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message names the file and says why."""


def save(path: Path, trial: TrialSpec, model: Encoder, num_items: int) -> None:
    """Writes `model` to `path` by rename, so that a file with this name is always complete."""
    metadata = {
        "backbone": trial.backbone,
        "config": json.dumps(trial.config),
        "dataset_hash": trial.dataset_hash,
        "num_items": str(num_items),
        "seed": str(trial.seed),
        "trainer_version": TRAINER_VERSION,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata)
    temporary.replace(path)


def load(path: Path, dataset_hash: str, device: torch.device) -> tuple[Spec, Encoder]:
    """The spec and the encoder in `path`. Raises CheckpointError if unreadable or trained on another dataset."""
    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is not a mapping
        spec = SPECS[metadata["backbone"]].model_validate(json.loads(metadata["config"]))
        if metadata["dataset_hash"] != dataset_hash:
            raise CheckpointError(f"{path.name} was trained on dataset {metadata['dataset_hash']}, not {dataset_hash}")
        model = build(spec, int(metadata["num_items"])).to(device)
        model.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path.parent.name}/{path.name} is no checkpoint that can be read: {reason}. Put the file back, or repeat "
            "the study: trainings whose checkpoints are whole are reused, this one is trained again"
        ) from None
    return spec, model
