"""The demo dataset: generated when asked for, the same for a seed, and with the structure it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainers.data import add_demo, baselines, ensure, load_training
from trainers.data.demo import USERS, generate


def test_the_demo_is_generated_once_and_says_that_it_is_synthetic(tmp_path: Path) -> None:
    first, second = ensure(tmp_path, "demo"), ensure(tmp_path, "demo")
    assert first == second == add_demo(tmp_path)
    assert first.synthetic
    assert first.report.source == "generated, seed 0"


def test_the_same_seed_gives_the_same_demo_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (
        add_demo(tmp_path / folder, seed) for folder, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first.content_hash == again.content_hash != other.content_hash


def test_sequences_are_short_and_never_repeat() -> None:
    sequences = generate(0)
    lengths = np.diff(sequences.offsets)
    users = np.repeat(np.arange(len(lengths)), lengths)
    assert (lengths.min(), len(lengths)) == (5, USERS)
    assert 8 < lengths.mean() < 9
    assert len(np.unique(users * sequences.num_items + sequences.items)) == len(sequences.items)


def test_the_item_two_back_says_much_more_than_the_last_item(tmp_path: Path) -> None:
    folder = add_demo(tmp_path).path
    data = load_training(folder)
    before, after = _pairs(data.items, data.offsets)
    follows = np.zeros((data.num_items, data.num_items))
    np.add.at(follows, (before, after), 1)
    long_enough = np.diff(data.offsets) >= 2
    scores = follows[data.items[data.offsets[1:] - 2]][long_enough]
    target = data.validation[long_enough]
    ranks = 1 + (scores > scores[np.arange(len(target)), target][:, None]).sum(axis=1)
    two_back = float(np.mean(ranks <= 10))
    simple = baselines(folder, "yes")
    assert two_back > 3 * simple["last_item_transition"]["recall@10"]
    assert two_back > 3 * simple["popularity"]["recall@10"]


def _pairs(items: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items two events apart, inside each user."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    same = owner[2:] == owner[:-2]
    return items[:-2][same], items[2:][same]
