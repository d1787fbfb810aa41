"""Training rows worked by hand: what is read, what is predicted, and in which order."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from tests.support.handmade import training_data
from trainers.contract.specs import SASRecSpec
from trainers.models.batches import Batch, TrainingRows, keyed

CPU = torch.device("cpu")
DATA = training_data([[1, 2, 3, 4], [5], [6, 7]], validation=[0, 0, 0], num_items=20)
LONG = training_data([list(range(14))], validation=[19], num_items=20)


def rows(data=DATA, **config: object) -> TrainingRows:
    return TrainingRows(data, SASRecSpec.model_validate({"max_length": 10, "batch_size": 32, **config}), CPU)


def by_user(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """(inputs, targets) of each user of a batch, shortest first."""
    pairs = list(pairwise(batch.offsets.tolist()))
    inputs = [batch.items[start:end].tolist() for start, end in pairs]
    if len(batch.targets) == len(batch.items):
        targets = [batch.targets[start:end].tolist() for start, end in pairs]
    else:
        targets = [[target] for target in batch.targets.tolist()]
    return sorted(zip(inputs, targets, strict=True), key=lambda pair: len(pair[0]))


def test_every_position_predicts_the_next_training_item_and_a_user_of_one_item_teaches_nothing() -> None:
    (batch,) = rows().epoch(0, 1)
    assert by_user(batch) == [([6], [7]), ([1, 2, 3], [2, 3, 4])]


def test_last_position_predicts_only_the_newest_training_item() -> None:
    (batch,) = rows(train_targets="last_position").epoch(0, 1)
    assert by_user(batch) == [([6], [7]), ([1, 2, 3], [4])]


@pytest.mark.parametrize(
    ("config", "inputs", "targets"),
    [
        ({}, list(range(3, 13)), list(range(4, 14))),
        ({"train_window": 4}, [10, 11, 12], [11, 12, 13]),
        ({"train_window": 2}, [12], [13]),
        ({"train_window": 200}, list(range(3, 13)), list(range(4, 14))),
        ({"train_window": 4, "train_targets": "last_position"}, [10, 11, 12], [13]),
    ],
)
def test_only_the_newest_items_are_read(config: dict[str, object], inputs: list[int], targets: list[int]) -> None:
    (batch,) = rows(LONG, **config).epoch(0, 1)
    assert by_user(batch) == [(inputs, targets)]


def test_every_user_is_in_exactly_one_batch_of_an_epoch() -> None:
    data = training_data([[user, user + 1] for user in range(70)], validation=[0] * 70, num_items=80)
    batches = list(rows(data).epoch(0, 1))
    assert [len(batch.targets) for batch in batches] == [32, 32, 6]
    assert sorted(item for batch in batches for item in batch.items.tolist()) == list(range(70))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    data = training_data([[user, user + 1] for user in range(70)], validation=[0] * 70, num_items=80)

    def order(seed: int, epoch: int) -> list[int]:
        return [item for batch in rows(data).epoch(seed, epoch) for item in batch.items.tolist()]

    assert order(3, 2) == order(3, 2)
    assert order(3, 2) != order(3, 3)
    assert order(3, 2) != order(4, 2)


def test_streams_of_random_numbers_do_not_meet() -> None:
    keys = {keyed(seed, epoch, stream) for seed in (-1, 0, 1) for epoch in (0, 1) for stream in ("order", "dropout")}
    assert len(keys) == 12


def test_data_with_nothing_to_learn_from_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="no user has two training items"):
        rows(training_data([[1], [2]], validation=[3, 4], num_items=5))
