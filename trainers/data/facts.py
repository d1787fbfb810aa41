"""Computes the meta-features of a dataset from its sequences."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainers.contract.facts import DatasetFacts
from trainers.data.dataset import Sequences
from trainers.data.split import training_part


def facts_of(sequences: Sequences, validated: int | None = None) -> DatasetFacts:
    """The facts of `sequences`: sizes and lengths count all events, Gini and rates all but each user's last two.

    For a time split, everything counts events of the training period only, because later ones are not known while
    tuning. `validated` is the number of users with a validation item, if not all have one.

    `ascending_id_rate` compares item indices. These follow the source's own ids, by number if all are whole numbers
    and by text otherwise, so a high rate reveals a file whose ties were broken in catalogue order.
    """
    held_out = 2 if sequences.cuts is None else 0
    sequences = training_part(sequences)
    items, offsets = sequences.items, sequences.offsets
    lengths = np.diff(offsets)
    users, events = len(lengths), len(items)
    owner = np.repeat(np.arange(users, dtype=np.int64), lengths)
    training = np.arange(events) < offsets[owner + 1] - held_out
    pair = training[1:] & (owner[1:] == owner[:-1])
    p50, p90, p95 = (float(value) for value in np.percentile(lengths, (50, 90, 95)))
    pairs = np.unique(owner[training] * sequences.num_items + items[training])
    ties = None if sequences.times is None else sequences.times[1:] == sequences.times[:-1]
    return DatasetFacts(
        users=users,
        items=sequences.num_items,
        interactions=events,
        mean_length=events / users,
        p50_length=p50,
        p90_length=p90,
        p95_length=p95,
        density=events / (users * sequences.num_items),
        item_gini=_gini(np.bincount(items[training], minlength=sequences.num_items)),
        repeat_rate=1 - len(pairs) / int(training.sum()),
        timestamp_tie_rate=None if ties is None else _share(ties, pair),
        ascending_id_rate=_share(items[1:] > items[:-1], pair),
        validated_users=validated,
        repeating_users=_repeating(owner[training], pairs // sequences.num_items, users),
    )


def repeating_users(items: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> float:
    """The share of users with an item twice in their training events, `items` (N,) packed by `offsets` (users + 1,)."""
    users, size = len(offsets) - 1, int(items.max()) + 1
    owner = np.repeat(np.arange(users, dtype=np.int64), np.diff(offsets))
    return _repeating(owner, np.unique(owner * size + items) // size, users)


def _repeating(owners: npt.NDArray[np.int64], distinct_owners: npt.NDArray[np.int64], users: int) -> float:
    """The share of users with more events than distinct items; each array has a user for each of them."""
    return float((np.bincount(owners, minlength=users) > np.bincount(distinct_owners, minlength=users)).mean())


def _share(condition: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> float:
    """The share of `among` where `condition` holds; 0 if `among` is empty."""
    return float(condition[among].mean()) if among.any() else 0.0


def _gini(counts: npt.NDArray[np.integer]) -> float:
    """The Gini index of counts (V,): 0 if all are equal, near 1 if one item has all events."""
    ordered = np.sort(counts.astype(np.float64))
    size = len(ordered)
    return float(2 * (np.arange(1, size + 1) @ ordered) / (size * ordered.sum()) - (size + 1) / size)
