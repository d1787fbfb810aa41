# pyright: reportIncompatibleMethodOverride=false
"""The elementwise steps of the encoders, each defined in plain torch and also written as one compiled kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trainers.models import native

_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32
"""Multipliers of a 32-bit integer hash, as signed numbers."""


@dataclass(frozen=True)
class Mask:
    """A dropout mask that its key determines: torch and kernels drop the same elements, in any order of computation."""

    key: int
    probability: float

    @cached_property
    def native(self) -> native.Dropout:
        """The mask as a kernel takes it."""
        return native.Dropout(self.key, self._limit, self._scale)

    @property
    def _limit(self) -> int:
        return round(self.probability * 2**24)

    @property
    def _scale(self) -> float:
        return 2**24 / (2**24 - self._limit)

    def factors(self, index: Tensor) -> Tensor:
        """Factors of elements number `index` (int64, wraps at 32 bits): 0 if dropped, else 1 / (1 - probability)."""
        x = index.to(torch.int32) ^ (self.key if self.key < 2**31 else self.key - 2**32)
        x = (x ^ (x >> 16 & 0xFFFF)) * _FIRST
        x = (x ^ (x >> 15 & 0x1FFFF)) * _SECOND
        x = x ^ (x >> 16 & 0xFFFF)
        return (x >> 8 & 0xFFFFFF).ge(self._limit) * self._scale

    def drop(self, x: Tensor) -> Tensor:
        """`x` after dropout; its elements are numbered in the order of memory."""
        if not self.probability:
            return x
        if x.is_cuda:  # torch's own kernel, which draws from the device's generator
            return F.dropout(x, self.probability)
        return x * self.factors(torch.arange(x.numel())).view_as(x)


@dataclass
class Masks:
    """The dropout masks of an encoder: a stream of keys since the last restart."""

    state: int = 0
    training: bool = True

    def restart(self, seed: int) -> None:
        """Starts the stream of `seed`."""
        self.state = seed % 2**64

    def next(self, probability: float) -> Mask:
        """A mask with a new key; it drops nothing if the probability is 0 or the encoder is evaluating."""
        if not self.training or not probability:
            return Mask(0, 0.0)
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64  # splitmix64
        z = (self.state ^ self.state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return Mask((z ^ z >> 31) >> 32, probability)


def embed(
    items: nn.Embedding, positions: nn.Embedding | None, rows: Tensor, recency: Tensor, scale: float, mask: Mask
) -> Tensor:
    """dropout(items[rows] * scale + positions[recency]), with or without positions: (N,) and (N,) -> (N, D)."""
    if native.serves(items.weight):
        places = None if positions is None else positions.weight
        return _Embed.apply(items.weight, places, rows, recency, scale, mask, items.sparse)
    x = items(rows) * scale
    return mask.drop(x if positions is None else x + positions(recency))


def lookup(table: nn.Embedding, rows: Tensor) -> Tensor:
    """The rows (N, D) of `table` with the numbers `rows` (N,)."""
    return _Lookup.apply(table.weight, rows, table.sparse) if native.serves(table.weight) else table(rows)


def add_dropped(x: Tensor, h: Tensor, mask: Mask) -> Tensor:
    """x + dropout(h), both (N, D)."""
    return _AddDropped.apply(x, h, mask) if native.serves(x, h) else x + mask.drop(h)


def gelu_dropped(h: Tensor, mask: Mask) -> Tensor:
    """dropout(h * sigmoid(1.702 h)), which approximates a GELU (Hendrycks & Gimpel 2016)."""
    return _GeluDropped.apply(h, mask) if native.serves(h) else mask.drop(h * torch.sigmoid(1.702 * h))


def gate_dropped(gate: Tensor, x: Tensor, mask: Mask) -> Tensor:
    """dropout(gate * x), both (N, W); the rows of `gate` may be slices of longer rows."""
    return _GateDropped.apply(gate, x, mask) if native.serves(gate, x) else mask.drop(gate * x)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """`norm` applied to the rows of x (N, D)."""
    return _LayerNorm.apply(x, norm.weight, norm.bias, norm.eps) if native.serves(x) else norm(x)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        items: Tensor,
        positions: Tensor | None,
        rows: Tensor,
        recency: Tensor,
        scale: float,
        mask: Mask,
        sparse: bool,
    ) -> Tensor:
        out = items.new_empty(len(rows), items.shape[1])
        native.call("embed", items, rows, positions, recency, *out.shape, scale, mask.native, out)
        ctx.save_for_backward(rows, recency)
        ctx.arguments = items.shape, None if positions is None else positions.shape, scale, mask, sparse
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, recency = ctx.saved_tensors
        items, positions, scale, mask, sparse = ctx.arguments
        gradient = _dropped(gradient.contiguous(), mask)
        positions_gradient = None if positions is None else gradient.new_zeros(positions)
        if positions_gradient is not None:
            native.call("scatter_add", positions_gradient, recency, gradient, *gradient.shape, 1.0)
        items_gradient = _table_gradient(items, rows, gradient, scale, sparse)
        return items_gradient, positions_gradient, None, None, None, None, None


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, sparse: bool) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.arguments = table.shape, sparse
        return table.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        shape, sparse = ctx.arguments
        return _table_gradient(shape, rows, gradient.contiguous(), 1.0, sparse), None, None


def _dropped(x: Tensor, mask: Mask) -> Tensor:
    if not mask.probability:
        return x
    out = torch.empty_like(x)
    native.call("drop", x, x.numel(), mask.native, out)
    return out


def _table_gradient(shape: torch.Size, rows: Tensor, gradient: Tensor, scale: float, sparse: bool) -> Tensor:
    """The gradient of a table from `gradient` (N, D) of the rows looked up in it, times `scale`."""
    if sparse:
        return torch.sparse_coo_tensor(rows[None], gradient * scale, shape, check_invariants=False)
    whole = gradient.new_zeros(shape)
    native.call("scatter_add", whole, rows, gradient, *gradient.shape, scale)
    return whole


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, mask: Mask) -> Tensor:
        ctx.mask = mask
        out = torch.empty_like(x)
        native.call("add_dropped", x, h, x.numel(), mask.native, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gradient = gradient.contiguous()
        return gradient, _dropped(gradient, ctx.mask), None


class _GeluDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, mask: Mask) -> Tensor:
        ctx.save_for_backward(h)
        ctx.mask = mask
        out = torch.empty_like(h)
        native.call("gelu_dropped", h, h.numel(), mask.native, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (h,) = ctx.saved_tensors
        out = torch.empty_like(h)
        native.call("gelu_dropped_backward", h, gradient.contiguous(), h.numel(), ctx.mask.native, out)
        return out, None


class _GateDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, x: Tensor, mask: Mask) -> Tensor:
        ctx.save_for_backward(gate, x)
        ctx.mask = mask
        out = torch.empty_like(x)
        native.call("gate_dropped", gate, gate.stride(0), x, *x.shape, mask.native, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gate, x = ctx.saved_tensors
        gate_gradient, x_gradient = torch.empty_like(x), torch.empty_like(x)
        arguments = (gate, gate.stride(0), x, gradient.contiguous(), *x.shape, ctx.mask.native)
        native.call("gate_dropped_backward", *arguments, gate_gradient, x_gradient)
        return gate_gradient, x_gradient, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        out, means, scales = torch.empty_like(x), x.new_empty(len(x)), x.new_empty(len(x))
        native.call("layer_norm", x, weight, bias, *x.shape, epsilon, out, means, scales)
        ctx.save_for_backward(x, weight, means, scales)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, means, scales = ctx.saved_tensors
        x_gradient = torch.empty_like(x)
        per_thread = x.new_zeros(torch.get_num_threads(), 2, x.shape[1])
        arguments = (x, weight, means, scales, gradient.contiguous(), *x.shape)
        native.call("layer_norm_backward", *arguments, x_gradient, per_thread)
        weight_gradient, bias_gradient = per_thread.sum(0)
        return x_gradient, weight_gradient, bias_gradient, None
