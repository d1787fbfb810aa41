"""HSTU (Zhai et al. 2024): pointwise SiLU attention with a relative position bias, gated, without a feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.attention import Heads, pointwise_attention
from trainers.backbones import Encoder
from trainers.batches import Layout
from trainers.fused import Masks, embed, gate_dropped, layer_norm, lookup
from trainers.spec import HSTUSpec


class Block(nn.Module):
    """out = W(dropout(u * LN(A v))) + x, where A = SiLU(q k' + bias of the distance) / max_length.

    The divisor is the constant max_length, not the width of a batch: padding must not change a result.
    """

    def __init__(self, spec: HSTUSpec, masks: Masks) -> None:
        super().__init__()
        H, L, A = spec.num_heads, spec.linear_dim, spec.attention_dim
        self.widths = [H * L, H * (L + 2 * A)]  # gates u; values, queries and keys, head by head
        self.heads = Heads(H, self.widths[1], A, L, L, L + A, 0, L + 2 * A, L + 2 * A)
        self.max_length = spec.max_length
        self.norm = nn.LayerNorm(spec.hidden_dim)
        self.project = nn.Linear(spec.hidden_dim, sum(self.widths), bias=False)
        self.distance_bias = nn.Parameter(torch.empty(spec.max_length))
        self.mixed_norm = nn.LayerNorm(H * L)
        self.output = nn.Linear(H * L, spec.hidden_dim)
        self.dropout, self.attention_dropout = spec.dropout, spec.attention_dropout
        self.masks = masks
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.normal_(self.distance_bias, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        projected = F.linear(layer_norm(x, self.norm), self.project.weight)
        u, vqk = (F.silu(part) for part in projected.split(self.widths, dim=-1))  # (N, H*L), (N, H*(L+2A))
        weights = self.masks.next(self.attention_dropout)
        longest = self.max_length
        mixed = pointwise_attention(vqk, self.distance_bias, layout, self.heads, weights, longest, longest)  # (N, H*L)
        gated = gate_dropped(u, layer_norm(mixed, self.mixed_norm), self.masks.next(self.dropout))
        return x + self.output(gated)  # (N, D)


class HSTU(Encoder):
    """Scores are dot products of normalised states, or cosines divided by the temperature (`normalize_embeddings`)."""

    def __init__(self, spec: HSTUSpec, num_items: int) -> None:
        super().__init__()
        touched = spec.updates_touched_rows
        self.num_items = num_items
        self.items = nn.Embedding(num_items, spec.hidden_dim, sparse=touched)
        self.positions = nn.Embedding(spec.max_length, spec.hidden_dim)
        self.scale = spec.hidden_dim**0.5 if spec.scale_embeddings else 1.0
        self.dropout = spec.dropout
        self.blocks = nn.ModuleList(Block(spec, self.masks) for _ in range(spec.num_blocks))
        self.norm = None if spec.normalize_embeddings else nn.LayerNorm(spec.hidden_dim)
        self.temperature = spec.temperature
        self.output_items = None if spec.tie_embeddings else nn.Embedding(num_items, spec.hidden_dim, sparse=touched)
        for table in (self.items, self.positions, self.output_items):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    def forward(self, items: Tensor, layout: Layout) -> Tensor:
        mask = self.masks.next(self.dropout)
        x = embed(self.items, self.positions, items, layout.recency, self.scale, mask)  # (N, D)
        for block in self.blocks:
            x = block(x, layout)
        return F.normalize(x, dim=-1) / self.temperature if self.norm is None else layer_norm(x, self.norm)

    def output_rows(self, items: Tensor) -> Tensor:
        rows = lookup(self.output_items or self.items, items)
        return F.normalize(rows, dim=-1) if self.norm is None else rows

    def output_table(self) -> Tensor:
        table = (self.output_items or self.items).weight  # (V, D)
        return F.normalize(table, dim=-1) if self.norm is None else table
