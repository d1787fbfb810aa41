"""The parts of encoders besides attention: stacked blocks, residuals, feed-forwards, rotations and pooled states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.contract.fields import Spec
from trainers.models.backbones import Encoder
from trainers.models.batches import Layout
from trainers.models.fused import Masks, add_dropped, embed, gate_dropped, gelu_dropped, layer_norm, lookup


class StackedEncoder(Encoder):
    """Embeddings, then blocks, then a head: dot products of normalised states, or cosines over the temperature.

    `block` makes one block, which maps x (N, D) and a layout to (N, D).
    """

    def __init__(self, spec: Spec, num_items: int, block: Callable[[Masks], nn.Module]) -> None:
        super().__init__()
        D, touched = spec.hidden_dim, spec.updates_touched_rows
        self.num_items = num_items
        self.items = nn.Embedding(num_items, D, sparse=touched)
        self.positions = nn.Embedding(spec.max_length, D) if spec.position == "learned" else None
        self.scale = D**0.5 if spec.scale_embeddings else 1.0
        self.dropout = spec.dropout
        self.passes = spec.num_blocks
        self.blocks = nn.ModuleList(block(self.masks) for _ in range(1 if spec.share_blocks else spec.num_blocks))
        self.window = spec.pooling_window if spec.pooling == "mean" else 1
        self.temperature = spec.temperature if spec.normalize_embeddings else None
        ends_normalised = spec.block_norm == "post" or spec.normalize_embeddings
        self.norm = None if ends_normalised else nn.LayerNorm(D)
        self.output_items = None if spec.tie_embeddings else nn.Embedding(num_items, D, sparse=touched)

    def forward(self, items: Tensor, layout: Layout) -> Tensor:
        mask = self.masks.next(self.dropout)
        x = embed(self.items, self.positions, items, layout.recency, self.scale, mask)  # (N, D)
        for number in range(self.passes):
            x = self.blocks[number % len(self.blocks)](x, layout)
        x = pooled(x, layout.recency, self.window)
        if self.temperature is not None:
            return F.normalize(x, dim=-1) / self.temperature
        return x if self.norm is None else layer_norm(x, self.norm)

    def output_rows(self, items: Tensor) -> Tensor:
        rows = lookup(self.output_items or self.items, items)
        return rows if self.temperature is None else F.normalize(rows, dim=-1)

    def output_table(self) -> Tensor:
        table = (self.output_items or self.items).weight  # (V, D)
        return table if self.temperature is None else F.normalize(table, dim=-1)


class Residual(nn.Module):
    """x + dropout(layer(x)) for x (N, D), with a layer norm before the layer, or after the sum."""

    def __init__(self, spec: Spec, dropout: float, masks: Masks) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(spec.hidden_dim)
        self.before = spec.block_norm == "pre"
        self.dropout = dropout
        self.masks = masks

    def forward(self, x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        h = layer(layer_norm(x, self.norm) if self.before else x)
        x = add_dropped(x, h, self.masks.next(self.dropout))
        return x if self.before else layer_norm(x, self.norm)


class FeedForward(nn.Module):
    """Position-wise feed-forward, as wide inside as outside: a GELU, or a SiLU gate (SwiGLU, Shazeer 2020)."""

    def __init__(self, kind: Literal["gelu", "swiglu"], spec: Spec, masks: Masks) -> None:
        super().__init__()
        D = spec.hidden_dim
        self.gated = kind == "swiglu"
        self.widen = nn.Linear(D, 2 * D if self.gated else D)
        self.narrow = nn.Linear(D, D)
        self.dropout = spec.dropout
        self.masks = masks

    def forward(self, x: Tensor) -> Tensor:
        h, mask = self.widen(x), self.masks.next(self.dropout)
        if not self.gated:
            return self.narrow(gelu_dropped(h, mask))
        gate, h = h.chunk(2, dim=-1)
        return self.narrow(gate_dropped(h, F.silu(gate), mask))  # (N, D)


class Rotation(nn.Module):
    """Rotates queries and keys by angles that grow with the distance from the newest item (Su et al. 2021)."""

    def __init__(self, max_length: int, width: int) -> None:
        super().__init__()
        self.pairs = width // 2
        speeds = 10_000.0 ** -(torch.arange(self.pairs) / max(1, self.pairs))
        angles = -torch.arange(max_length)[:, None] * speeds  # (L, W/2)
        self.turns: Tensor
        self.register_buffer("turns", torch.stack([angles.cos(), angles.sin()], 1), persistent=False)

    def forward(self, x: Tensor, recency: Tensor) -> Tensor:
        """x (N, P, W) rotated, P vectors per token, by recency (N,); the last column of an odd width stays as it is."""
        cos, sin = self.turns[recency].unbind(1)  # (N, W/2)
        first, second, rest = x.split([self.pairs, self.pairs, x.shape[-1] - 2 * self.pairs], dim=-1)
        cos, sin = cos[:, None], sin[:, None]
        return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1)


def pooled(states: Tensor, recency: Tensor, window: int) -> Tensor:
    """The mean (N, D) of each state and those before it in its sequence, over at most `window` states."""
    if window == 1:
        return states
    total, count = states, torch.ones_like(recency)
    for step in range(1, window):
        # the token `step` before belongs to the same sequence exactly where it is that much farther from the newest
        same = recency.roll(step) == recency + step
        total = total + states.roll(step, 0) * same[:, None]
        count = count + same
    return total / count[:, None]
