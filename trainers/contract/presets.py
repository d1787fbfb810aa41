"""The presets: default configurations of each backbone, by preset name and by the facts of the dataset."""

from __future__ import annotations

from typing import Literal

from trainers.contract.facts import DatasetFacts
from trainers.contract.fields import Spec
from trainers.contract.space import Config
from trainers.contract.specs import SPECS

Preset = Literal["strong", "paper"]


_PAPER: dict[str, Config] = {
    "sasrec": {
        "max_length": 50, "hidden_dim": 128, "num_blocks": 1, "num_heads": 1, "dropout": 0.2, "batch_size": 256,
        "learning_rate": 3e-4, "weight_decay": 1e-5, "optimizer": "adam", "beta2": 0.999, "loss": "sampled_softmax",
        "num_negatives": 500, "negative_sharing": "position", "tie_embeddings": False, "scale_embeddings": True,
        "gradient_clip": 5.0, "max_epochs": 20, "patience": 3,
    },
    "hstu": {
        "max_length": 50, "hidden_dim": 128, "num_blocks": 1, "num_heads": 1, "linear_dim": 16, "attention_dim": 16,
        "dropout": 0.5, "attention_dropout": 0.0, "batch_size": 128, "learning_rate": 3e-4, "weight_decay": 0.0,
        "optimizer": "adamw", "beta2": 0.98, "loss": "sampled_softmax", "num_negatives": 500,
        "negative_sharing": "position", "normalize_embeddings": True, "temperature": 0.05, "tie_embeddings": True,
        "gradient_clip": 5.0, "max_epochs": 20, "patience": 3,
    },
}  # fmt: skip


FULL_SOFTMAX_ITEMS = 100_000
"""Above this catalogue size, `strong` uses sampled softmax and touched rows, since scoring all items costs too much."""


LENGTHS = (50, 100, 200)
"""`strong` takes the smallest of these lengths that covers the whole history of 90 % of users."""


def preset(name: Preset, backbone: str, facts: DatasetFacts) -> Spec:
    """The default spec of `backbone` for a dataset with `facts`, which trial 0 of a study trains; a pure function."""
    spec = SPECS[backbone]
    if name == "paper":
        return spec.model_validate(_PAPER[backbone])
    config: Config = {"max_length": next((n for n in LENGTHS if facts.p90_length <= n), LENGTHS[-1])}
    if facts.items > FULL_SOFTMAX_ITEMS:
        config |= {"loss": "sampled_softmax", "table_updates": "touched_rows"}
    return spec.model_validate(config)
