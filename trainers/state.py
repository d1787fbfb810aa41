"""What a training has come to so far: all that changes from epoch to epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.backbones import Encoder
from trainers.evaluate import Evaluation
from trainers.graphs import GraphEncoder
from trainers.negatives import Negatives
from trainers.spec import Epoch


@dataclass
class Best:
    """The epoch that validated best so far: what is kept, reported and early stopping counts from."""

    epoch: int
    validation: dict[str, float]
    ranks: npt.NDArray[np.int64]
    weights: dict[str, Tensor]


@dataclass
class TrainState:
    """All that changes from epoch to epoch."""

    model: Encoder
    encode: GraphEncoder
    optimizers: list[torch.optim.Optimizer]
    negatives: Negatives
    evaluation: Evaluation
    predicted_memory_mb: float | None = None
    best: Best | None = None
    history: list[Epoch] = field(default_factory=list)

    def record(self, epoch: Epoch, found: npt.NDArray[np.int64], metric: str) -> None:
        """Adds a finished epoch, and keeps its weights if none before it validated as well."""
        self.history.append(epoch)
        if self.best is None or epoch.validation[metric] > self.best.validation[metric]:
            weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
            self.best = Best(epoch.epoch, epoch.validation, found, weights)

    def epochs_without_gain(self) -> int:
        """Epochs since the best one."""
        return len(self.history) - self.best.epoch if self.best else 0
