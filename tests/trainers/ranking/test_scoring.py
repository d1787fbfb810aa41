"""Priors counted by hand, and final scores beside a definition that scores every user and item one by one."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import weights
from tests.support.handmade import training_data, walks
from trainers.contract.metrics import Filter
from trainers.contract.specs import SASRecSpec
from trainers.data import TrainingData
from trainers.models.backbones import Encoder, build
from trainers.ranking import evaluate
from trainers.ranking.evaluate import Evaluation
from trainers.ranking.item_priors import neighbours, popularity, related, transitions
from trainers.ranking.scoring import Scoring, rank_all

CPU = torch.device("cpu")
SEQUENCES = [[0, 1, 2, 1, 2], [1, 2], [3], [2, 0, 1]]
DATA = training_data(SEQUENCES, [3, 0, 1, 3], 5)


def table(pairs: Any) -> dict[tuple[int, int], int]:
    return {
        (a, b): n for a, b, n in zip(pairs.before.tolist(), pairs.after.tolist(), pairs.counts.tolist(), strict=True)
    }


def test_transitions_are_pairs_that_follow_each_other_in_one_sequence() -> None:
    assert table(transitions(DATA)) == {(0, 1): 2, (1, 2): 3, (2, 0): 1, (2, 1): 1}


def test_neighbours_stand_within_the_window_whichever_came_first() -> None:
    within_one = {(0, 1): 2, (1, 2): 4, (0, 2): 1}
    assert table(neighbours(DATA, 1)) == within_one | {(b, a): n for (a, b), n in within_one.items()}
    within_three = {(0, 1): 3, (1, 2): 6, (0, 2): 2}  # 1 and 1, 2 and 2 are no pairs
    assert table(neighbours(DATA, 3)) == within_three | {(b, a): n for (a, b), n in within_three.items()}
    assert table(neighbours(DATA, 50)) == table(neighbours(DATA, 4))


def test_popularity_is_the_log_of_the_count_as_a_share_of_the_largest() -> None:
    expected = [log(1 + count) / log(5) for count in (2, 4, 4, 1, 0)]
    assert popularity(DATA).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("none", [[0, 2, 0], [0, 0, 3], [1, 1, 0]]),
        ("count", [[0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]]),
        ("sqrt", [[0, 2 / 8**0.5, 0], [0, 0, 3 / 4], [1 / 8**0.5, 1 / 4, 0]]),
    ],
)
def test_related_items_are_weighed_as_the_norm_says(norm: Any, expected: list[list[float]]) -> None:
    found = related(transitions(DATA), norm, 20, DATA).to_dense()
    torch.testing.assert_close(found[:3, :3], torch.tensor(expected, dtype=torch.float32))
    assert not found[3:].any()


def test_only_the_strongest_relations_of_an_item_are_kept() -> None:
    found = related(transitions(DATA), "none", 1, DATA).to_dense()
    assert found[2].tolist() == [1, 0, 0, 0, 0]  # of 0 and 1, equally often, the lower number


def scores_by_definition(
    spec: SASRecSpec, model: Encoder, data: TrainingData, user: int
) -> tuple[np.ndarray, np.ndarray]:
    """Plain and final scores (V,) of one user."""
    start, stop = data.offsets[user : user + 2]
    history = data.items[start:stop].tolist()
    with torch.no_grad():
        kept = torch.tensor(history[-spec.max_length :])
        plain = (model.encode(kept, torch.tensor([0, len(kept)]))[-1] @ model.output_table().T).double().numpy()
    spread = plain.std() if spec.score_normalization == "z_score" else 1.0
    final = plain + spread * spec.popularity_alpha * popularity(data).astype(float)
    recent = history[::-1][: spec.prior_recent_k]
    shares = np.array([1 / (place + 1) for place in range(len(recent))])
    for alpha, pairs in (
        (spec.transition_alpha, transitions(data)),
        (spec.item_cf_alpha, neighbours(data, spec.item_cf_window)),
    ):
        weights = related(pairs, spec.prior_norm, spec.prior_top_k, data).to_dense().double().numpy()
        for item, share in zip(recent, shares / shares.sum(), strict=True):
            final = final + spread * alpha * share * weights[item]
    return plain, final


def by_definition(
    spec: SASRecSpec, model: Encoder, data: TrainingData, rule: Filter
) -> tuple[list[int], list[list[int]]]:
    ranks, best = [], []
    for user, target in enumerate(data.validation.tolist()):
        plain, final = scores_by_definition(spec, model, data, user)
        seen = set(data.items[data.offsets[user] : data.offsets[user + 1]].tolist()) if rule == "yes" else set()
        left = [item for item in range(data.num_items) if item not in seen]
        order = sorted(left, key=lambda item: -final[item])
        if spec.rerank_top_k:
            first = sorted(left, key=lambda item: -plain[item])
            head = first[: spec.rerank_top_k]
            order = sorted(head, key=lambda item: -final[item]) + first[spec.rerank_top_k :]
        ranks.append(order.index(target) + 1 if target in order else data.num_items + 1)
        best.append(order[:10])
    return ranks, best


PRIORS = [
    {"popularity_alpha": 0.5},
    {"transition_alpha": 1.0, "prior_norm": "count"},
    {"item_cf_alpha": 2.0, "item_cf_window": 3},
    {"popularity_alpha": 0.3, "transition_alpha": 0.5, "item_cf_alpha": 1.5, "prior_recent_k": 3},
    {"popularity_alpha": 0.3, "transition_alpha": 2.0, "score_normalization": "none", "prior_norm": "none"},
    {"popularity_alpha": 0.5, "item_cf_alpha": 2.0, "rerank_top_k": 50},
]


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("rule", ["yes", "no"])
@pytest.mark.parametrize("given", PRIORS)
def test_final_scores_rank_as_defined(
    given: dict[str, Any], rule: Filter, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "BLOCK_USERS", block)
    monkeypatch.setattr(evaluate, "BLOCK_SCORES", 40 * block)  # so that the catalogue takes several chunks
    data = walks(60, 130, 25)
    spec = SASRecSpec.model_validate({"hidden_dim": 16, "max_length": 10, **given})
    torch.manual_seed(0)
    model = build(spec, data.num_items)
    torch.nn.init.normal_(weights.table(model).weight)
    model.eval()
    evaluation = Evaluation.of(data.held_out(), data.num_items, 10, rule, CPU)
    found = rank_all(model, evaluation, Scoring.of(spec, data, CPU), 10)
    ranks, best = by_definition(spec, model, data, rule)
    assert found.ranks.tolist() == ranks
    assert found.items.tolist() == best
    plain = rank_all(model, evaluation, None, 10)
    assert plain.ranks.tolist() != ranks
    np.testing.assert_array_equal(plain.ranks, evaluate.ranks(model, evaluation))


def test_a_spec_without_priors_scores_by_the_encoder_alone() -> None:
    assert Scoring.of(SASRecSpec(), DATA, CPU) is None


def test_users_with_few_items_left_get_a_short_list() -> None:
    spec = SASRecSpec(hidden_dim=16, max_length=10)
    model = build(spec, 5)
    evaluation = Evaluation.of(DATA.held_out(), 5, 10, "yes", CPU)
    lists = rank_all(model, evaluation, None, 10).items
    assert (lists >= 0).sum(1).tolist() == [2, 3, 4, 2]
    assert [set(row[row >= 0].tolist()) & set(SEQUENCES[user]) for user, row in enumerate(lists)] == [set()] * 4
