"""Losses against torch's own cross entropy, in values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainers import losses
from trainers.backbones import build
from trainers.spec import SASRecSpec

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


def by_definition(negatives: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Cross entropy over the target and its row of `negatives` (N, K), without those that are the target."""

    def loss(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        rows = []
        for state, target, others in zip(states, targets, negatives, strict=True):
            kept = [int(target)] + [int(item) for item in others if item != target]
            rows.append(F.cross_entropy((table[kept] @ state)[None], torch.tensor([0])))
        return torch.stack(rows).mean()

    return loss


@pytest.mark.parametrize("block", [1, 3 * V, 2**22])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_full_softmax_is_cross_entropy_over_all_items(
    block: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "BLOCK_SCORES", block)
    assert_same(losses.full_softmax, lambda states, table, targets: F.cross_entropy(states @ table.T, targets), scale)


@pytest.mark.parametrize("block", [1, 3 * V * D, 2**22])
@pytest.mark.parametrize("dense_items", [0, 32])
def test_sampled_softmax_is_cross_entropy_over_target_and_own_negatives(
    block: int, dense_items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "BLOCK_SCORES", block)
    monkeypatch.setattr(losses, "DENSE_ITEMS", dense_items)
    negatives = torch.randint(V, (N, K), generator=torch.Generator().manual_seed(1))
    negatives[:, 1] = negatives[:, 0]  # the same negative twice counts twice
    negatives[4] = inputs()[2][4]  # every negative is the target: nothing to tell apart, no loss
    assert_same(lambda *tensors: losses.sampled_softmax(*tensors, negatives), by_definition(negatives))


def test_shared_softmax_is_cross_entropy_over_target_and_one_set_of_negatives() -> None:
    negatives = torch.randint(V, (K,), generator=torch.Generator().manual_seed(1))

    def ours(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        return losses.shared_softmax(states, table[torch.cat([targets, negatives])], targets, negatives)

    assert_same(ours, by_definition(negatives.expand(N, K)))


def test_a_spec_chooses_the_loss_and_draws_its_negatives_from_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    for name in ("shared_softmax", "sampled_softmax"):
        monkeypatch.setattr(losses, name, lambda *tensors: shapes.append((tensors[3].shape, tensors[3].sum().item())))
    for sharing, seed in (("batch", 1), ("batch", 1), ("batch", 2), ("position", 1)):
        spec = SASRecSpec(loss="sampled_softmax", num_negatives=64, negative_sharing=sharing)
        states, _, targets = inputs()
        losses.loss_of(spec, build(spec, V), states, targets, torch.Generator().manual_seed(seed), bf16=False)
    assert [shape for shape, _ in shapes] == [(64,), (64,), (64,), (N, 64)]
    assert shapes[0] == shapes[1] != shapes[2]
