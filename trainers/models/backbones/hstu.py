"""HSTU (Zhai et al. 2024): gated pointwise SiLU attention with a relative position bias; no feed-forward by default."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.contract.specs import HSTUSpec
from trainers.models.attention import Heads, pointwise_attention
from trainers.models.backbones.layers import FeedForward, Residual, Rotation, StackedEncoder
from trainers.models.batches import Layout
from trainers.models.fused import Masks, gate_dropped, layer_norm


class Attention(nn.Module):
    """Gated attention W(dropout(u * LN(A v))), where A = SiLU(q k' + bias of the distance) / max_length.

    The divisor is the constant max_length rather than the width of a batch, because padding must not change a result.
    """

    def __init__(self, spec: HSTUSpec, masks: Masks) -> None:
        super().__init__()
        H, L, A = spec.num_heads, spec.linear_dim, spec.attention_dim
        self.widths = [H * L, H * (L + 2 * A)]  # gates u; values, queries and keys, head by head
        self.heads = Heads(H, self.widths[1], A, L, L, L + A, 0, L + 2 * A, L + 2 * A)
        self.max_length = spec.max_length
        self.project = nn.Linear(spec.hidden_dim, sum(self.widths), bias=False)
        self.distance_bias = nn.Parameter(torch.empty(spec.max_length))
        self.rotation = Rotation(spec.max_length, A) if spec.position == "rotary" else None
        self.mixed_norm = nn.LayerNorm(H * L)
        self.output = nn.Linear(H * L, spec.hidden_dim)
        self.dropout, self.attention_dropout = spec.dropout, spec.attention_dropout
        self.masks = masks
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.normal_(self.distance_bias, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        u, vqk = (F.silu(part) for part in self.project(x).split(self.widths, dim=-1))  # (N, H*L), (N, H*(L+2A))
        if self.rotation is not None:
            vqk = self._rotated(vqk, self.rotation, layout.recency)
        weights = self.masks.next(self.attention_dropout)
        longest = self.max_length
        mixed = pointwise_attention(vqk, self.distance_bias, layout, self.heads, weights, longest, longest)  # (N, H*L)
        return self.output(gate_dropped(u, layer_norm(mixed, self.mixed_norm), self.masks.next(self.dropout)))

    def _rotated(self, vqk: Tensor, rotation: Rotation, recency: Tensor) -> Tensor:
        heads = self.heads
        values, turned = vqk.unflatten(1, (heads.count, -1)).split([heads.value_width, 2 * heads.key_width], dim=-1)
        vectors = turned.unflatten(2, (2, -1)).flatten(1, 2)  # (N, 2 * H, A)
        return torch.cat([values, rotation(vectors, recency).view_as(turned)], -1).flatten(1)


class Block(nn.Module):
    """Attention, then a feed-forward if the spec asks for one, each added to its input."""

    def __init__(self, spec: HSTUSpec, masks: Masks) -> None:
        super().__init__()
        self.add_attention = Residual(spec, 0.0, masks)
        self.attention = Attention(spec, masks)
        self.feed_forward = None
        if spec.feed_forward != "none":
            self.add_feed_forward = Residual(spec, spec.dropout, masks)
            self.feed_forward = FeedForward(spec.feed_forward, spec, masks)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.add_attention(x, lambda h: self.attention(h, layout))
        return x if self.feed_forward is None else self.add_feed_forward(x, self.feed_forward)  # (N, D)


class HSTU(StackedEncoder):
    """The HSTU encoder. Tables start normal with deviation 0.02; the relative bias is used with any position."""

    def __init__(self, spec: HSTUSpec, num_items: int) -> None:
        super().__init__(spec, num_items, lambda masks: Block(spec, masks))
        for table in (self.items, self.positions, self.output_items):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
