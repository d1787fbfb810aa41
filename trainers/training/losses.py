# pyright: reportIncompatibleMethodOverride=false
"""The loss of a spec, and softmax over all items with gradients from the forward pass, in blocks that fit the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.contract.fields import Spec
from trainers.models import native
from trainers.models.backbones import Encoder
from trainers.training.negatives import Negatives
from trainers.training.sampled_loss import (
    BLOCK_SCORES,
    GradientsOfForward,
    objective_of,
    own_negatives,
    shared_negatives,
)

BLOCK_ROWS = 64
"""Block sizes are multiples of this, since a product of a new shape costs more to prepare than to compute."""


def loss_of(
    spec: Spec,
    model: Encoder,
    states: Tensor,
    targets: Tensor,
    negatives: Negatives,
    generator: torch.Generator,
    bf16: bool,
) -> Tensor:
    """The mean loss of `spec` for states (N, D) and targets (N,); `negatives` are drawn with `generator`.

    With `bf16`, full softmax scores items in bf16 and sums in fp32; sampled scores are always fp32.
    """
    if spec.loss == "full_softmax":
        return full_softmax(states, model.output_table(), targets, bf16)
    drawn = negatives.draw(len(targets), generator)
    correction, objective = negatives.correction(drawn), objective_of(spec, model.num_items)
    if spec.negative_sharing == "batch":
        rows = model.output_rows(torch.cat([targets, drawn]))
        return shared_negatives(states, rows, targets, drawn, correction, objective)
    if spec.updates_touched_rows:  # a small table of only the items in use
        items, numbers = torch.unique(torch.cat([targets[:, None], drawn], 1), return_inverse=True)
        return own_negatives(states, model.output_rows(items), numbers[:, 0], numbers[:, 1:], correction, objective)
    return own_negatives(states, model.output_table(), targets, drawn, correction, objective)


def full_softmax(states: Tensor, table: Tensor, targets: Tensor, bf16: bool = False) -> Tensor:
    """Mean cross entropy of states (N, D) against every row of table (V, D)."""
    return _FullSoftmax.apply(states, table, targets, bf16)


class _FullSoftmax(GradientsOfForward):
    """Full softmax cross entropy that holds only one block of scores at a time."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, bf16: bool) -> Tensor:
        N, V = len(states), len(table)
        precision = torch.bfloat16 if bf16 else torch.float32
        padded = -(-N // BLOCK_ROWS) * BLOCK_ROWS
        step = min(padded, max(1, BLOCK_SCORES // (V * BLOCK_ROWS)) * BLOCK_ROWS)
        buffer = states.new_empty(step, V, dtype=precision)
        rows_of_all, goals = table.to(precision), F.embedding(targets, table)
        inputs = F.pad(states, (0, 0, 0, padded - N))
        states_grad, table_grad = torch.empty_like(inputs), torch.zeros_like(table)
        logs = states.new_empty(padded)
        for start in range(0, padded, step):
            rows = slice(start, start + step)
            x = inputs[rows]
            scores = torch.mm(x.to(precision), rows_of_all.T, out=buffer[: len(x)])  # (n, V)
            peaks, totals = _exponentials(scores)
            logs[rows] = totals.log() + peaks
            states_grad[rows] = torch.mm(scores, rows_of_all) / totals[:, None]
            table_grad += torch.mm(scores.T, (x / totals[:, None]).to(precision))
        losses = logs[:N] - (states * goals).sum(1)
        states_grad = states_grad[:N]
        states_grad.sub_(goals)
        table_grad.index_add_(0, targets, states, alpha=-1)
        ctx.save_for_backward(states_grad.div_(N), table_grad.div_(N))
        return losses.mean()


def _exponentials(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Replaces scores (n, V) by e^(score - peak of the row); returns peaks and totals (n,) in fp32."""
    peaks, totals = (torch.empty(len(scores), device=scores.device) for _ in range(2))
    if scores.device.type == "cpu" and native.kernels() is not None:
        kernel = "exponentials_bf16" if scores.dtype == torch.bfloat16 else "exponentials_fp32"
        native.call(kernel, scores, *scores.shape, peaks, totals)
        return peaks, totals
    peak = scores.amax(1, keepdim=True)
    scores.sub_(peak).exp_()
    return peak.squeeze(1).float(), scores.sum(1, dtype=torch.float32)
