# pyright: reportIncompatibleMethodOverride=false
"""Losses over a target and sampled negatives, with gradients from the forward pass, in blocks that fit the cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trainers.contract.fields import Spec
from trainers.models import native

BLOCK_SCORES = 2**23
"""Number of scores held at once: 32 MiB in fp32, reused from block to block."""
DENSE_ITEMS = 32
"""Without a kernel, scoring an item along with all others is about this many times cheaper than fetching its row."""

Objective = Callable[[Tensor, Tensor], Tensor]
"""A function of the scores of targets (n,) and negatives (n, K) that returns losses (n,).

It overwrites both scores with the gradient of the loss by them. A negative scored minus infinity does not count.
"""


def objective_of(spec: Spec, num_items: int) -> Objective:
    """The function that the loss of `spec` applies to scores."""
    if spec.loss == "sampled_softmax":
        return softmax
    return partial(binary, weight=target_weight(spec, num_items))


def target_weight(spec: Spec, num_items: int) -> float:
    """The power of the target's probability: 1 for `bce`; for `gbce`, the one that undoes overconfidence from sampling.

    That is t * (a - 1) + 1 for a calibration t and the share a of negatives sampled (Petrov & Macdonald 2023).
    """
    if spec.loss == "bce":
        return 1.0
    sampled = min(1.0, spec.num_negatives / max(1, num_items - 1))
    return spec.gbce_calibration * (sampled - 1) + 1


def softmax(targets: Tensor, negatives: Tensor) -> Tensor:
    """Cross entropy of the target among its negatives."""
    totals = torch.logaddexp(negatives.logsumexp(1), targets)
    losses = totals - targets
    negatives.sub_(totals[:, None]).exp_()
    targets.sub_(totals).exp_().sub_(1)
    return losses


def binary(targets: Tensor, negatives: Tensor, weight: float) -> Tensor:
    """Mean binary cross entropy of the target, whose term is multiplied by `weight`, and its negatives."""
    count = 1 + negatives.shape[1]
    losses = (weight * F.softplus(-targets) + F.softplus(negatives).sum(1)) / count
    negatives.sigmoid_().div_(count)
    targets.neg_().sigmoid_().mul_(-weight / count)
    return losses


def shared_negatives(
    states: Tensor, rows: Tensor, targets: Tensor, negatives: Tensor, correction: Tensor | None, objective: Objective
) -> Tensor:
    """The mean loss of states (N, D) with one set of negatives (K,) for all.

    `rows` (N + K, D) are the table rows of the targets, then of the negatives. A negative that is the target is
    ignored. `correction` (K,) is added to the scores of negatives.
    """
    return _SharedNegatives.apply(states, rows, targets, negatives, correction, objective)


def own_negatives(
    states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor, correction: Tensor | None, objective: Objective
) -> Tensor:
    """The mean loss of states (N, D) with negatives (N, K) for each, scored by table (V, D); `correction` is (N, K)."""
    return _OwnNegatives.apply(states, table, targets, negatives, correction, objective)


class GradientsOfForward(torch.autograd.Function):
    """A loss whose forward pass computes and saves the gradients of its first two arguments, states and table."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        states_grad, table_grad = ctx.saved_tensors
        others = [None] * (len(ctx.needs_input_grad) - 2)
        return states_grad.mul_(gradient), table_grad.mul_(gradient), *others


class _SharedNegatives(GradientsOfForward):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, rows: Tensor, targets: Tensor, negatives: Tensor, correction: Tensor | None,
        objective: Objective,
    ) -> Tensor:  # fmt: skip
        N, K = len(states), len(negatives)
        compiled = objective is softmax and native.serves(states, rows)
        goals, others = rows[:N], rows[N:]
        states_grad, rows_grad = torch.empty_like(states), torch.empty_like(rows)
        others_grad = rows_grad[N:].zero_()
        losses, target_scores = states.new_empty(N), (states * goals).sum(1)
        step = min(N, max(1, BLOCK_SCORES // K))
        for start in range(0, N, step):
            part = slice(start, start + step)
            x = states[part]
            scores = x @ others.T  # (n, K)
            if correction is not None:
                scores += correction
            if compiled:
                native.call(
                    "shared_softmax", scores, target_scores[part], targets[part], negatives, *scores.shape, losses[part]
                )
            else:
                scores.masked_fill_(targets[part, None] == negatives, -torch.inf)
                losses[part] = objective(target_scores[part], scores)
            torch.mm(scores, others, out=states_grad[part])
            others_grad.addmm_(scores.T, x)
        states_grad.addcmul_(target_scores[:, None], goals)
        torch.mul(target_scores[:, None], states, out=rows_grad[:N])
        ctx.save_for_backward(states_grad.div_(N), rows_grad.div_(N))
        return losses.mean()


class _OwnNegatives(GradientsOfForward):
    """Without a kernel, if negatives cover enough of the catalogue, all items are scored and theirs picked out.

    One large product is far cheaper than fetching each sampled row for each position.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor, correction: Tensor | None,
        objective: Objective,
    ) -> Tensor:  # fmt: skip
        (N, D), V, C = states.shape, len(table), 1 + negatives.shape[1]
        compiled = objective is softmax and correction is None and native.serves(states, table)
        dense = not compiled and V <= C * DENSE_ITEMS
        step = min(N, max(1, BLOCK_SCORES // (C if compiled else V if dense else C * D)))
        states_grad, table_grad = torch.empty_like(states), torch.zeros_like(table)
        losses = states.new_empty(N)
        for start in range(0, N, step):
            part = slice(start, start + step)
            x, goals = states[part], targets[part, None]
            candidates = torch.cat([goals, negatives[part]], 1)  # (n, C), the target first
            if compiled:
                shape, share = (len(x), C, D), x.new_empty(len(x), C)
                native.call("sampled_softmax", x, table, candidates, *shape, share, losses[part], states_grad[part])
                native.call("scatter_shares", table_grad, candidates, share, x, *shape)
                continue
            more = None if correction is None else correction[part]
            if dense:
                share, losses[part] = _shares((x @ table.T).gather(1, candidates), candidates, more, objective)
                shares = x.new_zeros(len(x), V).scatter_add_(1, candidates, share)
                states_grad[part] = shares @ table
                table_grad.addmm_(shares.T, x)
            else:
                vectors = F.embedding(candidates, table)  # (n, C, D)
                scores = torch.bmm(vectors, x[:, :, None]).squeeze(2)
                share, losses[part] = _shares(scores, candidates, more, objective)
                states_grad[part] = torch.bmm(share[:, None], vectors).squeeze(1)
                pulls = share[:, :, None] * x[:, None]  # (n, C, D)
                table_grad.index_add_(0, candidates.flatten(), pulls.view(-1, D))
        ctx.save_for_backward(states_grad.div_(N), table_grad.div_(N))
        return losses.mean()


def _shares(
    scores: Tensor, candidates: Tensor, correction: Tensor | None, objective: Objective
) -> tuple[Tensor, Tensor]:
    """The gradient (n, C) of the loss by `scores` (n, C), target first, and losses (n,). Overwrites `scores`."""
    target_scores, others = scores[:, 0], scores[:, 1:]
    if correction is not None:
        others += correction
    others.masked_fill_(candidates[:, 1:] == candidates[:, :1], -torch.inf)
    losses = objective(target_scores, others)  # overwrites both, and so `scores`
    return scores, losses
