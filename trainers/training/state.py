"""The state of a training: all that changes from epoch to epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.contract.wire import Epoch
from trainers.models.backbones import Encoder
from trainers.models.graphs import GraphEncoder
from trainers.ranking.evaluate import Evaluation
from trainers.training.negatives import Negatives


@dataclass
class Best:
    """The epoch that validated best so far, which is kept and reported, and from which early stopping counts."""

    epoch: int
    validation: dict[str, float]
    ranks: npt.NDArray[np.int64]
    weights: dict[str, Tensor]


@dataclass
class TrainState:
    """Everything in a training that changes from epoch to epoch."""

    model: Encoder
    encode: GraphEncoder
    optimizers: list[torch.optim.Optimizer]
    negatives: Negatives
    evaluation: Evaluation
    predicted_memory_mb: float | None = None
    best: Best | None = None
    history: list[Epoch] = field(default_factory=list)

    def record(self, epoch: Epoch, ranks: npt.NDArray[np.int64], metric: str) -> None:
        """Adds a finished epoch with its validation ranks (F,); keeps its weights if it validated best so far."""
        self.history.append(epoch)
        if self.best is None or epoch.validation[metric] > self.best.validation[metric]:
            weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
            self.best = Best(epoch.epoch, epoch.validation, ranks, weights)

    def epochs_without_gain(self) -> int:
        """The number of epochs since the best one."""
        return len(self.history) - self.best.epoch if self.best else 0
