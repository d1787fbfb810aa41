"""Softmax losses over all items or over sampled ones, computed in blocks that stay in cache."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from trainers.spec import Spec

BLOCK_SCORES = 2**22
"""Scores held at once: 16 MiB in fp32, reused from block to block."""
DENSE_ITEMS = 32
"""Scoring an item with all others costs about this many times less than fetching its row."""


def loss_of(spec: Spec, states: Tensor, table: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """The mean loss of `spec` for states (N, D), table (V, D) and targets (N,); `generator` draws the negatives."""
    if spec.loss == "full_softmax":
        return full_softmax(states, table, targets)
    shape = (spec.num_negatives,) if spec.negative_sharing == "batch" else (len(targets), spec.num_negatives)
    negatives = torch.randint(len(table), shape, generator=generator, device=table.device)
    if spec.negative_sharing == "batch":
        return shared_softmax(states, table, targets, negatives)
    return sampled_softmax(states, table, targets, negatives)


def full_softmax(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of states (N, D) against every row of table (V, D)."""
    return FullSoftmax.apply(states, table, targets)  # pyright: ignore[reportReturnType]


def sampled_softmax(states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Mean cross entropy of the target against negatives (N, K) of its own; a negative that is the target drops out."""
    return SampledSoftmax.apply(states, table, targets, negatives)  # pyright: ignore[reportReturnType]


def shared_softmax(states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Like `sampled_softmax` with one set of negatives (K,) for the whole batch."""
    rows = F.embedding(torch.cat([targets, negatives]), table)
    positive = (states * rows[: len(targets)]).sum(1, keepdim=True)  # (N, 1)
    negative = states @ rows[len(targets) :].T  # (N, K)
    negative = negative.masked_fill(targets[:, None] == negatives, -torch.inf)
    return (torch.cat([positive, negative], 1).logsumexp(1, keepdim=True) - positive).mean()


class _GradientsOfForward(torch.autograd.Function):
    """A loss whose forward pass made and saved the gradients of its first two arguments, states and table."""

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the name of ctx
        ctx: FunctionCtx, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        states_grad, table_grad = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        others = [None] * (len(ctx.needs_input_grad) - 2)  # pyright: ignore[reportAttributeAccessIssue]
        return states_grad * gradients[0], table_grad * gradients[0], *others


class FullSoftmax(_GradientsOfForward):
    """Cross entropy whose gradients are made in the forward pass: no block of scores outlives its turn."""

    @staticmethod
    def forward(ctx: FunctionCtx, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        N, V = len(states), len(table)
        step = min(N, max(1, BLOCK_SCORES // V))
        buffer = states.new_empty(step, V)
        states_grad, table_grad = torch.empty_like(states), torch.zeros_like(table)
        losses = states.new_empty(N)
        for start in range(0, N, step):
            rows = slice(start, start + step)
            x, goals = states[rows], targets[rows, None]
            scores = torch.mm(x, table.T, out=buffer[: len(x)])  # (n, V)
            peak = scores.amax(1, keepdim=True)
            wanted = scores.gather(1, goals)
            total = scores.sub_(peak).exp_().sum(1, keepdim=True)
            losses[rows] = (total.log() + peak - wanted).squeeze(1)
            states_grad[rows] = torch.mm(scores, table) / total
            table_grad.addmm_(scores.T, x / total)
        states_grad.sub_(F.embedding(targets, table))
        table_grad.index_add_(0, targets, states, alpha=-1)
        ctx.save_for_backward(states_grad.div_(N), table_grad.div_(N))
        return losses.mean()


class SampledSoftmax(_GradientsOfForward):
    """Cross entropy against negatives of each position's own, its gradients made in the forward pass.

    Where negatives cover a fair part of the catalogue, all items are scored and the sampled scores picked out: one
    large product is far cheaper than fetching every sampled row for every position.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        (N, D), V, C = states.shape, len(table), 1 + negatives.shape[1]
        dense = V <= C * DENSE_ITEMS
        step = min(N, max(1, BLOCK_SCORES // (V if dense else C * D)))
        states_grad, table_grad = torch.empty_like(states), torch.zeros_like(table)
        losses = states.new_empty(N)
        for start in range(0, N, step):
            rows = slice(start, start + step)
            x, goals = states[rows], targets[rows, None]
            candidates = torch.cat([goals, negatives[rows]], 1)  # (n, C), the target first
            if dense:
                share, losses[rows] = _shares((x @ table.T).gather(1, candidates), candidates)
                shares = x.new_zeros(len(x), V).scatter_add_(1, candidates, share)
                states_grad[rows] = shares @ table
                table_grad.addmm_(shares.T, x)
            else:
                vectors = F.embedding(candidates, table)  # (n, C, D)
                share, losses[rows] = _shares(torch.bmm(vectors, x[:, :, None]).squeeze(2), candidates)
                states_grad[rows] = torch.bmm(share[:, None], vectors).squeeze(1)
                pulls = share[:, :, None] * x[:, None]  # (n, C, D)
                table_grad.index_add_(0, candidates.flatten(), pulls.view(-1, D))
        ctx.save_for_backward(states_grad.div_(N), table_grad.div_(N))
        return losses.mean()


def _shares(scores: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (n, C) of the loss by `scores`, whose first column is the target's, and the loss (n,). Overwrites."""
    scores[:, 1:].masked_fill_(candidates[:, 1:] == candidates[:, :1], -torch.inf)
    logs = scores.log_softmax(1)
    losses = -logs[:, 0]
    share = logs.exp()
    share[:, 0] -= 1
    return share, losses
