"""Keeps the state of a training on disk between epochs, so that an interrupted trial can resume from there."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainers.contract.regular_files import check_regular
from trainers.contract.wire import RESUME_FILE, TRAINER_VERSION, Epoch, TrialSpec
from trainers.training.state import Best, TrainState

SHARE = 0.05
"""Largest share of time for keeping the state; a large model is therefore not kept after every epoch."""

log = logging.getLogger("trainers")


class _Metadata(BaseModel):
    """Metadata beside the tensors. `steps` holds the plain numbers that optimizers count, named like the tensors."""

    model_config = ConfigDict(frozen=True)

    of: str
    history: tuple[Epoch, ...]
    best_epoch: int
    steps: dict[str, int]


class Keeper:
    """Keeps the state of one trial in its run directory. It never fails a training: errors are only logged."""

    def __init__(self, directory: Path, trial: TrialSpec) -> None:
        self._path = directory / RESUME_FILE
        settings = trial.model_dump_json(exclude={"stop_below", "weights_of", "memory_mb"})
        self._identity = f"{TRAINER_VERSION} {settings}"
        self._free_from = 0.0

    def keep(self, state: TrainState) -> None:
        """Writes the state after an epoch by rename, unless the last write was too recent for SHARE."""
        began = time.monotonic()
        if began < self._free_from or state.best is None:
            return
        tensors, steps = _flatten(state)
        kept = _Metadata(of=self._identity, history=tuple(state.history), best_epoch=state.best.epoch, steps=steps)
        temporary = self._path.with_suffix(".tmp")
        try:
            save_file(tensors, temporary, {"kept": kept.model_dump_json()})
            temporary.replace(self._path)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            log.warning("the state cannot be kept, so an interrupted training would start anew: %s", error)
        ended = time.monotonic()
        self._free_from = ended + (ended - began) / SHARE

    def restore(self, state: TrainState) -> bool:
        """Restores a fresh state to the one that an earlier attempt kept; returns whether there was one."""
        try:
            check_regular(self._path)
            with safe_open(self._path, "pt") as file:
                kept = _Metadata.model_validate_json((file.metadata() or {}).get("kept", ""))
                if kept.of != self._identity:
                    return False
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a file is no mapping
        except FileNotFoundError:
            return False
        except (OSError, SafetensorError, ValidationError) as error:
            log.warning("the state that was kept cannot be read, so this trains from the start: %s", error)
            return False
        _restore(state, kept, tensors)
        log.info("going on after epoch %d, where an earlier attempt was interrupted", len(state.history))
        return True


def _flatten(state: TrainState) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The tensors of `state` by name, on the CPU, and the plain numbers of its optimizers by name."""
    assert state.best is not None
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.weights.items()}
    tensors["best_ranks"] = torch.from_numpy(state.best.ranks.astype(np.int64))
    steps: dict[str, int] = {}
    for place, optimizer in enumerate(state.optimizers):
        for parameter, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                key = f"optimizer.{place}.{parameter}.{name}"
                if isinstance(value, Tensor):
                    tensors[key] = value
                else:
                    steps[key] = value
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, steps


def _restore(state: TrainState, kept: _Metadata, tensors: dict[str, Tensor]) -> None:
    device = next(state.model.parameters()).device

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    state.model.load_state_dict(under("model."))
    for place, optimizer in enumerate(state.optimizers):
        states: dict[int, dict[str, Any]] = {}
        for name, value in (under(f"optimizer.{place}.") | _optimizer_numbers(kept, place)).items():
            parameter, _, key = name.partition(".")
            states.setdefault(int(parameter), {})[key] = value
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    state.history = list(kept.history)
    best = kept.history[kept.best_epoch - 1]
    weights = {name: tensor.to(device) for name, tensor in under("best.").items()}
    state.best = Best(best.epoch, best.validation, tensors["best_ranks"].numpy(), weights)


def _optimizer_numbers(kept: _Metadata, place: int) -> dict[str, Any]:
    prefix = f"optimizer.{place}."
    return {name.removeprefix(prefix): step for name, step in kept.steps.items() if name.startswith(prefix)}
