"""SASRec (Kang & McAuley 2018): a causal transformer over items, pre-norm, with recency-aligned learned positions."""

from __future__ import annotations

from torch import Tensor, nn

from trainers.attention import Heads, softmax_attention
from trainers.backbones import Encoder
from trainers.batches import Layout
from trainers.fused import Masks, add_dropped, embed, gelu_dropped, layer_norm, lookup
from trainers.spec import SASRecSpec


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
        self.output = nn.Linear(D, D)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        mask = self.masks.next(self.dropout)
        return self.output(softmax_attention(self.project(x), layout, self.heads, mask, self.longest))  # (N, D)


class Block(nn.Module):
    """Attention, then a position-wise feed-forward of the same width; each normalised before and added to its input."""

    def __init__(self, spec: SASRecSpec, masks: Masks) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(spec.hidden_dim)
        self.attention = Attention(spec, masks)
        self.feed_forward_norm = nn.LayerNorm(spec.hidden_dim)
        self.widen = nn.Linear(spec.hidden_dim, spec.hidden_dim)
        self.narrow = nn.Linear(spec.hidden_dim, spec.hidden_dim)
        self.dropout = spec.dropout
        self.masks = masks

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        p, masks = self.dropout, self.masks
        x = add_dropped(x, self.attention(layer_norm(x, self.attention_norm), layout), masks.next(p))
        h = gelu_dropped(self.widen(layer_norm(x, self.feed_forward_norm)), masks.next(p))
        return add_dropped(x, self.narrow(h), masks.next(p))  # (N, D)


class SASRec(Encoder):
    """States are scored by dot product against the input table, or against a table of their own if not tied."""

    def __init__(self, spec: SASRecSpec, num_items: int) -> None:
        super().__init__()
        touched = spec.updates_touched_rows
        self.num_items = num_items
        self.items = nn.Embedding(num_items, spec.hidden_dim, sparse=touched)
        self.positions = nn.Embedding(spec.max_length, spec.hidden_dim)
        self.scale = spec.hidden_dim**0.5 if spec.scale_embeddings else 1.0
        self.dropout = spec.dropout
        self.blocks = nn.ModuleList(Block(spec, self.masks) for _ in range(spec.num_blocks))
        self.norm = nn.LayerNorm(spec.hidden_dim)
        self.output_items = None if spec.tie_embeddings else nn.Embedding(num_items, spec.hidden_dim, sparse=touched)
        self.apply(_initialise)

    def forward(self, items: Tensor, layout: Layout) -> Tensor:
        mask = self.masks.next(self.dropout)
        x = embed(self.items, self.positions, items, layout.recency, self.scale, mask)  # (N, D)
        for block in self.blocks:
            x = block(x, layout)
        return layer_norm(x, self.norm)

    def output_rows(self, items: Tensor) -> Tensor:
        return lookup(self.output_items or self.items, items)

    def output_table(self) -> Tensor:
        return (self.output_items or self.items).weight  # (V, D)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
