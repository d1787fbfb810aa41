"""Baselines: ranks worked by hand, equal to a dense full ranking, and cached."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.interactions import write
from trainers.contract.metrics import Filter, metrics_of
from trainers.data import TrainingData, add, baselines, item_knn
from trainers.data.baselines import NOT_FOUND, baseline_ranks
from trainers.data.dataset import Sequences
from trainers.data.facts import facts_of
from trainers.data.held_out import HeldOut

# training 0 1 | 0 1 2 | 3 0, validation 2 | 1 | 1 of five items, test 4 each; popularity 3 2 1 1 0
BY_HAND = [[0, 1, 2, 4], [0, 1, 2, 1, 4], [3, 0, 1, 4]]


@pytest.mark.parametrize(
    ("rule", "popularity", "transition", "knn"),
    [
        ("no", [4, 2, 2], [1, 2, 1], [1, 1, 1]),
        ("yes", [2, NOT_FOUND, 1], [1, NOT_FOUND, 1], [1, NOT_FOUND, 1]),
        ("reference", [2, 1, 1], [1, 1, 1], [1, 1, 1]),
    ],
)
def test_ranks_by_hand(rule: Filter, popularity: list[int], transition: list[int], knn: list[int]) -> None:
    found = baseline_ranks(_data(BY_HAND), rule)
    assert {name: ranks.tolist() for name, ranks in found.items()} == {
        "popularity": popularity,
        "last_item_transition": transition,
        "item_knn": knn,
    }


@pytest.mark.parametrize("rule", get_args(Filter))
@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_those_of_a_dense_ranking(rule: Filter, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = _data([random.integers(0, 12, size=random.integers(3, 15)).tolist() for _ in range(60)])
    popularity = np.bincount(data.items, minlength=data.num_items).astype(np.float64)
    follows = np.zeros((data.num_items, data.num_items))
    for user in range(60):
        history = data.items[data.offsets[user] : data.offsets[user + 1]]
        np.add.at(follows, (history[:-1], history[1:]), 1)
    found = baseline_ranks(data, rule)
    for user in range(60):
        history = data.items[data.offsets[user] : data.offsets[user + 1]]
        target = int(data.validation[user])
        assert found["popularity"][user] == _rank(popularity, history, target, rule)
        scores = follows[history[-1]] + popularity / (popularity.sum() + 1)
        assert found["last_item_transition"][user] == _rank(scores, history, target, rule)


@pytest.mark.parametrize("pairs", [1, 300, 10**6])
@pytest.mark.parametrize("rule", get_args(Filter))
def test_ranks_of_item_knn_equal_those_of_a_dense_ranking(
    rule: Filter, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_knn, "_PAIRS", pairs)
    monkeypatch.setattr(item_knn, "NEIGHBOURS", 4)
    monkeypatch.setattr(item_knn, "NEWEST", (12, 6))
    monkeypatch.setattr(item_knn, "MOST_PAIRS", 60 * 6**2)  # so that six items of each history count, not twelve
    random = np.random.default_rng(0)
    data = _data([random.integers(0, 25, size=random.integers(3, 15)).tolist() for _ in range(60)])
    has = np.zeros((60, data.num_items))
    for user in range(60):
        has[user, data.items[data.offsets[user] : data.offsets[user + 1]][-6:]] = 1
    users = np.maximum(1, has.sum(0))
    similar = has.T @ has / np.sqrt(users[:, None] * users)
    np.fill_diagonal(similar, 0)
    for row in similar:  # a row keeps its largest four, of equal ones those of lower number
        row[np.argsort(-row, kind="stable")[4:]] = 0
    found = baseline_ranks(data, rule)["item_knn"]
    for user in range(60):
        history = data.items[data.offsets[user] : data.offsets[user + 1]]
        scores = np.round(has[user] @ similar, 9)
        assert found[user] == _rank(scores, history, int(data.validation[user]), rule)


def test_the_test_is_ranked_after_all_earlier_items_by_counts_of_the_training_items_alone() -> None:
    data = _data(BY_HAND)
    # Histories 0 1 2 | 0 1 2 1 | 3 0 1, targets 4 of popularity 0: every other item counts as much or more.
    sealed = HeldOut(
        np.array([0, 1, 2, 0, 1, 2, 1, 3, 0, 1], dtype=np.int32), np.array([0, 3, 7, 10]), np.full(3, 4, np.int32)
    )
    found = {name: ranks.tolist() for name, ranks in baseline_ranks(data, "no", sealed).items()}
    assert found == {"popularity": [5, 5, 5], "last_item_transition": [5, 5, 5], "item_knn": [5, 5, 5]}
    found = {name: ranks.tolist() for name, ranks in baseline_ranks(data, "yes", sealed).items()}
    assert found == {"popularity": [2, 2, 2], "last_item_transition": [2, 2, 2], "item_knn": [2, 2, 2]}
    # After the last history item 1 came 2 in training; after 2 came nothing, so popularity decides (3 2 1 1 0).
    again = HeldOut(sealed.items, sealed.offsets, np.array([0, 2, 2], dtype=np.int32))
    found = {name: ranks.tolist() for name, ranks in baseline_ranks(data, "no", again).items()}
    assert found["last_item_transition"] == [1, 1, 1]
    assert found["popularity"] == [1, 4, 4]


def test_baselines_are_kept_beside_the_dataset(tmp_path: Path) -> None:
    lines = "\n".join(f"u{user} " + " ".join(map(str, items)) for user, items in enumerate(BY_HAND))
    folder = add(tmp_path, "log", write(tmp_path / "log.txt", lines)).path
    expected = {name: metrics_of(ranks) for name, ranks in baseline_ranks(_data(BY_HAND), "no").items()}
    assert baselines(folder, "no") == expected
    (folder / "train.safetensors").unlink()
    assert baselines(folder, "no") == expected


def _data(sequences: list[list[int]]) -> TrainingData:
    lengths = [len(items) for items in sequences]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    items = np.concatenate(sequences).astype(np.int32)
    facts = facts_of(Sequences(items, offsets, int(items.max()) + 1))
    training = np.concatenate([part[:-2] for part in sequences]).astype(np.int32)
    validation = np.array([part[-2] for part in sequences], dtype=np.int32)
    return TrainingData(training, offsets - 2 * np.arange(len(offsets)), validation, facts.items, facts)


def _rank(scores: npt.NDArray[np.float64], history: npt.NDArray[np.int32], target: int, rule: Filter) -> int:
    """The rule as it is written: 1 + items scored greater + others scored equal, filtered ones left out."""
    left = np.ones(len(scores), dtype=np.bool_)
    if rule != "no":
        left[history] = False
    if rule == "yes" and not left[target]:
        return NOT_FOUND
    left[target] = False
    return 1 + int((scores[left] >= scores[target]).sum())
