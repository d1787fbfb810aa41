"""The padded form of the backbones: the plain definition that packed rows must equal, outputs and gradients.

Every sequence stands at the right end of a row of `width` positions, as the literature draws it: the newest item is
last, what is missing on the left is masked. Only the names of the parameters are shared with the packed form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.contract.fields import Spec
from trainers.contract.specs import HSTUSpec, SASRecSpec

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
    x = weights["items.weight"][items] * scale
    return x + weights["positions.weight"][age] if "positions.weight" in weights else x


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


def turned(x: Tensor) -> Tensor:
    """x (B, H, L, W) with pairs of columns c and c + W // 2 turned by the angle of their place in the row."""
    L, half = x.shape[2], x.shape[3] // 2
    out = x.clone()
    for column in range(half):
        angles = torch.arange(L, dtype=x.dtype) * 10_000.0 ** (-column / half)
        one, other = x[..., column], x[..., column + half]
        out[..., column] = one * angles.cos() - other * angles.sin()
        out[..., column + half] = one * angles.sin() + other * angles.cos()
    return out


def residual(spec: Spec, weights: Weights, name: str, x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    if spec.block_norm == "post":
        return norm(weights, f"{name}.norm", x + layer(x))
    return x + layer(norm(weights, f"{name}.norm", x))


def feed_forward(kind: str, weights: Weights, name: str, x: Tensor) -> Tensor:
    h = linear(weights, f"{name}.widen", x)
    if kind == "swiglu":
        gate, h = h.chunk(2, dim=-1)
        return linear(weights, f"{name}.narrow", gate * torch.sigmoid(gate) * h)
    return linear(weights, f"{name}.narrow", h * torch.sigmoid(1.702 * h))


def mean_of_newest(states: Tensor, real: Tensor, window: int) -> Tensor:
    """For each of states (L, D) the mean of the real ones among it and the window - 1 before it; 0 if there is none."""
    spans = [slice(max(0, t - window + 1), t + 1) for t in range(len(states))]
    return torch.stack([states[span][real[span]].sum(0) / max(1, int(real[span].sum())) for span in spans])


def head(spec: Spec, weights: Weights, x: Tensor, real: Tensor) -> Tensor:
    if spec.pooling == "mean":
        x = torch.stack([mean_of_newest(row, seen, spec.pooling_window) for row, seen in zip(x, real, strict=True)])
    if spec.normalize_embeddings:
        return x / x.norm(dim=-1, keepdim=True) / spec.temperature
    return x if spec.block_norm == "post" else norm(weights, "norm", x)


def stacked(
    spec: Spec, weights: Weights, items: Tensor, real: Tensor, block: Callable[[str, Tensor], Tensor]
) -> Tensor:
    """States (B, L, D); those of padding mean nothing."""
    x = embed(weights, items, spec.hidden_dim**0.5 if spec.scale_embeddings else 1.0, spec.max_length)
    for number in range(spec.num_blocks):
        x = block("blocks.0" if spec.share_blocks else f"blocks.{number}", x)
    return head(spec, weights, x, real)


def sasrec(spec: SASRecSpec, weights: Weights, items: Tensor, real: Tensor) -> Tensor:
    L = items.shape[1]
    visible = torch.ones(L, L, dtype=torch.bool).tril() & real[:, None, None, :]  # (B, 1, L, L)
    distance = (torch.arange(L)[:, None] - torch.arange(L)).clamp(0, spec.max_length - 1)

    def attention(name: str, x: Tensor) -> Tensor:
        q, k, v = (heads(part, spec.num_heads) for part in linear(weights, f"{name}.project", x).chunk(3, dim=-1))
        if spec.position == "rotary":
            q, k = turned(q), turned(k)
        scores = q @ k.transpose(-1, -2) / (spec.hidden_dim / spec.num_heads) ** 0.5
        if spec.position == "relative":
            scores = scores + weights[f"{name}.distance_bias"][distance]
        shares = scores.masked_fill(~visible, -1e9).softmax(-1)
        return linear(weights, f"{name}.output", (shares @ v).transpose(1, 2).flatten(2))

    def block(name: str, x: Tensor) -> Tensor:
        x = residual(spec, weights, f"{name}.add_attention", x, lambda h: attention(f"{name}.attention", h))
        layer = partial(feed_forward, spec.feed_forward, weights, f"{name}.feed_forward")
        return residual(spec, weights, f"{name}.add_feed_forward", x, layer)

    return stacked(spec, weights, items, real, block)


def hstu(spec: HSTUSpec, weights: Weights, items: Tensor, real: Tensor) -> Tensor:
    L, H = items.shape[1], spec.num_heads
    visible = torch.ones(L, L, dtype=torch.bool).tril() & real[:, None, None, :]  # (B, 1, L, L)
    distance = (torch.arange(L)[:, None] - torch.arange(L)).clamp(0, spec.max_length - 1)

    def attention(name: str, x: Tensor) -> Tensor:
        y = F.silu(linear(weights, f"{name}.project", x))
        u, rest = y.split([H * spec.linear_dim, y.shape[-1] - H * spec.linear_dim], dim=-1)
        v, q, k = heads(rest, H).split([spec.linear_dim, spec.attention_dim, spec.attention_dim], dim=-1)
        if spec.position == "rotary":
            q, k = turned(q), turned(k)
        scores = q @ k.transpose(-1, -2) + weights[f"{name}.distance_bias"][distance]
        shares = F.silu(scores) / spec.max_length * visible
        mixed = (shares @ v).transpose(1, 2).flatten(2)
        return linear(weights, f"{name}.output", u * norm(weights, f"{name}.mixed_norm", mixed))

    def block(name: str, x: Tensor) -> Tensor:
        x = residual(spec, weights, f"{name}.add_attention", x, lambda h: attention(f"{name}.attention", h))
        if spec.feed_forward == "none":
            return x
        layer = partial(feed_forward, spec.feed_forward, weights, f"{name}.feed_forward")
        return residual(spec, weights, f"{name}.add_feed_forward", x, layer)

    return stacked(spec, weights, items, real, block)
