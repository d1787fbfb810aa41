"""SASRec (Kang & McAuley 2018): a causal transformer over items; by default pre-norm, learned positions by recency."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.contract.specs import SASRecSpec
from trainers.models.attention import Heads, softmax_attention
from trainers.models.backbones.layers import FeedForward, Residual, Rotation, StackedEncoder
from trainers.models.batches import Layout
from trainers.models.fused import Masks


class Attention(nn.Module):
    """Causal softmax attention inside each sequence."""

    def __init__(self, spec: SASRecSpec, masks: Masks) -> None:
        super().__init__()
        D, width = spec.hidden_dim, spec.hidden_dim // spec.num_heads
        self.heads = Heads(spec.num_heads, 3 * D, width, width, 0, D, 2 * D, width, width)
        self.longest = spec.max_length
        self.dropout = spec.attention_dropout
        self.masks = masks
        self.project = nn.Linear(D, 3 * D)  # to queries, keys and values
        self.distance_bias = nn.Parameter(torch.zeros(spec.max_length)) if spec.position == "relative" else None
        self.rotation = Rotation(spec.max_length, width) if spec.position == "rotary" else None
        self.output = nn.Linear(D, D)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        projected = self.project(x)
        if self.rotation is not None:
            projected = self._rotated(projected, self.rotation, layout.recency)
        mask = self.masks.next(self.dropout)
        return self.output(softmax_attention(projected, self.distance_bias, layout, self.heads, mask, self.longest))

    def _rotated(self, projected: Tensor, rotation: Rotation, recency: Tensor) -> Tensor:
        turned, values = projected.split([self.heads.value, self.heads.row - self.heads.value], dim=-1)
        vectors = turned.unflatten(1, (-1, self.heads.key_width))  # (N, 2 * H, W)
        return torch.cat([rotation(vectors, recency).flatten(1), values], 1)


class Block(nn.Module):
    """Attention, then a position-wise feed-forward, each added to its input."""

    def __init__(self, spec: SASRecSpec, masks: Masks) -> None:
        super().__init__()
        self.add_attention = Residual(spec, spec.dropout, masks)
        self.attention = Attention(spec, masks)
        self.add_feed_forward = Residual(spec, spec.dropout, masks)
        self.feed_forward = FeedForward(spec.feed_forward, spec, masks)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.add_attention(x, lambda h: self.attention(h, layout))
        return self.add_feed_forward(x, self.feed_forward)  # (N, D)


class SASRec(StackedEncoder):
    """The SASRec encoder. Weights start normal with deviation 0.02, biases at zero."""

    def __init__(self, spec: SASRecSpec, num_items: int) -> None:
        super().__init__(spec, num_items, lambda masks: Block(spec, masks))
        self.apply(_initialise)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
