"""Full ranking: the rank of each user's held-out item among all items, counted in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers import native
from trainers.backbones import Encoder
from trainers.batches import newest, rows_of
from trainers.metrics import Filter

BLOCK_USERS = 1024
BLOCK_SCORES = 2**21
"""Scores held at once: 8 MiB in fp32."""


class Diverged(ArithmeticError):
    """A loss or a score is not a finite number; the message says which and when."""


@dataclass(frozen=True)
class Evaluation:
    """Histories to encode, items to find and items to filter, prepared once for every epoch. U users, V items."""

    items: Tensor  # (N,) histories cut to their newest max_length, on the device
    offsets: Tensor  # (U+1,) on the host
    targets: Tensor  # (U,) on the device
    filtered: Tensor  # (F,) distinct items to filter, user by user, on the device
    filtered_offsets: Tensor  # (U+1,) on the host
    lost: Tensor  # (U,) whether the target itself is filtered, and so cannot be found

    @classmethod
    def of(
        cls,
        items: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        targets: npt.NDArray[np.int32],
        num_items: int,
        max_length: int,
        rule: Filter,
        device: torch.device,
    ) -> Evaluation:
        """An evaluation of `targets` (U,) after the histories `items` (N,) that start at `offsets` (U+1,)."""
        lengths = np.diff(offsets)
        kept = np.minimum(lengths, max_length)
        users = np.arange(len(targets))
        seen = np.unique(np.repeat(users, lengths) * num_items + items)  # the whole history, beyond max_length too
        goals = users * num_items + targets
        lost = np.isin(goals, seen) if rule == "yes" else np.zeros(len(targets), dtype=bool)
        if rule == "reference":
            seen = np.setdiff1d(seen, goals, assume_unique=True)
        elif rule == "no":
            seen = seen[:0]

        def on_device(values: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(values).to(device)

        return cls(
            items=on_device(items[rows_of(offsets[1:] - kept, kept)].astype(np.int64)),
            offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(kept)])),
            targets=on_device(targets.astype(np.int64)),
            filtered=on_device(seen % num_items),
            filtered_offsets=torch.from_numpy(np.searchsorted(seen // num_items, np.arange(len(targets) + 1))),
            lost=on_device(lost),
        )


@torch.inference_mode()
def ranks(model: Encoder, evaluation: Evaluation) -> npt.NDArray[np.int64]:
    """Rank (U,) of every target, from 1: 1 + others scored greater + others scored equal. V + 1 is "filtered".

    Raises Diverged when a score is not finite.
    """
    model.eval()
    table = model.output_table()  # (V, D)
    found = torch.empty_like(evaluation.targets)
    finite = torch.ones((), dtype=torch.bool, device=table.device)
    small = min(BLOCK_USERS, max(16, BLOCK_SCORES // len(table)))
    rows, buffer = table.T, table.new_empty(small, len(table))
    for start in range(0, len(found), BLOCK_USERS):
        offsets = evaluation.offsets[start : start + BLOCK_USERS + 1]
        states = model.encode(evaluation.items[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])
        states = newest(states, offsets - offsets[0])  # (b, D)
        for first in range(0, len(states), small):
            users = slice(start + first, start + min(first + small, len(states)))
            scores = torch.mm(states[first : first + small], rows, out=buffer[: users.stop - users.start])  # (b, V)
            ahead, whole = _reaching(scores, evaluation.targets[users])
            found[users] = ahead - _filtered_reaching(scores, evaluation, users)
            finite &= whole
    if not finite:
        raise Diverged("a score is not finite")
    found.masked_fill_(evaluation.lost, len(table) + 1)
    return found.cpu().numpy()


def _reaching(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Items scored at least as high as the target (b,), itself counted; and whether all scores are finite."""
    goals = scores.gather(1, targets[:, None])  # (b, 1)
    if native.serves(scores):
        found = torch.empty_like(targets)
        native.call("count_reaching", scores, goals, *scores.shape, found)
        return found, found.all()  # every target reaches itself, so none is a number that is not finite
    return scores.ge(goals).sum(1), scores.sum().isfinite()


def _filtered_reaching(scores: Tensor, evaluation: Evaluation, users: slice) -> Tensor:
    """How many of the filtered items of each user are scored at least as high as the target (b,)."""
    bounds = evaluation.filtered_offsets[users.start : users.stop + 1]
    items = evaluation.filtered[int(bounds[0]) : int(bounds[-1])]
    rows = torch.repeat_interleave(bounds.diff()).to(items.device, non_blocking=True)
    goals = scores.gather(1, evaluation.targets[users, None]).squeeze(1)
    reach = scores[rows, items] >= goals[rows]
    return torch.zeros_like(evaluation.targets[users]).index_add_(0, rows, reach.long())
