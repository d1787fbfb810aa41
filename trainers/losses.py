# pyright: reportIncompatibleMethodOverride=false
"""Softmax losses over all items or sampled ones, with gradients made going forward, in blocks that stay in cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trainers import native
from trainers.backbones import Encoder
from trainers.spec import Spec

BLOCK_SCORES = 2**23
"""Scores held at once: 16 MiB in bf16, reused from block to block; more where 64 rows of a large catalogue are more."""
BLOCK_ROWS = 64
"""Blocks are multiples of it: a product of a new shape costs more to prepare than to compute."""
DENSE_ITEMS = 32
"""Scoring an item with all others costs about this many times less than fetching its row, where no kernel does it."""


def loss_of(
    spec: Spec, model: Encoder, states: Tensor, targets: Tensor, generator: torch.Generator, bf16: bool
) -> Tensor:
    """The mean loss of `spec` for states (N, D) and targets (N,); `generator` draws the negatives.

    `bf16` scores all items in bf16 with sums in fp32; sampled scores are fp32 always.
    """
    if spec.loss == "full_softmax":
        return full_softmax(states, model.output_table(), targets, bf16)
    shape = (spec.num_negatives,) if spec.negative_sharing == "batch" else (len(targets), spec.num_negatives)
    negatives = torch.randint(model.num_items, shape, generator=generator, device=states.device)
    if spec.negative_sharing == "batch":
        return shared_softmax(states, model.output_rows(torch.cat([targets, negatives])), targets, negatives)
    if spec.updates_touched_rows:  # a small table of the items at hand
        items, numbers = torch.unique(torch.cat([targets[:, None], negatives], 1), return_inverse=True)
        return sampled_softmax(states, model.output_rows(items), numbers[:, 0], numbers[:, 1:])
    return sampled_softmax(states, model.output_table(), targets, negatives)


def full_softmax(states: Tensor, table: Tensor, targets: Tensor, bf16: bool = False) -> Tensor:
    """Mean cross entropy of states (N, D) against every row of table (V, D)."""
    return _FullSoftmax.apply(states, table, targets, bf16)


def sampled_softmax(states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Mean cross entropy of the target against negatives (N, K) of its own; a negative that is the target drops out."""
    return _SampledSoftmax.apply(states, table, targets, negatives)


def shared_softmax(states: Tensor, rows: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Like `sampled_softmax` with one set of negatives (K,); rows (N + K, D) are those of targets, then negatives."""
    if native.serves(states, rows):
        return _SharedSoftmax.apply(states, rows, targets, negatives)
    positive = (states * rows[: len(targets)]).sum(1, keepdim=True)  # (N, 1)
    negative = states @ rows[len(targets) :].T  # (N, K)
    negative = negative.masked_fill(targets[:, None] == negatives, -torch.inf)
    return (torch.cat([positive, negative], 1).logsumexp(1, keepdim=True) - positive).mean()


class _GradientsOfForward(torch.autograd.Function):
    """A loss whose forward pass made and saved the gradients of its first two arguments, states and table."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        states_grad, table_grad = ctx.saved_tensors
        others = [None] * (len(ctx.needs_input_grad) - 2)
        return states_grad.mul_(gradient), table_grad.mul_(gradient), *others


class _FullSoftmax(_GradientsOfForward):
    """No block of scores outlives its turn."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, bf16: bool) -> Tensor:
        N, V = len(states), len(table)
        number = torch.bfloat16 if bf16 else torch.float32
        padded = -(-N // BLOCK_ROWS) * BLOCK_ROWS
        step = min(padded, max(1, BLOCK_SCORES // (V * BLOCK_ROWS)) * BLOCK_ROWS)
        buffer = states.new_empty(step, V, dtype=number)
        rows_of_all, goals = table.to(number), F.embedding(targets, table)
        inputs = F.pad(states, (0, 0, 0, padded - N))
        states_grad, table_grad = torch.empty_like(inputs), torch.zeros_like(table)
        logs = states.new_empty(padded)
        for start in range(0, padded, step):
            rows = slice(start, start + step)
            x = inputs[rows]
            scores = torch.mm(x.to(number), rows_of_all.T, out=buffer[: len(x)])  # (n, V)
            peaks, totals = _exponentials(scores)
            logs[rows] = totals.log() + peaks
            states_grad[rows] = torch.mm(scores, rows_of_all) / totals[:, None]
            table_grad += torch.mm(scores.T, (x / totals[:, None]).to(number))
        losses = logs[:N] - (states * goals).sum(1)
        states_grad = states_grad[:N]
        states_grad.sub_(goals)
        table_grad.index_add_(0, targets, states, alpha=-1)
        ctx.save_for_backward(states_grad.div_(N), table_grad.div_(N))
        return losses.mean()


def _exponentials(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Turns scores (n, V) into e^(score - peak of its row), and gives peaks and totals (n,) in fp32."""
    peaks, totals = (torch.empty(len(scores), device=scores.device) for _ in range(2))
    if scores.device.type == "cpu" and native.kernels() is not None:
        kernel = "exponentials_bf16" if scores.dtype == torch.bfloat16 else "exponentials_fp32"
        native.call(kernel, scores, *scores.shape, peaks, totals)
        return peaks, totals
    peak = scores.amax(1, keepdim=True)
    scores.sub_(peak).exp_()
    return peak.squeeze(1).float(), scores.sum(1, dtype=torch.float32)


class _SharedSoftmax(_GradientsOfForward):
    """The compiled form; the plain one is `shared_softmax` itself."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, rows: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        N, K = len(states), len(negatives)
        goals, others = rows[:N], rows[N:]
        states_grad, rows_grad = torch.empty_like(states), torch.empty_like(rows)
        others_grad = rows_grad[N:].zero_()
        losses, own = states.new_empty(N), (states * goals).sum(1)
        step = min(N, max(1, BLOCK_SCORES // K))
        for start in range(0, N, step):
            part = slice(start, start + step)
            x = states[part]
            scores = x @ others.T  # (n, K)
            native.call("shared_softmax", scores, own[part], targets[part], negatives, *scores.shape, losses[part])
            torch.mm(scores, others, out=states_grad[part])
            others_grad.addmm_(scores.T, x)
        states_grad.addcmul_(own[:, None], goals)
        torch.mul(own[:, None], states, out=rows_grad[:N])
        ctx.save_for_backward(states_grad.div_(N), rows_grad.div_(N))
        return losses.mean()


class _SampledSoftmax(_GradientsOfForward):
    """Without a kernel, all items are scored where negatives cover a fair part of the catalogue, and theirs picked out.

    One large product is far cheaper than fetching every sampled row for every position.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        (N, D), V, C = states.shape, len(table), 1 + negatives.shape[1]
        compiled = native.serves(states, table)
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
            elif dense:
                share, losses[part] = _shares((x @ table.T).gather(1, candidates), candidates)
                shares = x.new_zeros(len(x), V).scatter_add_(1, candidates, share)
                states_grad[part] = shares @ table
                table_grad.addmm_(shares.T, x)
            else:
                vectors = F.embedding(candidates, table)  # (n, C, D)
                share, losses[part] = _shares(torch.bmm(vectors, x[:, :, None]).squeeze(2), candidates)
                states_grad[part] = torch.bmm(share[:, None], vectors).squeeze(1)
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
