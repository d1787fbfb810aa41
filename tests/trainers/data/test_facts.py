"""Meta-features, worked by hand: sizes of all events, gini and rates of the training events only."""

from __future__ import annotations

import numpy as np

from trainers.contract.facts import DatasetFacts
from trainers.data.dataset import Sequences
from trainers.data.facts import facts_of

ITEMS = [0, 1, 0, 2, 3, 1, 2, 3]  # training: 0 1 0 of the first user, 1 of the second
TIMES = [1, 1, 2, 2, 2, 2, 2, 2]


def test_facts_of_two_users() -> None:
    assert facts_of(_sequences(ITEMS, [0, 5, 8], TIMES)) == DatasetFacts(
        users=2,
        items=4,
        interactions=8,
        mean_length=4.0,
        p50_length=4.0,
        p90_length=4.8,
        p95_length=4.9,
        density=1.0,
        item_gini=0.5,  # counts 2 2 0 0: 2 (3·2 + 4·2) / (4·4) - 5/4
        repeat_rate=0.25,  # one of four training events repeats an item of its user
        timestamp_tie_rate=0.5,  # one of two adjacent training pairs
        ascending_id_rate=0.5,
        repeating_users=0.5,  # one of two
    )


def test_rates_of_nothing_are_zero_and_times_may_be_unknown() -> None:
    facts = facts_of(_sequences([0, 1, 2], [0, 3], None))
    assert (facts.ascending_id_rate, facts.repeat_rate, facts.timestamp_tie_rate) == (0.0, 0.0, None)


def test_held_out_items_change_no_rate() -> None:
    first = facts_of(_sequences([0, 1, 2, 0, 0], [0, 5], [1, 2, 3, 3, 3]))
    second = facts_of(_sequences([0, 1, 2, 2, 1], [0, 5], [1, 2, 3, 4, 5]))
    assert first == second


def _sequences(items: list[int], offsets: list[int], times: list[int] | None) -> Sequences:
    return Sequences(
        np.array(items, dtype=np.int32),
        np.array(offsets, dtype=np.int64),
        max(items) + 1,
        None if times is None else np.array(times, dtype=np.float64),
    )
