# pyright: reportIncompatibleMethodOverride=false
"""Causal attention inside packed sequences, softmax or pointwise, in plain torch and in compiled kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trainers.models import native
from trainers.models.batches import Layout
from trainers.models.fused import Mask


@dataclass(frozen=True)
class Heads:
    """Columns of the heads' queries, keys and values in a row of projections: their starts, widths and steps."""

    count: int
    row: int
    key_width: int
    value_width: int
    query: int
    key: int
    value: int
    key_step: int
    value_step: int

    @cached_property
    def native(self) -> native.Heads:
        """The same columns as a kernel takes them."""
        return native.Heads(*(getattr(self, name) for name, *_ in native.Heads._fields_))

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (B, H, T, K) and values (B, H, T, W) of projections (B, T, row)."""

        def part(first: int, width: int, step: int) -> Tensor:
            by_head = step * self.count == self.row  # columns are grouped by head, else by kind
            start, stop = (0, self.row) if by_head else (first, first + self.count * step)
            heads = rows[..., start:stop].unflatten(-1, (self.count, step))  # (B, T, H, step)
            first = first if by_head else 0
            return heads[..., first : first + width].transpose(1, 2)

        queries, keys = (part(first, self.key_width, self.key_step) for first in (self.query, self.key))
        return queries, keys, part(self.value, self.value_width, self.value_step)


def softmax_attention(x: Tensor, bias: Tensor | None, layout: Layout, heads: Heads, mask: Mask, longest: int) -> Tensor:
    """Scaled dot-product attention over projections x (N, row) -> (N, H * W); `mask` drops weights.

    `bias` (longest,) is added to the scaled products by the distance of query and key.
    """
    scale = heads.key_width**-0.5
    if native.serves(x):
        return _SoftmaxAttention.apply(x, bias, layout, heads, mask, longest, scale)

    def attend(rows: Tensor, numbers: Tensor) -> Tensor:
        q, k, v = heads.split(rows)
        if bias is None and (x.is_cuda or not mask.probability):
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=mask.probability, is_causal=True)
            return mixed.transpose(1, 2).flatten(2)
        biases = _by_distance(x.new_zeros(longest) if bias is None else bias, rows.shape[1]).to(q.dtype)
        if x.is_cuda:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=biases, dropout_p=mask.probability)
        else:
            weights = (q @ k.transpose(-1, -2) * scale + biases).softmax(-1)
            if mask.probability:
                weights = weights * _weight_factors(mask, numbers, heads.count, longest)
            mixed = weights @ v
        return mixed.transpose(1, 2).flatten(2)

    return layout.by_sequence(x, attend)


def _by_distance(bias: Tensor, width: int) -> Tensor:
    """Terms (T, T) for the product of query t and key u: bias[t - u], or minus infinity if u is later."""
    steps = torch.arange(width, device=bias.device)
    distance = steps[:, None] - steps
    return F.embedding(distance.clamp(min=0), bias[:, None]).squeeze(-1).masked_fill(distance < 0, -torch.inf)


def pointwise_attention(
    x: Tensor, bias: Tensor, layout: Layout, heads: Heads, mask: Mask, longest: int, divisor: float
) -> Tensor:
    """Attention with weights SiLU(q k' + bias[distance]) / divisor (Zhai et al. 2024): x (N, row) -> (N, H * W)."""
    if native.serves(x, bias):
        return _PointwiseAttention.apply(x, bias, layout, heads, mask, longest, divisor)

    def attend(rows: Tensor, numbers: Tensor) -> Tensor:
        q, k, v = heads.split(rows)
        steps = torch.arange(rows.shape[1], device=x.device)
        distance = steps[:, None] - steps  # (T, T)
        biases = F.embedding(distance.clamp(min=0), bias[:, None]).squeeze(-1)
        weights = F.silu(q @ k.transpose(-1, -2) + biases) / divisor  # (B, H, T, T)
        weights = weights.masked_fill(distance < 0, 0.0)
        if x.is_cuda:
            weights = mask.drop(weights)
        elif mask.probability:
            weights = weights * _weight_factors(mask, numbers, heads.count, longest)
        return (weights @ v).transpose(1, 2).flatten(2)

    return layout.by_sequence(x, attend)


def _weight_factors(mask: Mask, numbers: Tensor, heads: int, longest: int) -> Tensor:
    """Dropout factors (B, H, T, T) for the weight of token u at query t, numbered by row, head and distance."""
    steps = torch.arange(numbers.shape[1])
    distance = (steps[:, None] - steps).clamp(min=0)
    queries = numbers[:, None, :, None] * heads + torch.arange(heads)[:, None, None]  # (B, H, T, 1)
    return mask.factors(queries * longest + distance)


class _SoftmaxAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, layout: Layout, heads: Heads, mask: Mask, longest: int, scale: float
    ) -> Tensor:
        out = x.new_empty(len(x), heads.count * heads.value_width)
        offsets = layout.offsets
        ctx.save_for_backward(x, offsets, bias)
        ctx.arguments = (len(offsets) - 1, heads.native, bias, scale, mask.native, longest)
        native.call("attend_softmax", x, offsets, *ctx.arguments, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, offsets, bias = ctx.saved_tensors
        x_gradient = torch.zeros_like(x)
        per_thread = None if bias is None else bias.new_zeros(torch.get_num_threads(), len(bias))
        arguments = (*ctx.arguments, gradient.contiguous(), x_gradient, per_thread)
        native.call("attend_softmax_backward", x, offsets, *arguments)
        return x_gradient, None if per_thread is None else per_thread.sum(0), None, None, None, None, None


class _PointwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor, layout: Layout, heads: Heads, mask: Mask, longest: int, divisor: float
    ) -> Tensor:
        out = x.new_empty(len(x), heads.count * heads.value_width)
        offsets = layout.offsets
        ctx.save_for_backward(x, offsets, bias)
        ctx.arguments = (len(offsets) - 1, heads.native, bias, divisor, mask.native, longest)
        native.call("attend_pointwise", x, offsets, *ctx.arguments, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, offsets, bias = ctx.saved_tensors
        x_gradient = torch.zeros_like(x)
        per_thread = bias.new_zeros(torch.get_num_threads(), len(bias))
        arguments = (*ctx.arguments, gradient.contiguous(), x_gradient, per_thread)
        native.call("attend_pointwise_backward", x, offsets, *arguments)
        return x_gradient, per_thread.sum(0), None, None, None, None, None
