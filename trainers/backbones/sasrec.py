"""SASRec (Kang & McAuley 2018): a causal transformer over items, pre-norm, with recency-aligned learned positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.backbones import Encoder
from trainers.batches import Layout
from trainers.spec import SASRecSpec


class Attention(nn.Module):
    """Causal softmax attention inside each sequence."""

    def __init__(self, spec: SASRecSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.dropout = spec.attention_dropout
        self.project = nn.Linear(spec.hidden_dim, 3 * spec.hidden_dim)
        self.output = nn.Linear(spec.hidden_dim, spec.hidden_dim)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.output(layout.by_sequence(self.project(x), self._attend))  # (N, D)

    def _attend(self, projected: Tensor) -> Tensor:
        B, T, _ = projected.shape
        q, k, v = projected.view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # 3 of (B, H, T, D/H)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)  # (B, T, D)


class Block(nn.Module):
    """Attention, then a position-wise feed-forward of the same width; each normalised before and added to its input."""

    def __init__(self, spec: SASRecSpec) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(spec.hidden_dim)
        self.attention = Attention(spec)
        self.feed_forward_norm = nn.LayerNorm(spec.hidden_dim)
        self.widen = nn.Linear(spec.hidden_dim, spec.hidden_dim)
        self.narrow = nn.Linear(spec.hidden_dim, spec.hidden_dim)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), layout))
        h = self.widen(self.feed_forward_norm(x))
        h = self.dropout(h * torch.sigmoid(1.702 * h))
        return x + self.dropout(self.narrow(h))  # (N, D)


class SASRec(Encoder):
    """States are scored by dot product against the input table, or against a table of their own if not tied."""

    def __init__(self, spec: SASRecSpec, num_items: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, spec.hidden_dim)
        self.positions = nn.Embedding(spec.max_length, spec.hidden_dim)
        self.scale = spec.hidden_dim**0.5 if spec.scale_embeddings else 1.0
        self.dropout = nn.Dropout(spec.dropout)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.num_blocks))
        self.norm = nn.LayerNorm(spec.hidden_dim)
        self.output_items = None if spec.tie_embeddings else nn.Embedding(num_items, spec.hidden_dim)
        self.apply(_initialise)

    def encode(self, items: Tensor, offsets: Tensor) -> Tensor:
        layout = Layout.of(offsets, items.device)
        x = self.dropout(self.items(items) * self.scale + self.positions(layout.recency))  # (N, D)
        for block in self.blocks:
            x = block(x, layout)
        return self.norm(x)

    def output_table(self) -> Tensor:
        return (self.output_items or self.items).weight  # (V, D)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
