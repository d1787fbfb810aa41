"""Full ranking: the rank of each user's held-out item among all items, counted in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers import native
from trainers.backbones import Encoder
from trainers.batches import newest, rows_of
from trainers.held_out import HeldOut
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
    num_items: int

    @classmethod
    def of(
        cls,
        wanted: HeldOut,
        num_items: int,
        max_length: int,
        rule: Filter,
        device: torch.device,
    ) -> Evaluation:
        """An evaluation of the items that are `wanted` of U users after their histories."""
        items, offsets, targets = wanted.items, wanted.offsets, wanted.targets
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
            num_items=num_items,
        )


def runs_of(tokens: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Users from start to stop, each run with at most BLOCK_USERS and BLOCK_TOKENS; user u has tokens[u + 1] in all."""
    start, users = 0, len(tokens) - 1
    while start < users:
        fitting = int(np.searchsorted(tokens, tokens[start] + BLOCK_TOKENS, side="right")) - 1
        stop = min(max(fitting, start + 1), start + BLOCK_USERS, users)
        yield start, stop
        start = stop


@dataclass(frozen=True)
class Everyone:
    """Ranks (U,) of the targets of all users, and their best items (U, k) with their scores."""

    ranks: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Boosts:
    """What is added to some scores of a block: each pair of a user, by number in the block, and an item once."""

    rows: Tensor  # (E,) users, ordered by item
    items: Tensor  # (E,)
    values: Tensor  # (E,)
    bounds: tuple[int, ...]  # where each chunk of the catalogue begins, and where the last one ends
    codes: Tensor  # (E,) user * V + item, ascending
    by_code: Tensor  # (E,) the values in that order

    def of(self, items: Tensor, num_items: int) -> Tensor:
        """What the score of item (b, …) of each user gets: zero for most."""
        users = torch.arange(len(items), device=items.device).view(-1, *[1] * (items.dim() - 1))
        wanted = users * num_items + items
        if not len(self.codes):
            return torch.zeros_like(wanted, dtype=torch.float32)
        place = torch.searchsorted(self.codes, wanted).clamp(max=len(self.codes) - 1)
        return torch.where(self.codes[place] == wanted, self.by_code[place], 0.0)


@dataclass(frozen=True)
class Scores:
    """Scores of a block of users for all items: products of states (b, D) and table (V, D), and what is added."""

    states: Tensor
    table: Tensor
    boosts: Boosts | None = None

    def chunk(self, number: int, size: int) -> Tensor:
        """Scores (b, v) of the chunk `number` of the catalogue, of `size` items but the last."""
        scores = self.states @ self.table[number * size : (number + 1) * size].T
        if self.boosts is not None:
            part = slice(*self.boosts.bounds[number : number + 2])
            places = self.boosts.rows[part] * scores.shape[1] + self.boosts.items[part] - number * size
            scores.view(-1).index_add_(0, places, self.boosts.values[part])
        return scores

    def of(self, items: Tensor) -> Tensor:
        """The score (b,) of one item of each user; a product like those of a chunk, to be as exact."""
        scores = torch.mm(self.states, self.table[items].T).diagonal()
        return scores.contiguous() if self.boosts is None else scores + self.boosts.of(items, len(self.table))


@dataclass(frozen=True)
class Ranking:
    """Rank (b,) of every target, whether all scores are finite, and the best items (b, k) with their scores."""

    ranks: Tensor
    finite: Tensor
    items: Tensor
    scores: Tensor


@torch.inference_mode()
def ranks(model: Encoder, evaluation: Evaluation) -> npt.NDArray[np.int64]:
    """Rank (U,) of every target, from 1: 1 + others scored greater + others scored equal. V + 1 is "filtered".

    Raises Diverged when a score is not finite.
    """
    table = model.output_table()  # (V, D)
    return whole(evaluation, lambda states, block: ranked(Scores(states, table), evaluation, block), model).ranks


def whole(evaluation: Evaluation, rank: Callable[[Tensor, Block], Ranking], model: Encoder) -> Everyone:
    """Ranks all users block by block, as `rank` does with the states (b, D) of one."""
    model.eval()
    found = [
        rank(newest(model.encode(evaluation.items[block.tokens], block.offsets), block.offsets), block)
        for block in evaluation.blocks
    ]
    if not torch.stack([ranking.finite for ranking in found]).all():
        raise Diverged("a score is not finite")
    ranks = torch.cat([ranking.ranks for ranking in found]).masked_fill(evaluation.lost, evaluation.num_items + 1)
    items, scores = (torch.cat(part) for part in zip(*((one.items, one.scores) for one in found), strict=True))
    return Everyone(ranks.cpu().numpy(), items.cpu().numpy(), scores.cpu().numpy())


def ranked(scores: Scores, evaluation: Evaluation, block: Block, best: int = 0) -> Ranking:
    """Ranks the targets of `block` among all items by `scores`, and finds the `best` items that are not filtered."""
    targets, chunk = evaluation.targets[block.users], evaluation.chunk
    goals = scores.of(targets)  # (b,)
    ahead = torch.ones_like(targets)
    finite = goals.isfinite().all()
    top = Top(len(targets), best, goals)
    for number in range(len(block.bounds) - 1):
        start = number * chunk
        found = scores.chunk(number, chunk)  # (b, v)
        reaching, sound = count_reaching(found, goals)
        finite = finite & sound
        here = (targets >= start) & (targets < start + found.shape[1])
        own = found.gather(1, (targets - start).clamp(0, found.shape[1] - 1)[:, None]).squeeze(1)
        ahead += reaching - (here & (own >= goals)).long()
        part = slice(*block.bounds[number : number + 2])
        users, items = block.rows[part], block.items[part] - start
        others = items + start != targets[users]
        ahead.index_add_(0, users, ((found[users, items] >= goals[users]) & others).long(), alpha=-1)
        if best:
            found[users, items] = -torch.inf
            top.take(found, start)
    return Ranking(ahead, finite, top.items, top.scores)


class Top:
    """The k best items (b, k) of users so far, best first, and their scores; -1 where no item is left."""

    def __init__(self, users: int, k: int, like: Tensor) -> None:
        self.scores = like.new_full((users, k), -torch.inf)
        self.items = torch.full((users, k), -1, device=like.device)

    def take(self, scores: Tensor, start: int) -> None:
        """Looks at scores (b, v) of the items from `start` on."""
        k = self.scores.shape[1]
        if native.serves(scores):
            native.call("keep_best", scores, *scores.shape, start, k, self.scores, self.items)
            return
        here, places = scores.topk(min(k, scores.shape[1]), 1)
        both, items = torch.cat([self.scores, here], 1), torch.cat([self.items, places + start], 1)
        self.scores, order = both.topk(k, 1)
        self.items = items.gather(1, order).masked_fill_(self.scores == -torch.inf, -1)


def count_reaching(scores: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
    """How many of scores (b, v) are at least the goal (b,) of their row, and whether all scores are finite."""
    if native.serves(scores, goals):
        found = torch.empty(len(scores), dtype=torch.int64)
        native.call("count_reaching", scores, goals, *scores.shape, found)
        return found, found.ge(0).all()
    return scores.ge(goals[:, None]).sum(1), scores.sum().isfinite()
