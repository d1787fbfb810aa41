"""HSTU (Zhai et al. 2024): pointwise SiLU attention with a relative position bias, gated, without a feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.backbones import Encoder
from trainers.batches import Layout
from trainers.spec import HSTUSpec


class Block(nn.Module):
    """out = W(dropout(u * LN(A v))) + x, where A = SiLU(q k' + bias of the distance) / max_length.

    The divisor is the constant max_length, not the width of a batch: padding must not change a result.
    """

    def __init__(self, spec: HSTUSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.widths = [spec.linear_dim, spec.linear_dim, spec.attention_dim, spec.attention_dim]  # u, v, q, k of a head
        self.max_length = spec.max_length
        self.norm = nn.LayerNorm(spec.hidden_dim)
        self.project = nn.Linear(spec.hidden_dim, spec.num_heads * sum(self.widths), bias=False)
        self.distance_bias = nn.Parameter(torch.empty(spec.max_length))
        self.mixed_norm = nn.LayerNorm(spec.num_heads * spec.linear_dim)
        self.output = nn.Linear(spec.num_heads * spec.linear_dim, spec.hidden_dim)
        self.dropout = nn.Dropout(spec.dropout)
        self.attention_dropout = nn.Dropout(spec.attention_dropout)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.normal_(self.distance_bias, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        projected = F.silu(self.project(self.norm(x)))
        u, vqk = projected.split(
            [self.num_heads * self.widths[0], self.num_heads * sum(self.widths[1:])], dim=-1
        )  # (N, H*L), (N, H*(L+2A))
        mixed = layout.by_sequence(vqk, self._attend)  # (N, H*L)
        return x + self.output(self.dropout(u * self.mixed_norm(mixed)))  # (N, D)

    def _attend(self, vqk: Tensor) -> Tensor:
        B, T, _ = vqk.shape
        v, q, k = vqk.view(B, T, self.num_heads, -1).transpose(1, 2).split(self.widths[1:], dim=-1)  # (B, H, T, L or A)
        steps = torch.arange(T, device=vqk.device)
        distance = steps[:, None] - steps  # (T, T)
        bias = F.embedding(distance.clamp(min=0), self.distance_bias[:, None]).squeeze(-1)
        weights = F.silu(q @ k.transpose(-1, -2) + bias) / self.max_length  # (B, H, T, T)
        weights = self.attention_dropout(weights.masked_fill(distance < 0, 0.0))
        return (weights @ v).transpose(1, 2).flatten(2)  # (B, T, H*L)


class HSTU(Encoder):
    """Scores are dot products of normalised states, or cosines divided by the temperature (`normalize_embeddings`)."""

    def __init__(self, spec: HSTUSpec, num_items: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, spec.hidden_dim)
        self.positions = nn.Embedding(spec.max_length, spec.hidden_dim)
        self.scale = spec.hidden_dim**0.5 if spec.scale_embeddings else 1.0
        self.dropout = nn.Dropout(spec.dropout)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.num_blocks))
        self.norm = None if spec.normalize_embeddings else nn.LayerNorm(spec.hidden_dim)
        self.temperature = spec.temperature
        self.output_items = None if spec.tie_embeddings else nn.Embedding(num_items, spec.hidden_dim)
        for table in (self.items, self.positions, self.output_items):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    def encode(self, items: Tensor, offsets: Tensor) -> Tensor:
        layout = Layout.of(offsets, items.device)
        x = self.dropout(self.items(items) * self.scale + self.positions(layout.recency))  # (N, D)
        for block in self.blocks:
            x = block(x, layout)
        return F.normalize(x, dim=-1) / self.temperature if self.norm is None else self.norm(x)

    def output_table(self) -> Tensor:
        table = (self.output_items or self.items).weight  # (V, D)
        return F.normalize(table, dim=-1) if self.norm is None else table
