"""The final score of an item: the encoder's score, mixed with counts of the training split or re-ranked by them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainers.contract.fields import Spec
from trainers.models.backbones import Encoder
from trainers.ranking import item_priors
from trainers.ranking.evaluate import Block, Boosts, Evaluation, Everyone, Ranking, Scores, rank_block, rank_blocks

if TYPE_CHECKING:  # an exported model runs without the code that reads datasets
    from trainers.data import TrainingData


@dataclass(frozen=True)
class Scoring:
    """The final score: score + spread * (popularity + sum over recent items of weight * related).

    The spread is 1, or the standard deviation of the user's scores over all items. With `rerank`, only that many
    items with the best encoder scores are rescored, and they stay ahead of all others; 0 rescores all items.
    """

    normalized: bool
    popularity: Tensor | None  # (V,)
    related: Tensor | None  # sparse (V, V)
    recent: int
    rerank: int

    @classmethod
    def of(cls, spec: Spec, data: TrainingData, device: torch.device) -> Scoring | None:
        """The scoring of `spec`, counted in the training items of `data`; None if the encoder's score is used alone."""
        parts: list[Tensor] = []
        if spec.transition_alpha:
            pairs = item_priors.transitions(data)
            parts.append(spec.transition_alpha * item_priors.related(pairs, spec.prior_norm, spec.prior_top_k, data))
        if spec.item_cf_alpha:
            pairs = item_priors.neighbours(data, spec.item_cf_window)
            parts.append(spec.item_cf_alpha * item_priors.related(pairs, spec.prior_norm, spec.prior_top_k, data))
        popularity = torch.from_numpy(item_priors.popularity(data)) * spec.popularity_alpha
        related = sum(parts[1:], parts[0]).coalesce() if parts else None
        return cls.given(spec, popularity if spec.popularity_alpha else None, related, device)

    @classmethod
    def given(
        cls, spec: Spec, popularity: Tensor | None, related: Tensor | None, device: torch.device
    ) -> Scoring | None:
        """The scoring of `spec` with existing weighted counts, popularity (V,) and related (V, V); None without any."""
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
        """The factor (b,) of the priors; a deviation of scores follows from the covariance of the table (V, D)."""
        if not self.normalized:
            return torch.ones_like(states[:, 0])
        centred = table - table.mean(0)
        covariance = centred.T @ centred / len(table)  # (D, D)
        return ((states @ covariance) * states).sum(1).clamp(min=0).sqrt()

    def boosts(self, block: Block, evaluation: Evaluation, spread: Tensor) -> Boosts | None:
        """Terms for the scores of items that are related to the recent items of each user in `block`."""
        if self.related is None:
            return None
        with warnings.catch_warnings():  # torch warns that sparse CSR products are in beta
            warnings.filterwarnings("ignore", "Sparse CSR tensor support")
            sums = torch.sparse.mm(self._recent(block, evaluation), self.related).coalesce()  # (b, V)
        rows, items = sums.indices()  # by user, then by item
        values = sums.values() * spread[rows]
        order = items.argsort(stable=True)
        by_item = items[order]
        edges = torch.arange(len(block.bounds), device=items.device) * evaluation.chunk
        bounds = torch.searchsorted(by_item, edges).tolist()
        codes = rows * evaluation.num_items + items
        return Boosts(rows[order], by_item, values[order], tuple(bounds), codes, values)

    def _recent(self, block: Block, evaluation: Evaluation) -> Tensor:
        """Sparse weights (b, V) of each user's recent items: 1, 1/2, 1/3, … from the newest, scaled to sum to 1."""
        starts, ends = block.offsets[:-1], block.offsets[1:]
        age = torch.arange(self.recent)
        exists = ends[:, None] - 1 - age >= starts[:, None]  # (b, R)
        weights = exists / (1.0 + age)
        weights /= weights.sum(1, keepdim=True)
        users = torch.arange(len(ends))[:, None].expand_as(exists)[exists]
        places = (ends[:, None] - 1 - age)[exists].to(evaluation.items.device)
        items = evaluation.items[block.tokens][places]
        indices = torch.stack([users.to(items.device), items])
        size = (len(ends), evaluation.num_items)
        recent = torch.sparse_coo_tensor(indices, weights[exists].to(items.device), size, check_invariants=False)
        return recent.coalesce()


@torch.inference_mode()
def rank_all(model: Encoder, evaluation: Evaluation, scoring: Scoring | None, best: int) -> Everyone:
    """Ranks (U,) and `best` top items of all users by final score, or by the encoder's without `scoring`.

    Raises Diverged if a score is not finite.
    """
    table = model.output_table()  # (V, D)

    def rank(states: Tensor, block: Block) -> Ranking:
        plain = Scores(states, table)
        if scoring is None:
            return rank_block(plain, evaluation, block, best)
        spread = scoring.spread(states, table)
        boosts = scoring.boosts(block, evaluation, spread)
        if scoring.rerank:
            by_encoder = rank_block(plain, evaluation, block, max(best, scoring.rerank))
            return _rerank(by_encoder, scoring, boosts, spread, evaluation, block)
        if scoring.popularity is not None:
            states = torch.cat([states, spread[:, None]], 1)
            return rank_block(Scores(states, popular, boosts), evaluation, block, best)
        return rank_block(Scores(states, table, boosts), evaluation, block, best)

    popular = table
    if scoring is not None and scoring.popularity is not None:
        popular = torch.cat([table, scoring.popularity[:, None]], 1)
    everyone = rank_blocks(evaluation, rank, model)
    return Everyone(everyone.ranks, everyone.items[:, :best], everyone.scores[:, :best])


def _rerank(
    plain: Ranking, scoring: Scoring, boosts: Boosts | None, spread: Tensor, evaluation: Evaluation, block: Block
) -> Ranking:
    """`plain` with its best items in the order of their final scores, and everything else unchanged."""
    items, scores = plain.items[:, : scoring.rerank], plain.scores[:, : scoring.rerank]
    if scoring.popularity is not None:
        scores = scores + spread[:, None] * scoring.popularity[items]
    if boosts is not None:
        scores = scores + boosts.of(items, evaluation.num_items)
    is_target = items == evaluation.targets[block.users][:, None]
    target_among_best = is_target.any(1) & (plain.ranks <= items.shape[1])
    goals = scores.masked_fill(~is_target, -torch.inf).amax(1, keepdim=True)
    ranks = torch.where(target_among_best, (scores >= goals).sum(1), plain.ranks)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    others = slice(scoring.rerank, None)
    items = torch.cat([items.gather(1, order), plain.items[:, others]], 1)
    return Ranking(ranks, plain.finite, items, torch.cat([scores, plain.scores[:, others]], 1))
