"""Full ranking: the rank of each user's held-out item among all items, computed in blocks of users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.contract.metrics import Filter
from trainers.data.held_out import HeldOut
from trainers.models import native
from trainers.models.backbones import Encoder
from trainers.models.batches import newest, rows_of

BLOCK_USERS = 1024
BLOCK_TOKENS = 2**15
"""Largest number of tokens in a block of users, because encoding holds them in memory several times over."""
BLOCK_SCORES = 2**21
"""Number of scores held at once: 8 MiB in fp32."""


class Diverged(ArithmeticError):
    """A loss or a score is not a finite number; the message says which and when."""


@dataclass(frozen=True)
class Block:
    """A block of b users that are ranked together, and the items that their histories filter."""

    users: slice
    tokens: slice  # the tokens of their histories
    offsets: Tensor  # (b+1,) on the host, starting at 0
    rows: Tensor  # (F,) the user of each filtered item, as a number within the block
    items: Tensor  # (F,) the filtered items, in ascending order; on the device, like rows
    bounds: tuple[int, ...]  # where the filtered items of each chunk of the catalogue start, and the last end


@dataclass(frozen=True)
class Evaluation:
    """Histories to encode, items to find and items to filter, prepared once for all epochs. U users, V items."""

    items: Tensor  # (N,) histories cut to their newest max_length, on the device
    targets: Tensor  # (U,) on the device
    lost: Tensor  # (U,) whether the target itself is filtered, and so cannot be found
    blocks: tuple[Block, ...]
    chunk: int  # items scored at once
    num_items: int

    @classmethod
    def of(
        cls,
        held_out: HeldOut,
        num_items: int,
        max_length: int,
        rule: Filter,
        device: torch.device,
    ) -> Evaluation:
        """The evaluation of the held-out items of U users after their histories, filtered by `rule`."""
        items, offsets, targets = held_out.items, held_out.offsets, held_out.targets
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
    """Ranges of users, start to stop, within BLOCK_USERS and BLOCK_TOKENS; `tokens` (U+1,) are running totals."""
    start, users = 0, len(tokens) - 1
    while start < users:
        fitting = int(np.searchsorted(tokens, tokens[start] + BLOCK_TOKENS, side="right")) - 1
        stop = min(max(fitting, start + 1), start + BLOCK_USERS, users)
        yield start, stop
        start = stop


@dataclass(frozen=True)
class Everyone:
    """Ranks (U,) of the targets of all users, and the best items (U, k) of each with their scores (U, k)."""

    ranks: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Boosts:
    """Terms to add to some scores of a block, with each pair of a user (by number in the block) and an item once."""

    rows: Tensor  # (E,) users, ordered by item
    items: Tensor  # (E,)
    values: Tensor  # (E,)
    bounds: tuple[int, ...]  # where the pairs of each chunk of the catalogue start, and the last end
    codes: Tensor  # (E,) user * V + item, ascending
    by_code: Tensor  # (E,) the values in that order

    def of(self, items: Tensor, num_items: int) -> Tensor:
        """The terms (b, …) for the scores of `items` (b, …) of each user; zero for most."""
        users = torch.arange(len(items), device=items.device).view(-1, *[1] * (items.dim() - 1))
        pairs = users * num_items + items
        if not len(self.codes):
            return torch.zeros_like(pairs, dtype=torch.float32)
        place = torch.searchsorted(self.codes, pairs).clamp(max=len(self.codes) - 1)
        return torch.where(self.codes[place] == pairs, self.by_code[place], 0.0)


@dataclass(frozen=True)
class Scores:
    """Scores of a block of users for all items: products of states (b, D) and table (V, D), plus `boosts`."""

    states: Tensor
    table: Tensor
    boosts: Boosts | None = None

    def chunk(self, number: int, size: int) -> Tensor:
        """Scores (b, v) of the chunk `number` of the catalogue; chunks have `size` items, the last perhaps fewer."""
        scores = self.states @ self.table[number * size : (number + 1) * size].T
        if self.boosts is not None:
            part = slice(*self.boosts.bounds[number : number + 2])
            places = self.boosts.rows[part] * scores.shape[1] + self.boosts.items[part] - number * size
            scores.view(-1).index_add_(0, places, self.boosts.values[part])
        return scores

    def of(self, items: Tensor) -> Tensor:
        """The score (b,) of each user's item in `items` (b,), by a product like that of a chunk, to round alike."""
        scores = torch.mm(self.states, self.table[items].T).diagonal()
        return scores.contiguous() if self.boosts is None else scores + self.boosts.of(items, len(self.table))


@dataclass(frozen=True)
class Ranking:
    """Ranks (b,) of the targets, whether all scores are finite, and the best items (b, k) with their scores (b, k)."""

    ranks: Tensor
    finite: Tensor
    items: Tensor
    scores: Tensor


@torch.inference_mode()
def ranks(model: Encoder, evaluation: Evaluation) -> npt.NDArray[np.int64]:
    """Ranks (U,) of the targets: 1 + others scored higher + others scored equal, or V + 1 if the target is filtered.

    Raises Diverged if a score is not finite.
    """
    table = model.output_table()  # (V, D)
    return rank_blocks(
        evaluation, lambda states, block: rank_block(Scores(states, table), evaluation, block), model
    ).ranks


def rank_blocks(evaluation: Evaluation, rank: Callable[[Tensor, Block], Ranking], model: Encoder) -> Everyone:
    """Ranks all users block by block; `rank` takes the states (b, D) of a block. Raises Diverged."""
    model.eval()
    rankings = [
        rank(newest(model.encode(evaluation.items[block.tokens], block.offsets), block.offsets), block)
        for block in evaluation.blocks
    ]
    if not torch.stack([ranking.finite for ranking in rankings]).all():
        raise Diverged("a score is not finite")
    ranks = torch.cat([ranking.ranks for ranking in rankings]).masked_fill(evaluation.lost, evaluation.num_items + 1)
    items, scores = (
        torch.cat(part) for part in zip(*((ranking.items, ranking.scores) for ranking in rankings), strict=True)
    )
    return Everyone(ranks.cpu().numpy(), items.cpu().numpy(), scores.cpu().numpy())


def rank_block(scores: Scores, evaluation: Evaluation, block: Block, best: int = 0) -> Ranking:
    """Ranks the targets of `block` among all items by `scores`; finds as many unfiltered items as `best` says."""
    targets, chunk = evaluation.targets[block.users], evaluation.chunk
    goals = scores.of(targets)  # (b,)
    ahead = torch.ones_like(targets)
    finite = goals.isfinite().all()
    top = Top(len(targets), best, goals)
    for number in range(len(block.bounds) - 1):
        start = number * chunk
        chunk_scores = scores.chunk(number, chunk)  # (b, v)
        reaching, all_finite = count_reaching(chunk_scores, goals)
        finite = finite & all_finite
        here = (targets >= start) & (targets < start + chunk_scores.shape[1])
        target_scores = chunk_scores.gather(1, (targets - start).clamp(0, chunk_scores.shape[1] - 1)[:, None]).squeeze(
            1
        )
        ahead += reaching - (here & (target_scores >= goals)).long()
        part = slice(*block.bounds[number : number + 2])
        users, items = block.rows[part], block.items[part] - start
        others = items + start != targets[users]
        ahead.index_add_(0, users, ((chunk_scores[users, items] >= goals[users]) & others).long(), alpha=-1)
        if best:
            chunk_scores[users, items] = -torch.inf
            top.take(chunk_scores, start)
    return Ranking(ahead, finite, top.items, top.scores)


class Top:
    """The k best items (b, k) of each user so far, best first, and their scores (b, k); -1 where no item is left."""

    def __init__(self, users: int, k: int, like: Tensor) -> None:
        self.scores = like.new_full((users, k), -torch.inf)
        self.items = torch.full((users, k), -1, device=like.device)

    def take(self, scores: Tensor, start: int) -> None:
        """Takes scores (b, v) of the items from `start` on into account."""
        k = self.scores.shape[1]
        if native.serves(scores):
            native.call("keep_best", scores, *scores.shape, start, k, self.scores, self.items)
            return
        here, places = scores.topk(min(k, scores.shape[1]), 1)
        both, items = torch.cat([self.scores, here], 1), torch.cat([self.items, places + start], 1)
        self.scores, order = both.topk(k, 1)
        self.items = items.gather(1, order).masked_fill_(self.scores == -torch.inf, -1)


def count_reaching(scores: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
    """The number (b,) of scores (b, v) that reach the goal (b,) of their row, and whether all scores are finite."""
    if native.serves(scores, goals):
        counts = torch.empty(len(scores), dtype=torch.int64)
        native.call("count_reaching", scores, goals, *scores.shape, counts)
        return counts, counts.ge(0).all()
    return scores.ge(goals[:, None]).sum(1), scores.sum().isfinite()
