# pyright: reportIncompatibleMethodOverride=false
"""The elementwise steps of the encoders: each in plain torch, which defines it, and as one compiled kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trainers import native

_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32
"""The multipliers of a 32-bit integer hash, as signed numbers."""


@dataclass(frozen=True)
class Mask:
    """A dropout mask that is a function of the key: whoever computes it, in whatever order, drops the same elements."""

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
        """0 where the element of that number (int64, wrapping at 32 bits) is dropped, else 1 / (1 - probability)."""
        x = index.to(torch.int32) ^ (self.key if self.key < 2**31 else self.key - 2**32)
        x = (x ^ (x >> 16 & 0xFFFF)) * _FIRST
        x = (x ^ (x >> 15 & 0x1FFFF)) * _SECOND
        x = x ^ (x >> 16 & 0xFFFF)
        return (x >> 8 & 0xFFFFFF).ge(self._limit) * self._scale

    def drop(self, x: Tensor) -> Tensor:
        """`x` with its elements dropped, numbered as they lie in memory."""
        if not self.probability:
            return x
        if x.is_cuda:  # a kernel of torch's own, drawn from the device's generator
            return F.dropout(x, self.probability)
        return x * self.factors(torch.arange(x.numel())).view_as(x)


@dataclass
class Masks:
    """The dropout masks of an encoder, one key after the other from where it was last restarted."""

    state: int = 0
    training: bool = True

    def restart(self, seed: int) -> None:
        """Begins the stream of `seed`."""
        self.state = seed % 2**64

    def next(self, probability: float) -> Mask:
        """A mask that no other call gets; it drops nothing where the probability is 0 or the encoder evaluates."""
        if not self.training or not probability:
            return Mask(0, 0.0)
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64  # splitmix64
        z = (self.state ^ self.state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return Mask((z ^ z >> 31) >> 32, probability)


def embed(
    items: nn.Embedding, positions: nn.Embedding | None, rows: Tensor, recency: Tensor, scale: float, mask: Mask
) -> Tensor:
    """dropout(items[rows] * scale + positions[recency]), or without positions: (N,) and (N,) -> (N, D)."""
    if native.serves(items.weight):
        places = None if positions is None else positions.weight
        return _Embed.apply(items.weight, places, rows, recency, scale, mask, items.sparse)
    x = items(rows) * scale
    return mask.drop(x if positions is None else x + positions(recency))


def lookup(table: nn.Embedding, rows: Tensor) -> Tensor:
    """The rows (N, D) of `table` that are numbered in rows (N,)."""
    return _Lookup.apply(table.weight, rows, table.sparse) if native.serves(table.weight) else table(rows)


def add_dropped(x: Tensor, h: Tensor, mask: Mask) -> Tensor:
    """x + dropout(h)."""
    return _AddDropped.apply(x, h, mask) if native.serves(x, h) else x + mask.drop(h)


def gelu_dropped(h: Tensor, mask: Mask) -> Tensor:
    """dropout(h * sigmoid(1.702 h)): a GELU, nearly (Hendrycks & Gimpel 2016)."""
    return _GeluDropped.apply(h, mask) if native.serves(h) else mask.drop(h * torch.sigmoid(1.702 * h))


def gate_dropped(gate: Tensor, x: Tensor, mask: Mask) -> Tensor:
    """dropout(gate * x), both (N, W); the rows of `gate` may be parts of longer ones."""
    return _GateDropped.apply(gate, x, mask) if native.serves(gate, x) else mask.drop(gate * x)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """`norm` of the rows of x (N, D)."""
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
        ctx.given = items.shape, None if positions is None else positions.shape, scale, mask, sparse
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, recency = ctx.saved_tensors
        items, positions, scale, mask, sparse = ctx.given
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
        ctx.given = table.shape, sparse
        return table.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        shape, sparse = ctx.given
        return _table_gradient(shape, rows, gradient.contiguous(), 1.0, sparse), None, None


def _dropped(x: Tensor, mask: Mask) -> Tensor:
    if not mask.probability:
        return x
    out = torch.empty_like(x)
    native.call("drop", x, x.numel(), mask.native, out)
    return out


def _table_gradient(shape: torch.Size, rows: Tensor, gradient: Tensor, scale: float, sparse: bool) -> Tensor:
    """The gradient of a table by that of the rows taken from it, each `scale` times."""
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
        given = (gate, gate.stride(0), x, gradient.contiguous(), *x.shape, ctx.mask.native)
        native.call("gate_dropped_backward", *given, gate_gradient, x_gradient)
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
        parts = x.new_zeros(torch.get_num_threads(), 2, x.shape[1])
        given = (x, weight, means, scales, gradient.contiguous(), *x.shape)
        native.call("layer_norm_backward", *given, x_gradient, parts)
        weight_gradient, bias_gradient = parts.sum(0)
        return x_gradient, weight_gradient, bias_gradient, None
