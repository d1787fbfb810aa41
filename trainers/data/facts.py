"""The meta-features of a dataset, from its sequences."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainers.data.dataset import Sequences
from trainers.data.split import training_part
from trainers.spec import DatasetFacts


def facts_of(sequences: Sequences, validated: int | None = None) -> DatasetFacts:
    """Sizes and lengths of all events; Gini and the rates of the training events only (a user's last two held out).

    Of a time split everything is of the training period alone: what came later is not known while tuning. `validated`
    is how many users have a validation item, where not all do.

    `ascending_id_rate` compares item indices: these follow the source's own ids, by number where all ids are whole
    numbers and by text otherwise, so a file whose ties were broken in catalogue order shows up.
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
    distinct = len(np.unique(owner[training] * sequences.num_items + items[training]))
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
        repeat_rate=1 - distinct / int(training.sum()),
        timestamp_tie_rate=None if ties is None else _share(ties, pair),
        ascending_id_rate=_share(items[1:] > items[:-1], pair),
        validated_users=validated,
    )


def _share(what: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> float:
    """The share of `among` where `what` holds; 0 of nothing."""
    return float(what[among].mean()) if among.any() else 0.0


def _gini(counts: npt.NDArray[np.integer]) -> float:
    """0 where all counts are equal, towards 1 where one item has all of them."""
    ordered = np.sort(counts.astype(np.float64))
    size = len(ordered)
    return float(2 * (np.arange(1, size + 1) @ ordered) / (size * ordered.sum()) - (size + 1) / size)
