"""Full ranking: the rank of each user's held-out item among all items, counted in blocks."""

from __future__ import annotations

from collections.abc import Iterator
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
BLOCK_TOKENS = 2**15
"""Fewer users where their histories are long: what is encoded at once is held in memory several times over."""
BLOCK_SCORES = 2**21
"""Scores held at once: 8 MiB in fp32."""


class Diverged(ArithmeticError):
    """A loss or a score is not a finite number; the message says which and when."""


@dataclass(frozen=True)
class Block:
    """Users that are ranked together, b of them, and what their histories filter."""

    users: slice
    tokens: slice  # of their histories
    offsets: Tensor  # (b+1,) on the host, from 0
    rows: Tensor  # (F,) users of the block, by number in it, whose
    items: Tensor  # (F,) are filtered: ordered by item, on the device like their users
    bounds: tuple[
        int, ...
    ]  # where the filtered items of each chunk of the catalogue begin, and where the last ones end


@dataclass(frozen=True)
class Evaluation:
    """Histories to encode, items to find and items to filter, prepared once for every epoch. U users, V items."""

    items: Tensor  # (N,) histories cut to their newest max_length, on the device
    targets: Tensor  # (U,) on the device
    lost: Tensor  # (U,) whether the target itself is filtered, and so cannot be found
    blocks: tuple[Block, ...]
    chunk: int  # items scored at once

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
        chunk = min(num_items, max(16, BLOCK_SCORES // BLOCK_USERS))
        edges = np.arange(0, num_items + chunk, chunk)
        tokens = np.concatenate([[0], np.cumsum(kept)])

        def on_device(values: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(values).to(device)

        def block(start: int, stop: int) -> Block:
            first, last = np.searchsorted(seen, [start * num_items, stop * num_items])
            rows, filtered = np.divmod(seen[first:last] - start * num_items, num_items)
            order = np.argsort(filtered, kind="stable")
            return Block(
                users=slice(start, stop),
                tokens=slice(int(tokens[start]), int(tokens[stop])),
                offsets=torch.from_numpy(tokens[start : stop + 1] - tokens[start]),
                rows=on_device(rows[order]),
                items=on_device(filtered[order]),
                bounds=tuple(np.searchsorted(filtered[order], edges).tolist()),
            )

        return cls(
            items=on_device(items[rows_of(offsets[1:] - kept, kept)].astype(np.int64)),
            targets=on_device(targets.astype(np.int64)),
            lost=on_device(lost),
            blocks=tuple(block(start, stop) for start, stop in runs_of(tokens)),
            chunk=chunk,
        )


def runs_of(tokens: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Users from start to stop, each run with at most BLOCK_USERS and BLOCK_TOKENS; user u has tokens[u + 1] in all."""
    start, users = 0, len(tokens) - 1
    while start < users:
        fitting = int(np.searchsorted(tokens, tokens[start] + BLOCK_TOKENS, side="right")) - 1
        stop = min(max(fitting, start + 1), start + BLOCK_USERS, users)
        yield start, stop
        start = stop


@torch.inference_mode()
def ranks(model: Encoder, evaluation: Evaluation) -> npt.NDArray[np.int64]:
    """Rank (U,) of every target, from 1: 1 + others scored greater + others scored equal. V + 1 is "filtered".

    Raises Diverged when a score is not finite.
    """
    model.eval()
    table = model.output_table()  # (V, D)
    found = torch.empty_like(evaluation.targets)
    finite = torch.ones((), dtype=torch.bool, device=table.device)
    for block in evaluation.blocks:
        states = newest(model.encode(evaluation.items[block.tokens], block.offsets), block.offsets)  # (b, D)
        found[block.users], whole = _ranks_of(states, table, evaluation, block)
        finite &= whole
    if not finite:
        raise Diverged("a score is not finite")
    found.masked_fill_(evaluation.lost, len(table) + 1)
    return found.cpu().numpy()


def _ranks_of(states: Tensor, table: Tensor, evaluation: Evaluation, block: Block) -> tuple[Tensor, Tensor]:
    """Rank (b,) of every target of `block`, whose states are (b, D); and whether all scores are finite."""
    targets, chunk = evaluation.targets[block.users], evaluation.chunk
    goals = torch.mm(states, table[targets].T).diagonal().contiguous()  # (b,) a product like the scores, to be as exact
    ahead = torch.ones_like(targets)
    finite = goals.isfinite().all()
    for number, start in enumerate(range(0, len(table), chunk)):
        rows = table[start : start + chunk]
        scores = states @ rows.T  # (b, v)
        reaching, whole = count_reaching(scores, goals)
        finite &= whole
        here = (targets >= start) & (targets < start + len(rows))
        own = scores.gather(1, (targets - start).clamp(0, len(rows) - 1)[:, None]).squeeze(1)
        ahead += reaching - (here & (own >= goals)).long()
        part = slice(*block.bounds[number : number + 2])
        users, items = block.rows[part], block.items[part] - start
        others = items + start != targets[users]
        ahead.index_add_(0, users, ((scores[users, items] >= goals[users]) & others).long(), alpha=-1)
    return ahead, finite


def count_reaching(scores: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
    """How many of scores (b, v) are at least the goal (b,) of their row, and whether all scores are finite."""
    if native.serves(scores, goals):
        found = torch.empty(len(scores), dtype=torch.int64)
        native.call("count_reaching", scores, goals, *scores.shape, found)
        return found, found.ge(0).all()
    return scores.ge(goals[:, None]).sum(1), scores.sum().isfinite()
