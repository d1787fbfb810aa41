"""The state of a training between two epochs, on disk: an interrupted attempt goes on where it was kept last."""

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

from trainers.spec import RESUME_FILE, TRAINER_VERSION, Epoch, TrialSpec
from trainers.state import Best, TrainState

SHARE = 0.05
"""Of the time, at most, goes into keeping the state: a large model is not kept after every epoch."""

log = logging.getLogger("trainers")


class _Kept(BaseModel):
    """What is beside the tensors. `steps`: by the tensors' manner of naming, what optimizers count in plain numbers."""

    model_config = ConfigDict(frozen=True)

    of: str
    history: tuple[Epoch, ...]
    best_epoch: int
    steps: dict[str, int]


class Keeper:
    """Of one trial in its run directory. Nothing here fails a training: what cannot be kept or read is only logged."""

    def __init__(self, directory: Path, trial: TrialSpec) -> None:
        self._path = directory / RESUME_FILE
        told = trial.model_dump_json(exclude={"stop_below", "weights_of", "memory_mb"})
        self._of = f"{TRAINER_VERSION} {told}"
        self._free_from = 0.0

    def keep(self, state: TrainState) -> None:
        """Writes the state after an epoch by rename, if it is time."""
        began = time.monotonic()
        if began < self._free_from or state.best is None:
            return
        tensors, steps = _flat(state)
        kept = _Kept(of=self._of, history=tuple(state.history), best_epoch=state.best.epoch, steps=steps)
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
        """Brings a state that has only begun to where an earlier attempt kept it; whether there was one."""
        try:
            with safe_open(self._path, "pt") as file:
                kept = _Kept.model_validate_json((file.metadata() or {}).get("kept", ""))
                if kept.of != self._of:
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


def _flat(state: TrainState) -> tuple[dict[str, Tensor], dict[str, int]]:
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


def _restore(state: TrainState, kept: _Kept, tensors: dict[str, Tensor]) -> None:
    device = next(state.model.parameters()).device

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    state.model.load_state_dict(under("model."))
    for place, optimizer in enumerate(state.optimizers):
        found: dict[int, dict[str, Any]] = {}
        for name, value in (under(f"optimizer.{place}.") | _numbers(kept, place)).items():
            parameter, _, key = name.partition(".")
            found.setdefault(int(parameter), {})[key] = value
        optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})
    state.history = list(kept.history)
    best = kept.history[kept.best_epoch - 1]
    weights = {name: tensor.to(device) for name, tensor in under("best.").items()}
    state.best = Best(best.epoch, best.validation, tensors["best_ranks"].numpy(), weights)


def _numbers(kept: _Kept, place: int) -> dict[str, Any]:
    prefix = f"optimizer.{place}."
    return {name.removeprefix(prefix): step for name, step in kept.steps.items() if name.startswith(prefix)}
