"""The task of a measuring child and its answers. It needs only numpy, because the peers' interpreters import it too."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Loss = Literal["full_softmax", "sampled_softmax"]
Evaluate = Literal["own", "ranks"]


@dataclass(frozen=True)
class PeerTraining:
    """One training of a SASRec by a peer's code.

    `evaluate` says what runs after every epoch: the package's own full ranking, or the ranks of the validation items by
    `benchmarks.peers.ranking`, written to `folder` as ranks-EPOCH.npy. `warm_up_steps` are trained first and thrown
    away.
    """

    arrays: str
    folder: str
    hidden_dim: int
    loss: Loss
    num_negatives: int
    epochs: int
    threads: int
    device: str = "cpu"
    num_blocks: int = 2
    num_heads: int = 2
    max_length: int = 50
    batch_size: int = 256
    dropout: float = 0.5
    learning_rate: float = 1e-3
    seed: int = 0
    filter_seen: bool = True
    bucket_size: int = 0
    warm_up_steps: int = 3
    evaluate: Evaluate = "own"

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> PeerTraining:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Answer:
    """One epoch: the seconds of training and of evaluation. `ranks` names a file in the folder of the task."""

    epoch: int
    loss: float
    seconds: float
    eval_seconds: float
    ranks: str | None = None

    def print_line(self) -> None:
        """Prints the answer as one line of JSON and flushes it."""
        sys.stdout.write(json.dumps(asdict(self)) + "\n")
        sys.stdout.flush()


@dataclass(frozen=True)
class Arrays:
    """The training split as in `trainers.data.TrainingData`: packed items of all users, a validation item for each."""

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int32]
    num_items: int

    def write(self, path: Path) -> None:
        np.savez(path, items=self.items, offsets=self.offsets, validation=self.validation, num_items=self.num_items)

    @classmethod
    def read(cls, path: Path) -> Arrays:
        with np.load(path) as arrays:
            return cls(arrays["items"], arrays["offsets"], arrays["validation"], int(arrays["num_items"]))

    @property
    def users(self) -> npt.NDArray[np.int64]:
        """The user (N,) of each training item."""
        return np.repeat(np.arange(len(self.validation)), np.diff(self.offsets))

    def predictions(self, width: int) -> int:
        """The number of targets in an epoch: each of a user's newest `width` inputs has the item after it as target."""
        return int(np.minimum(np.diff(self.offsets) - 1, width).sum())

    def padded(self, width: int) -> npt.NDArray[np.int64]:
        """The newest `width` items of every user (users, width), counted from 1, with zeros as padding on the left."""
        lengths = np.diff(self.offsets)
        kept = np.minimum(lengths, width)
        rows = np.repeat(np.arange(len(kept)), kept)
        within = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
        padded = np.zeros((len(kept), width), dtype=np.int64)
        padded[rows, within + np.repeat(width - kept, kept)] = (
            self.items[np.repeat(self.offsets[1:] - kept, kept) + within] + 1
        )
        return padded
