"""Small training data written by hand, for tests of the trainer that need no stored dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainers.contract.facts import DatasetFacts
from trainers.contract.wire import TrialSpec
from trainers.data import TrainingData


def training_data(
    sequences: Sequence[Sequence[int]], validation: Sequence[int], num_items: int, repeat_rate: float = 0.0
) -> TrainingData:
    """Training data of the users' training `sequences` and their validation items."""
    lengths = [len(sequence) for sequence in sequences]
    facts = DatasetFacts(
        users=len(sequences), items=num_items, interactions=sum(lengths) + 2 * len(lengths),
        mean_length=float(np.mean(lengths)) + 2, p50_length=4, p90_length=8, p95_length=9, density=0.1, item_gini=0.3,
        repeat_rate=repeat_rate, timestamp_tie_rate=None, ascending_id_rate=0.5,
    )  # fmt: skip
    return TrainingData(
        items=np.array([item for sequence in sequences for item in sequence], dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        validation=np.array(validation, dtype=np.int32),
        num_items=num_items,
        facts=facts,
    )


def walks(users: int, num_items: int, longest: int, seed: int = 0) -> TrainingData:
    """Users who walk the circle of items in steps of 1 or 2: learnable, of every length from 1 to `longest`."""
    rng = np.random.default_rng(seed)
    paths = []
    for user in range(users):
        steps = rng.integers(1, 3, size=1 + user % longest)
        paths.append(((rng.integers(num_items) + np.concatenate([[0], np.cumsum(steps)])) % num_items).tolist())
    return training_data([path[:-1] for path in paths], [path[-1] for path in paths], num_items)


SMALL = {"max_length": 10, "hidden_dim": 16, "num_blocks": 1, "num_heads": 2, "batch_size": 32, "max_epochs": 3}


def trial(backbone: str = "sasrec", seed: int = 0, **config: bool | int | float | str) -> TrialSpec:
    """A trial of a small encoder, with the fields of `config` in place of the small ones."""
    return TrialSpec(
        trial_id="t-hand", backbone=backbone, config={**SMALL, **config}, seed=seed, dataset_hash="none", threads=1
    )
