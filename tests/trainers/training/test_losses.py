"""Losses against torch's own cross entropy, in values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.contract.specs import SASRecSpec
from trainers.models.backbones import build
from trainers.training import losses, sampled_loss
from trainers.training.negatives import Negatives

N, V, D, K = 23, 17, 8, 5


def inputs(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(N, D, generator=generator) * scale
    table = torch.randn(V, D, generator=generator) * scale
    return states.requires_grad_(), table.requires_grad_(), torch.randint(V, (N,), generator=generator)


def assert_same(ours: Callable[[Tensor, Tensor, Tensor], Tensor], wanted: Callable[[Tensor, Tensor, Tensor], Tensor],
                scale: float = 1.0) -> None:  # fmt: skip
    """Equal in value and in both gradients, also when the loss is scaled before the backward pass."""
    found = []
    for loss in (ours, wanted):
        states, table, targets = inputs(scale)
        value = loss(states, table, targets)
        (3 * value).backward()
        found.append((value.detach(), states.grad, table.grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("block", [1, 3 * V, 2**22])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_full_softmax_is_cross_entropy_over_all_items(
    block: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "BLOCK_SCORES", block)
    assert_same(losses.full_softmax, lambda states, table, targets: F.cross_entropy(states @ table.T, targets), scale)


def softmax_by_definition(negatives: Tensor, correction: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Cross entropy over the target and its row of `negatives` (N, K), without those that are the target."""

    def loss(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        rows = []
        for state, target, others, more in zip(states, targets, negatives, correction, strict=True):
            kept = others != target
            scores = torch.cat([table[target, None] @ state, table[others[kept]] @ state + more[kept]])
            rows.append(F.cross_entropy(scores[None], torch.tensor([0])))
        return torch.stack(rows).mean()

    return loss


def binary_by_definition(negatives: Tensor, weight: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Mean of -weight * log P(target) and of -log(1 - P) of its negatives that are not the target."""

    def loss(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        rows = []
        for state, target, others in zip(states, targets, negatives, strict=True):
            kept = others[others != target]
            total = (
                -weight * torch.sigmoid(table[target] @ state).log()
                - (1 - torch.sigmoid(table[kept] @ state)).log().sum()
            )
            rows.append(total / (1 + len(others)))
        return torch.stack(rows).mean()

    return loss


def drawn() -> Tensor:
    negatives = torch.randint(V, (N, K), generator=torch.Generator().manual_seed(1))
    negatives[:, 1] = negatives[:, 0]  # the same negative twice counts twice
    negatives[4] = inputs()[2][4]  # every negative is the target: nothing to tell apart
    return negatives


BINARY = partial(sampled_loss.binary, weight=0.4)
NONE, SOME = torch.zeros(N, K), torch.linspace(-1, 2, N * K).view(N, K)
OBJECTIVES = [
    (sampled_loss.softmax, None, lambda negatives: softmax_by_definition(negatives, NONE)),
    (sampled_loss.softmax, SOME, lambda negatives: softmax_by_definition(negatives, SOME)),
    (BINARY, None, lambda negatives: binary_by_definition(negatives, 0.4)),
]
every_objective = pytest.mark.parametrize(
    ("objective", "correction", "wanted"), OBJECTIVES, ids=["softmax", "corrected", "binary"]
)


@pytest.mark.parametrize("block", [1, 3 * V * D, 2**22])
@pytest.mark.parametrize("dense_items", [0, 32])
@every_objective
def test_negatives_of_its_own_meet_each_target(
    block: int,
    dense_items: int,
    objective: Any,
    correction: Tensor | None,
    wanted: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampled_loss, "BLOCK_SCORES", block)
    monkeypatch.setattr(sampled_loss, "DENSE_ITEMS", dense_items)

    def ours(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        return sampled_loss.own_negatives(states, table, targets, drawn(), correction, objective)

    assert_same(ours, wanted(drawn()))


@pytest.mark.parametrize("block", [1, 2**22])
@every_objective
def test_one_set_of_negatives_meets_all_targets(
    block: int, objective: Any, correction: Tensor | None, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled_loss, "BLOCK_SCORES", block)
    negatives = drawn()[0]
    targets = inputs()[2]
    every = negatives.expand(N, K)
    if correction is not None:
        correction = correction[0]
        wanted = lambda every: softmax_by_definition(every, SOME[0].expand(N, K))  # noqa: E731

    def ours(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        rows = table[torch.cat([targets, negatives])]
        return sampled_loss.shared_negatives(states, rows, targets, negatives, correction, objective)

    assert bool((every == targets[:, None]).any())  # some negative is a target, and has to drop out
    assert_same(ours, wanted(every))


@pytest.mark.parametrize(
    ("given", "weight"),
    [
        ({"loss": "bce"}, 1.0),
        ({"loss": "gbce", "gbce_calibration": 0.0}, 1.0),
        ({"loss": "gbce", "gbce_calibration": 1.0}, 4 / 16),  # 4 of the 16 items that are not the target
        ({"loss": "gbce", "gbce_calibration": 0.5}, 0.5 * (4 / 16 - 1) + 1),
        ({"loss": "gbce", "gbce_calibration": 1.0, "num_negatives": 100}, 1.0),
    ],
)
def test_a_calibrated_loss_weighs_its_target_by_the_share_of_items_sampled(
    given: dict[str, Any], weight: float
) -> None:
    assert sampled_loss.target_weight(SASRecSpec.model_validate({"num_negatives": 4, **given}), V) == pytest.approx(
        weight
    )


def loss_by(spec: SASRecSpec, seed: int = 1) -> float:
    states, _, targets = inputs()
    torch.manual_seed(0)
    model = build(spec.model_copy(update={"hidden_dim": D}), V)
    counts = np.bincount(targets.numpy(), minlength=V)
    generator = torch.Generator().manual_seed(seed)
    negatives = Negatives(spec, counts, torch.device("cpu"))
    return losses.loss_of(spec, model, states, targets, negatives, generator, bf16=False).item()


SAMPLED = {"loss": "sampled_softmax", "num_negatives": 6}


@pytest.mark.parametrize("updates", ["all_rows", "touched_rows"])
@pytest.mark.parametrize("loss", ["sampled_softmax", "bce", "gbce"])
@pytest.mark.parametrize("sharing", ["batch", "position"])
def test_negatives_come_from_the_generator(sharing: str, loss: str, updates: str) -> None:
    given = {**SAMPLED, "negative_sharing": sharing, "loss": loss, "table_updates": updates}
    spec = SASRecSpec.model_validate(given)
    once, again, other = (loss_by(spec, seed) for seed in (1, 1, 2))
    assert once == again != other


@pytest.mark.parametrize("field", ["logq_correction", "negative_distribution", "loss", "num_negatives"])
@pytest.mark.parametrize("sharing", ["batch", "position"])
def test_each_field_of_sampling_changes_the_loss(sharing: str, field: str) -> None:
    changed = {"logq_correction": True, "negative_distribution": "popularity", "loss": "bce", "num_negatives": 7}
    given = {**SAMPLED, "negative_sharing": sharing}
    one, other = (SASRecSpec.model_validate(values) for values in (given, {**given, field: changed[field]}))
    assert loss_by(one) != pytest.approx(loss_by(other), abs=1e-6)


def test_negatives_by_popularity_are_as_frequent_as_items_with_one_event_added() -> None:
    counts = np.array([0, 9, 99, 889])
    spec = SASRecSpec(loss="sampled_softmax", num_negatives=4096, negative_distribution="popularity")
    negatives = Negatives(spec, counts, torch.device("cpu"))
    found = torch.cat([negatives.draw(1, torch.Generator().manual_seed(seed)) for seed in range(10)]).bincount(
        minlength=4
    )
    expected = 40_960 * (counts + 1) / 1001
    spread = 4 * (expected * (1 - expected / expected.sum())) ** 0.5  # four standard deviations of each count
    assert (np.abs(found.numpy() - expected) < spread).all(), found.tolist()


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
def test_corrected_negatives_stand_for_the_whole_catalogue(distribution: str) -> None:
    """The sum of e^(score + correction) over negatives is, on average, that over all items."""
    spec = SASRecSpec.model_validate(
        {
            "loss": "sampled_softmax",
            "num_negatives": 4096,
            "negative_distribution": distribution,
            "logq_correction": True,
        }
    )
    negatives = Negatives(spec, np.arange(V), torch.device("cpu"))
    scores = torch.linspace(-1, 1, V)
    drawn = torch.cat([negatives.draw(1, torch.Generator().manual_seed(seed)) for seed in range(20)])
    correction = negatives.correction(drawn)
    assert correction is not None
    estimate = (scores[drawn] + correction).exp().sum() / 20
    assert float(estimate) == pytest.approx(float(scores.exp().sum()), rel=0.02)
