"""Ranks of the validation items from any model's states and item table, in numpy, so that peers use our rule."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.harness.task import Arrays

BLOCK_USERS = 256


def validation_ranks(
    states: npt.NDArray[np.float32],
    table: npt.NDArray[np.float32],
    arrays: Arrays,
    filter_seen: bool,
    known: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int64]:
    """Ranks (users,) of the validation items for states (users, D) and table (items, D), as in trainers.ranking.

    A rank is 1 + other items with a higher or an equal score, without the user's history if `filter_seen`. An item that
    the model does not know (`known` (items,)) is never recommended; as a target it has the rank items + 1.
    """
    ranks = np.empty(len(states), dtype=np.int64)
    for start in range(0, len(states), BLOCK_USERS):
        block = slice(start, min(start + BLOCK_USERS, len(states)))
        scores = states[block] @ table.T
        if known is not None:
            scores[:, ~known] = -np.inf
        ranks[block] = _ranks_of(scores, arrays, block, filter_seen)
    if known is not None:
        ranks[~known[arrays.validation]] = len(table) + 1
    return ranks


def _ranks_of(
    scores: npt.NDArray[np.float32], arrays: Arrays, block: slice, filter_seen: bool
) -> npt.NDArray[np.int64]:
    rows, targets = np.arange(len(scores)), arrays.validation[block]
    goals = scores[rows, targets]
    bounds = arrays.offsets[block.start : block.stop + 1]
    lost = np.zeros(len(scores), dtype=np.bool_)
    if filter_seen:
        history = arrays.items[bounds[0] : bounds[-1]]
        owners = np.repeat(rows, np.diff(bounds))
        scores[owners, history] = -np.inf
        lost[owners[history == targets[owners]]] = True
    ahead = (scores >= goals[:, None]).sum(axis=1)
    return np.where(lost, scores.shape[1] + 1, ahead)
