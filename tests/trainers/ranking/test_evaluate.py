"""Ranks worked by hand, the rules for filtering seen items, and metrics beside an independent implementation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torchmetrics.retrieval import RetrievalMRR, RetrievalNormalizedDCG, RetrievalRecall

from tests.support.handmade import training_data, walks
from trainers.contract.metrics import Filter, filter_rule, metrics_of
from trainers.contract.specs import SASRecSpec
from trainers.contract.wire import FilterSeen
from trainers.models.backbones import Encoder, build
from trainers.models.batches import Layout
from trainers.ranking import evaluate
from trainers.ranking.evaluate import Diverged, Evaluation, ranks


class Scripted(Encoder):
    """Scores items as the script says: the newest item of a history chooses the row."""

    def __init__(self, scores: list[list[float]]) -> None:
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, items: Tensor, layout: Layout) -> Tensor:
        return self.scores[items]

    def output_rows(self, items: Tensor) -> Tensor:
        return self.output_table()[items]

    def output_table(self) -> Tensor:
        return torch.eye(self.scores.shape[1])


def ranked(
    model: Encoder, sequences: list[list[int]], targets: list[int], num_items: int, rule: Filter, max_length: int = 10
) -> list[int]:
    data = training_data(sequences, targets, num_items)
    evaluation = Evaluation.of(data.held_out(), num_items, max_length, rule, torch.device("cpu"))
    return ranks(model, evaluation).tolist()


SCORES = [[0.1, 0.9, 0.5, 0.5, 0.7, 0.5]] * 6  # from best: 1, 4, then 2, 3 and 5 alike, 0


@pytest.mark.parametrize(("target", "rank"), [(1, 1), (4, 2), (2, 5), (3, 5), (5, 5), (0, 6)])
def test_rank_is_one_plus_items_scored_greater_plus_others_scored_equal(target: int, rank: int) -> None:
    assert ranked(Scripted(SCORES), [[0]], [target], 6, "no") == [rank]


@pytest.mark.parametrize(
    ("rule", "target", "rank"),
    [
        ("no", 2, 5),
        ("yes", 2, 3),  # 1 and 3 are seen: only 4 and 5 are ahead or beside
        ("reference", 2, 3),
        ("no", 0, 6),
        ("yes", 0, 4),  # a seen item counts once, however often it was seen
        ("yes", 3, 7),  # the target itself was seen: filtered, so not found
        ("reference", 3, 4),  # the target is spared; 1 is masked; 4, 2 and 5 are ahead or beside
    ],
)
def test_seen_items_are_filtered_as_the_rule_says(rule: Filter, target: int, rank: int) -> None:
    assert ranked(Scripted(SCORES), [[1, 3, 1]], [target], 6, rule) == [rank]


def test_the_whole_history_is_filtered_beyond_max_length_too() -> None:
    assert ranked(Scripted(SCORES), [[1, 4, 3]], [2], 6, "yes", max_length=1) == [2]


def test_users_are_ranked_together_up_to_a_number_of_users_and_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "BLOCK_USERS", 3)
    monkeypatch.setattr(evaluate, "BLOCK_TOKENS", 10)
    tokens = np.cumsum([0, 1, 1, 1, 1, 5, 4, 12, 9, 1])
    assert list(evaluate.runs_of(tokens)) == [(0, 3), (3, 6), (6, 7), (7, 9)]


def test_users_are_filtered_by_their_own_histories() -> None:
    sequences = [[1], [4, 1], [5], [2, 3, 5, 4, 1]]
    assert ranked(Scripted(SCORES), sequences, [0, 0, 0, 0], 6, "yes") == [5, 4, 5, 1]


def test_a_constant_scorer_finds_nothing() -> None:
    for score in (0.0, 0.1):
        found = ranked(Scripted([[score] * 30] * 30), [[1, 2], [3]], [5, 6], 30, "yes")
        assert found == [28, 29]
    assert set(metrics_of(np.array(found)).values()) == {0.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_divergence(bad: float) -> None:
    scores = [row.copy() for row in SCORES]
    scores[3][5] = bad
    with pytest.raises(Diverged, match="a score is not finite"):
        ranked(Scripted(scores), [[0], [3]], [1, 1], 6, "yes")


@pytest.mark.parametrize(
    ("filter_seen", "repeat_rate", "rule"),
    [
        ("auto", 0.01, "yes"),
        ("auto", 0.011, "no"),
        ("yes", 0.5, "yes"),
        ("no", 0.0, "no"),
        ("reference", 0.5, "reference"),
    ],
)
def test_auto_filters_unless_users_repeat_items(filter_seen: FilterSeen, repeat_rate: float, rule: Filter) -> None:
    assert filter_rule(filter_seen, training_data([[1]], [2], 3, repeat_rate).facts) == rule


@pytest.mark.parametrize("rule", ["yes", "no", "reference"])
def test_counting_in_blocks_equals_sorting_every_user(rule: Filter, monkeypatch: pytest.MonkeyPatch) -> None:
    data = walks(users=70, num_items=40, longest=15)
    spec = SASRecSpec(max_length=10, hidden_dim=16)
    torch.manual_seed(0)
    model = build(spec, 40).eval()
    monkeypatch.setattr(evaluate, "BLOCK_USERS", 33)  # the last of three blocks has four users
    monkeypatch.setattr(evaluate, "BLOCK_SCORES", 1)  # the last of three chunks has eight items
    evaluation = Evaluation.of(data.held_out(), 40, 10, rule, torch.device("cpu"))
    wanted = [by_sorting(model, data.items[start:end], int(target), rule)
              for start, end, target in zip(data.offsets, data.offsets[1:], data.validation, strict=False)]  # fmt: skip
    assert ranks(model, evaluation).tolist() == wanted


def by_sorting(model: Encoder, history: npt.NDArray[np.int32], target: int, rule: Filter) -> int:
    """The rank of one user's target the slow way: drop what is filtered, sort, look the target up."""
    newest = torch.from_numpy(history[-10:].astype(np.int64))
    with torch.no_grad():
        scores = (model.encode(newest, torch.tensor([0, len(newest)])) @ model.output_table().T)[-1]
    kept = set(range(len(scores)))
    if rule != "no":
        kept -= set(history.tolist()) - ({target} if rule == "reference" else set())
    order = sorted(kept, key=lambda item: -float(scores[item]))
    return order.index(target) + 1 if target in kept else len(scores) + 1


def test_metrics_of_ranks_by_hand() -> None:
    assert metrics_of(np.array([1, 3, 12, 100])) == pytest.approx(
        {
            "recall@5": 2 / 4,
            "recall@10": 2 / 4,
            "recall@20": 3 / 4,
            "ndcg@5": (1 + 1 / 2) / 4,
            "ndcg@10": (1 + 1 / 2) / 4,
            "ndcg@20": (1 + 1 / 2 + 1 / np.log2(13)) / 4,
            "mrr@10": (1 + 1 / 3) / 4,
        }
    )


def test_metrics_agree_with_torchmetrics() -> None:
    users, items = 50, 60
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(users, items, generator=generator)
    targets = torch.randint(items, (users,), generator=generator)
    found = 1 + (scores > scores.gather(1, targets[:, None])).sum(1)
    relevant = torch.zeros(users, items, dtype=torch.long).scatter_(1, targets[:, None], 1)
    index = torch.arange(users)[:, None].expand(users, items)
    wanted = {f"recall@{k}": RetrievalRecall(top_k=k) for k in (5, 10, 20)}
    wanted |= {f"ndcg@{k}": RetrievalNormalizedDCG(top_k=k) for k in (5, 10, 20)}
    wanted |= {"mrr@10": RetrievalMRR(top_k=10)}
    theirs = {
        name: float(metric(scores.flatten(), relevant.flatten(), indexes=index.flatten()))
        for name, metric in wanted.items()
    }
    assert metrics_of(found.numpy()) == pytest.approx(theirs)
