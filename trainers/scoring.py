"""The final score of an item: that of the encoder, mixed with counts of the training split, or re-ranked by them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers import priors
from trainers.backbones import Encoder
from trainers.evaluate import Block, Boosts, Evaluation, Everyone, Ranking, Scores, ranked, whole
from trainers.fields import Spec

if TYPE_CHECKING:  # a model that was taken home runs without what reads datasets
    from trainers.data import TrainingData


@dataclass(frozen=True)
class Scoring:
    """score + spread * (popularity + sum over recent items of weight * related), where the spread is 1, or the
    deviation of the user's scores over all items.

    `rerank`: only so many items that the encoder scores best are scored so, and stay ahead of all others; 0 is all.
    """

    normalized: bool
    popularity: Tensor | None  # (V,)
    related: Tensor | None  # sparse (V, V)
    recent: int
    rerank: int

    @classmethod
    def of(cls, spec: Spec, data: TrainingData, device: torch.device) -> Scoring | None:
        """What `spec` asks for, counted in the training items of `data`; None where it is the encoder's score alone."""
        parts: list[Tensor] = []
        if spec.transition_alpha:
            pairs = priors.transitions(data)
            parts.append(spec.transition_alpha * priors.related(pairs, spec.prior_norm, spec.prior_top_k, data))
        if spec.item_cf_alpha:
            pairs = priors.neighbours(data, spec.item_cf_window)
            parts.append(spec.item_cf_alpha * priors.related(pairs, spec.prior_norm, spec.prior_top_k, data))
        popularity = torch.from_numpy(priors.popularity(data)) * spec.popularity_alpha
        related = sum(parts[1:], parts[0]).coalesce() if parts else None
        return cls.given(spec, popularity if spec.popularity_alpha else None, related, device)

    @classmethod
    def given(
        cls, spec: Spec, popularity: Tensor | None, related: Tensor | None, device: torch.device
    ) -> Scoring | None:
        """What `spec` asks for, with weighted counts that are there already; None where there are none."""
        if popularity is None and related is None:
            return None
        return cls(
            normalized=spec.score_normalization == "z_score",
            popularity=None if popularity is None else popularity.to(device),
            related=None if related is None else related.to(device),
            recent=spec.prior_recent_k,
            rerank=spec.rerank_top_k,
        )

    def spread(self, states: Tensor, table: Tensor) -> Tensor:
        """The factor of priors (b,): the deviation of a user's scores follows from the table's covariance."""
        if not self.normalized:
            return torch.ones_like(states[:, 0])
        centred = table - table.mean(0)
        covariance = centred.T @ centred / len(table)  # (D, D)
        return ((states @ covariance) * states).sum(1).clamp(min=0).sqrt()

    def boosts(self, block: Block, evaluation: Evaluation, spread: Tensor) -> Boosts | None:
        """What related items get after the recent ones of each user in `block`."""
        if self.related is None:
            return None
        with warnings.catch_warnings():  # torch calls the format beta that it computes such products in
            warnings.filterwarnings("ignore", "Sparse CSR tensor support")
            found = torch.sparse.mm(self._recent(block, evaluation), self.related).coalesce()  # (b, V)
        rows, items = found.indices()  # by user, then by item
        values = found.values() * spread[rows]
        order = items.argsort(stable=True)
        by_item = items[order]
        edges = torch.arange(len(block.bounds), device=items.device) * evaluation.chunk
        bounds = torch.searchsorted(by_item, edges).tolist()
        codes = rows * evaluation.num_items + items
        return Boosts(rows[order], by_item, values[order], tuple(bounds), codes, values)

    def _recent(self, block: Block, evaluation: Evaluation) -> Tensor:
        """Sparse weights (b, V) of the recent items of users: 1, 1/2, 1/3, … from the newest, scaled to sum to 1."""
        starts, ends = block.offsets[:-1], block.offsets[1:]
        age = torch.arange(self.recent)
        there = ends[:, None] - 1 - age >= starts[:, None]  # (b, R)
        weights = there / (1.0 + age)
        weights /= weights.sum(1, keepdim=True)
        users = torch.arange(len(ends))[:, None].expand_as(there)[there]
        places = (ends[:, None] - 1 - age)[there].to(evaluation.items.device)
        items = evaluation.items[block.tokens][places]
        indices = torch.stack([users.to(items.device), items])
        size = (len(ends), evaluation.num_items)
        found = torch.sparse_coo_tensor(indices, weights[there].to(items.device), size, check_invariants=False)
        return found.coalesce()


@torch.inference_mode()
def rank_all(model: Encoder, evaluation: Evaluation, scoring: Scoring | None, best: int) -> Everyone:
    """Ranks and the `best` items of all users by their final scores; raises Diverged like `ranks`."""
    table = model.output_table()  # (V, D)

    def rank(states: Tensor, block: Block) -> Ranking:
        plain = Scores(states, table)
        if scoring is None:
            return ranked(plain, evaluation, block, best)
        spread = scoring.spread(states, table)
        boosts = scoring.boosts(block, evaluation, spread)
        if scoring.rerank:
            found = ranked(plain, evaluation, block, max(best, scoring.rerank))
            return _reranked(found, scoring, boosts, spread, evaluation, block)
        if scoring.popularity is not None:
            states = torch.cat([states, spread[:, None]], 1)
            return ranked(Scores(states, popular, boosts), evaluation, block, best)
        return ranked(Scores(states, table, boosts), evaluation, block, best)

    popular = table
    if scoring is not None and scoring.popularity is not None:
        popular = torch.cat([table, scoring.popularity[:, None]], 1)
    found = whole(evaluation, rank, model)
    return Everyone(found.ranks, found.items[:, :best], found.scores[:, :best])


def _reranked(
    plain: Ranking, scoring: Scoring, boosts: Boosts | None, spread: Tensor, evaluation: Evaluation, block: Block
) -> Ranking:
    """The best items of `plain` in the order of their final scores, everything else where it was."""
    items, scores = plain.items[:, : scoring.rerank], plain.scores[:, : scoring.rerank]
    if scoring.popularity is not None:
        scores = scores + spread[:, None] * scoring.popularity[items]
    if boosts is not None:
        scores = scores + boosts.of(items, evaluation.num_items)
    own = items == evaluation.targets[block.users][:, None]
    among = own.any(1) & (plain.ranks <= items.shape[1])
    goals = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    ranks = torch.where(among, (scores >= goals).sum(1), plain.ranks)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    others = slice(scoring.rerank, None)
    items = torch.cat([items.gather(1, order), plain.items[:, others]], 1)
    return Ranking(ranks, plain.finite, items, torch.cat([scores, plain.scores[:, others]], 1))
