"""The entrants of the speed tables: whose trainer is timed, and with which settings. Each is one row."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from benchmarks.harness.measure_ours import spec_hash
from benchmarks.harness.task import Loss
from trainers.contract.space import Config

Who = Literal["ours", "padded", "rectools", "replay"]
WHO: tuple[Who, ...] = ("ours", "padded", "rectools", "replay")
MODULES = {
    "padded": "benchmarks.peers.padded_reference",
    "rectools": "benchmarks.peers.rectools_sasrec",
    "replay": "benchmarks.peers.replay_sasrec",
}

SIZES: Config = {"num_blocks": 2, "num_heads": 2, "max_length": 50, "batch_size": 256, "dropout": 0.5}
"""The sizes of all entrants. All use Adam with a learning rate of 0.001; other settings are each package's default."""
OUR_RUNS, OUR_EPOCHS = 2, 5
"""Ours is timed in OUR_RUNS processes, before and after the peers. The first epoch of each does not count."""


@dataclass(frozen=True)
class Entrant:
    """One row. `negatives` are drawn per batch if `shared`, otherwise per position; the full softmax has none."""

    who: Who
    name: str
    hidden_dim: int
    loss: Loss
    negatives: int = 0
    shared: bool = False
    backbone: str = "sasrec"
    bucket_size: int = 0

    @property
    def loss_in_words(self) -> str:
        if self.loss == "full_softmax":
            return "full softmax"
        return f"{self.negatives} negatives a {'batch' if self.shared else 'position'}"

    @property
    def title(self) -> str:
        """The name of the entrant's rows."""
        return f"{self.name}, {self.loss_in_words}, d={self.hidden_dim}"

    @property
    def config(self) -> Config:
        """The entrant as one of our configurations. A peer uses only its sizes."""
        config: Config = {**SIZES, "hidden_dim": self.hidden_dim, "loss": self.loss}
        if self.loss == "sampled_softmax":
            config |= {"num_negatives": self.negatives, "negative_sharing": "batch" if self.shared else "position"}
        return config

    @property
    def training(self) -> Config:
        """The configuration that is timed for our own entrants, with a fixed number of epochs."""
        return {**self.config, "max_epochs": OUR_EPOCHS, "patience": 50}

    @property
    def spec_hash(self) -> str:
        if self.who == "ours":
            return spec_hash(self.backbone, self.training)
        text = json.dumps([self.who, self.bucket_size, self.config], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def entrants(hidden_dim: int) -> list[Entrant]:
    """The entrants with this hidden dimension, in the order of the tables."""
    losses: tuple[tuple[Loss, int, bool], ...] = (
        ("full_softmax", 0, False), ("sampled_softmax", 512, True), ("sampled_softmax", 500, False),
    )  # fmt: skip
    ours = [
        Entrant("ours", f"VirtualMLE {title}", hidden_dim, loss, negatives, shared, backbone)
        for backbone, title in (("sasrec", "SASRec"), ("hstu", "HSTU"))
        for loss, negatives, shared in losses
    ]
    return [
        *ours,
        Entrant("padded", "padded SASRec, plain torch", hidden_dim, "sampled_softmax", 500),
        Entrant("rectools", "RecTools SASRec", hidden_dim, "full_softmax"),
        Entrant("rectools", "RecTools SASRec", hidden_dim, "sampled_softmax", 256),
        Entrant("replay", "RePlay SASRec, padded", hidden_dim, "sampled_softmax", 512, True),
        Entrant("replay", "RePlay SASRec, length buckets", hidden_dim, "sampled_softmax", 512, True, bucket_size=64),
    ]
