"""The playbook's table: what each diagnosis suggests, one field at a time, and why. Data, not code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainers.contract.space import Value


@dataclass(frozen=True)
class Rule:
    """One move of one field.

    `times` multiplies, `plus` adds, `to` sets; `until` is how far the rule itself will go, inside the space's bounds.
    `confidence` is the probability, stated in advance, that the metric rises.
    """

    field: str
    why: str
    times: float | None = None
    plus: float | None = None
    to: Value | None = None
    until: float | None = None
    confidence: float = 0.3
    backbone: Literal["sasrec", "hstu"] | None = None


FASTER_RATE = Rule("learning_rate", "a higher rate reaches the same fit sooner, and further on few users",
                   times=3, until=4e-3, confidence=0.5)  # fmt: skip
SLOWER_RATE = Rule("learning_rate", "smaller steps settle lower", times=1 / 3, until=3e-4, confidence=0.25)
CALMER_RATE = Rule("learning_rate", "smaller steps keep the loss from blowing up", times=1 / 3, confidence=0.6)
CLIP = Rule("gradient_clip", "clipping tames single bad batches", to=5.0, confidence=0.3)
WIDER = Rule("hidden_dim", "widen before deepen: more capacity for the same depth", times=2, until=256, confidence=0.35)
NARROWER = Rule("hidden_dim", "a narrower table has less to memorise with", times=0.5, until=32, confidence=0.25)
SHALLOWER = Rule("num_blocks", "short histories rarely need a second block", plus=-1, until=1, confidence=0.4)
DEEPER = Rule("num_blocks", "another block composes longer patterns", plus=1, until=4, confidence=0.25)
MORE_DROPOUT = Rule("dropout", "regularise before touching capacity", plus=0.15, until=0.8, confidence=0.35)
LESS_DROPOUT = Rule("dropout", "less noise lets the model fit what is there", plus=-0.2, until=0.1, confidence=0.4)
DECAY = Rule("weight_decay", "decay keeps rare items' embeddings small", to=1e-5, confidence=0.3)
SMALLER_BATCH = Rule("batch_size", "more steps an epoch, and noisier ones", times=0.5, until=64, confidence=0.35)
LARGER_BATCH = Rule("batch_size", "fewer, calmer steps", times=2, until=1024, confidence=0.25)
SAMPLED = Rule("loss", "negatives in place of the whole catalogue cost less", to="sampled_softmax", confidence=0.2)
FULL = Rule("loss", "the whole catalogue as negatives is the stronger signal", to="full_softmax", confidence=0.45)
MORE_EPOCHS = Rule("max_epochs", "the curve was still rising when it ended", times=2, confidence=0.5)
MORE_PATIENCE = Rule("patience", "patience ended a curve that was still rising", times=2, until=16, confidence=0.4)
SHORTER = Rule(
    "max_length", "a shorter window costs less and keeps what is recent", times=0.5, until=20, confidence=0.2
)
PLAIN_SCORES = Rule("normalize_embeddings", "plain dot products did better on small data", to=False,
                    confidence=0.4)  # fmt: skip
COSINE = Rule("normalize_embeddings", "cosine scores take popularity out of the norms", to=True,
              confidence=0.2)  # fmt: skip
ROTARY = Rule("position", "turning queries and keys by distance needs no position learned", to="rotary",
              confidence=0.3)  # fmt: skip
POST_NORM = Rule("block_norm", "normalising sums keeps states of all depths alike", to="post", confidence=0.3)

SCORING: tuple[Rule, ...] = (
    Rule("item_cf_alpha", "what stood near the newest items, which the encoder smooths over", to=1.0, confidence=0.45),
    Rule("item_cf_alpha", "counts may weigh more", times=2, until=2.0, confidence=0.35),
    Rule("transition_alpha", "what followed the newest items", to=1.0, confidence=0.35),
    Rule("prior_recent_k", "only the newest item's relations", to=1, confidence=0.25),
)
"""Moves on existing weights: each costs one evaluation, and is measured on the very weights that are exported."""

DIAGNOSES: dict[str, tuple[Rule, ...]] = {
    "scoring": SCORING,
    "memory": (SMALLER_BATCH, SAMPLED, SHORTER, NARROWER),
    "unstable": (CALMER_RATE, CLIP, LARGER_BATCH),
    "cut short": (FASTER_RATE, MORE_PATIENCE, SMALLER_BATCH),
    "undertrained": (FASTER_RATE, MORE_EPOCHS, SMALLER_BATCH),
    "overfitting": (MORE_DROPOUT, DECAY, SHALLOWER, NARROWER),
    "underfitting": (FASTER_RATE, LESS_DROPOUT, FULL, WIDER, PLAIN_SCORES, DEEPER),
    "slow": (FASTER_RATE, SHALLOWER, LARGER_BATCH, SAMPLED),
    "sparse": (FASTER_RATE, SHALLOWER, ROTARY, POST_NORM, LESS_DROPOUT, WIDER, FULL, PLAIN_SCORES),
}
"""Rules by what stands before the colon of a diagnosis, the most promising move first."""

ALWAYS: tuple[Rule, ...] = (
    FASTER_RATE, WIDER, LESS_DROPOUT, SMALLER_BATCH, MORE_DROPOUT, SHALLOWER, FULL, ROTARY, POST_NORM, DECAY,
    Rule("attention_dropout", "near zero is the rule; a little is worth one trial", to=0.1, confidence=0.2),
    Rule("num_heads", "one head has the whole width to compare with", to=1, confidence=0.25),
    Rule("linear_dim", "wider values a head", times=2, until=64, confidence=0.3, backbone="hstu"),
    Rule("attention_dim", "wider queries and keys a head", times=2, until=64, confidence=0.3, backbone="hstu"),
    DEEPER, SLOWER_RATE, COSINE,
    Rule("temperature", "softer cosine scores", times=2, until=0.2, confidence=0.25),
    Rule("feed_forward", "a gate lets the block choose what it adds", to="swiglu", confidence=0.25),
    Rule("learning_rate_schedule", "the last epochs settle with small steps", to="cosine", confidence=0.2),
    Rule("share_blocks", "one block's weights for all have less to memorise with", to=True, confidence=0.2),
    Rule("beta2", "a longer memory of gradient sizes suits rare items", to=0.999, confidence=0.25),
    Rule("tie_embeddings", "one table for input and output halves the parameters", to=True, confidence=0.4),
    Rule("num_negatives", "more negatives come nearer to the full softmax", times=2, until=2048, confidence=0.35),
    Rule("max_length", "a longer history where users have one", times=2, until=200, confidence=0.2),
    LARGER_BATCH, NARROWER,
)  # fmt: skip
"""Rules to try where no diagnosis has a move left."""

SPARSE_USERS, SPARSE_LENGTH = 5000, 10.0
"""Data with fewer users, or with shorter histories on average, count as sparse."""
