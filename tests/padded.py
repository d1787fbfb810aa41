"""The padded form of the backbones: the plain definition that packed rows must equal, outputs and gradients.

Every sequence stands at the right end of a row of `width` positions, as the literature draws it: the newest item is
last, what is missing on the left is masked. Only the names of the parameters are shared with the packed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.spec import HSTUSpec, SASRecSpec

Weights = Mapping[str, Tensor]


def pad(sequences: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor]:
    """Items (B, L) with 0 where there is none, and which of them are real (B, L)."""
    items = torch.zeros(len(sequences), width, dtype=torch.long)
    real = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        items[row, width - len(sequence) :] = torch.tensor(sequence)
        real[row, width - len(sequence) :] = True
    return items, real


def embed(weights: Weights, items: Tensor, scale: float, max_length: int) -> Tensor:
    width = items.shape[1]
    age = torch.arange(width - 1, -1, -1).clamp(max=max_length - 1)  # 0 is the newest; beyond max_length is padding
    return weights["items.weight"][items] * scale + weights["positions.weight"][age]


def heads(x: Tensor, count: int) -> Tensor:
    B, L, _ = x.shape
    return x.view(B, L, count, -1).transpose(1, 2)  # (B, H, L, D/H)


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def sasrec(spec: SASRecSpec, weights: Weights, items: Tensor, real: Tensor) -> Tensor:
    """States (B, L, D); those of padding mean nothing."""
    L = items.shape[1]
    visible = torch.ones(L, L, dtype=torch.bool).tril() & real[:, None, None, :]  # (B, 1, L, L)
    x = embed(weights, items, spec.hidden_dim**0.5 if spec.scale_embeddings else 1.0, spec.max_length)
    for number in range(spec.num_blocks):
        block = f"blocks.{number}"
        y = linear(weights, f"{block}.attention.project", norm(weights, f"{block}.attention_norm", x))
        q, k, v = (heads(part, spec.num_heads) for part in y.chunk(3, dim=-1))
        scores = q @ k.transpose(-1, -2) / (spec.hidden_dim / spec.num_heads) ** 0.5
        shares = scores.masked_fill(~visible, -1e9).softmax(-1)
        mixed = (shares @ v).transpose(1, 2).flatten(2)
        x = x + linear(weights, f"{block}.attention.output", mixed)
        h = linear(weights, f"{block}.widen", norm(weights, f"{block}.feed_forward_norm", x))
        x = x + linear(weights, f"{block}.narrow", h * torch.sigmoid(1.702 * h))
    return norm(weights, "norm", x)


def hstu(spec: HSTUSpec, weights: Weights, items: Tensor, real: Tensor) -> Tensor:
    """States (B, L, D); those of padding mean nothing."""
    L, H = items.shape[1], spec.num_heads
    visible = torch.ones(L, L, dtype=torch.bool).tril() & real[:, None, None, :]  # (B, 1, L, L)
    distance = (torch.arange(L)[:, None] - torch.arange(L)).clamp(0, spec.max_length - 1)
    x = embed(weights, items, spec.hidden_dim**0.5 if spec.scale_embeddings else 1.0, spec.max_length)
    for number in range(spec.num_blocks):
        block = f"blocks.{number}"
        y = F.silu(linear(weights, f"{block}.project", norm(weights, f"{block}.norm", x)))
        u, rest = y.split([H * spec.linear_dim, y.shape[-1] - H * spec.linear_dim], dim=-1)
        v, q, k = heads(rest, H).split([spec.linear_dim, spec.attention_dim, spec.attention_dim], dim=-1)
        scores = q @ k.transpose(-1, -2) + weights[f"{block}.distance_bias"][distance]
        shares = F.silu(scores) / spec.max_length * visible
        mixed = (shares @ v).transpose(1, 2).flatten(2)
        x = x + linear(weights, f"{block}.output", u * norm(weights, f"{block}.mixed_norm", mixed))
    if spec.normalize_embeddings:
        return x / x.norm(dim=-1, keepdim=True) / spec.temperature
    return norm(weights, "norm", x)
