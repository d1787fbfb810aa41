"""What a training will hold in memory at its peak, told before it starts from the spec and the size of the data."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np

from trainers import native
from trainers.data import TrainingData
from trainers.evaluate import BLOCK_TOKENS, BLOCK_USERS
from trainers.fields import Spec
from trainers.losses import BLOCK_ROWS, BLOCK_SCORES
from trainers.spec import HSTUSpec

PROCESS_MB = 390
"""A process that trained something tiny."""
BYTES_AN_EVENT = 80
"""Of each interaction: the event, an epoch's rows, inputs and targets, what evaluation encodes and filters."""
SLACK = 1.15
"""An allocator holds more than is in use."""


class NotEnoughMemory(MemoryError):
    """A training that cannot fit; the message says what it needs and what would help."""


def predicted_memory_mb(spec: Spec, data: TrainingData, bf16: bool) -> float:
    """The predicted peak of a training process on a CPU, in MiB: within a fifth of what was seen up to 1.3 GiB."""
    sparse = spec.updates_touched_rows
    table = 4 * data.num_items * spec.hidden_dim * (1 if spec.tie_embeddings else 2)
    copies = 5.0 if sparse else 7.0  # weights, best weights, two moments, a file's bytes; gradients of input and output
    if spec.loss == "full_softmax" and bf16:
        copies += 0.5
    tokens = _tokens(spec, data)
    scores = 4 * _scores(spec, data, tokens)
    body = max(_training_bytes(spec, data, tokens), _evaluation_bytes(spec, data))
    parameters = 4 * 5 * spec.num_blocks * 12 * spec.hidden_dim**2
    events = BYTES_AN_EVENT * (len(data.items) + len(data.validation))
    return PROCESS_MB + SLACK * (copies * table + scores + body + parameters + events) / 2**20


def refuse_what_cannot_fit(predicted_mb: float, spec: Spec, allowed_mb: float) -> None:
    """Raises NotEnoughMemory where a training needs more than `allowed_mb`."""
    if predicted_mb > allowed_mb:
        advice = "a smaller hidden_dim or batch_size"
        if not spec.updates_touched_rows:
            advice += ', or loss "sampled_softmax" with table_updates "touched_rows",'
        raise NotEnoughMemory(f"needs about {predicted_mb:.0f} MB, {allowed_mb:.0f} MB can be had: {advice} needs less")


def available_memory_mb() -> float:
    """What this process may hold: what it has and what is free, on the machine or in its memory cgroup."""
    held, free = _number(Path("/proc/self/status"), "VmRSS:"), _number(Path("/proc/meminfo"), "MemAvailable:")
    if held is None or free is None:
        return inf
    available = (held + free) / 2**10
    for limit, used in _CGROUPS:
        allowed, taken = _number(limit), _number(used)
        if allowed is not None and taken is not None:
            available = min(available, held / 2**10 + (allowed - taken) / 2**20)
    return available


_CGROUP = Path("/sys/fs/cgroup")
_CGROUPS = (
    (_CGROUP / "memory.max", _CGROUP / "memory.current"),
    (_CGROUP / "memory" / "memory.limit_in_bytes", _CGROUP / "memory" / "memory.usage_in_bytes"),
)


def _number(path: Path, name: str = "") -> int | None:
    """The number after `name` in a file of the kernel's, if it has one."""
    try:
        words = path.read_text(encoding="ascii", errors="replace").split()
        word = words[words.index(name) + 1] if name else words[0]
        return int(word)
    except (OSError, ValueError, IndexError):
        return None


def _training_bytes(spec: Spec, data: TrainingData, tokens: float) -> float:
    """What the encoder keeps of a batch for its way back."""
    users = min(spec.batch_size, len(data.offsets) - 1)
    held = tokens * (spec.num_blocks * _floats_a_block(spec) + 8 * spec.hidden_dim)
    return 4 * (held + spec.num_blocks * _weights(spec, data, users))


def _evaluation_bytes(spec: Spec, data: TrainingData) -> float:
    """What one block of the encoder holds of the users that are ranked together."""
    lengths = np.diff(data.offsets).clip(max=spec.max_length)
    users = min(BLOCK_USERS, len(lengths), max(1.0, BLOCK_TOKENS / lengths.mean()))
    return 4 * (users * lengths.mean() * (_floats_a_block(spec) / 2) + _weights(spec, data, users))


def _weights(spec: Spec, data: TrainingData, users: float) -> float:
    """Attention weights of so many users, thrice: plain torch holds them all at once, a kernel a row at a time."""
    if native.kernels() is not None:
        return 0.0
    lengths = np.diff(data.offsets).clip(max=spec.max_length).astype(np.float64)
    return 3 * spec.num_heads * users * float((lengths**2).mean())


def _tokens(spec: Spec, data: TrainingData) -> float:
    """Tokens of a large batch: users have their mean number, with two deviations of the sum."""
    lengths = np.minimum(np.diff(data.offsets), spec.train_window or spec.max_length).clip(max=spec.max_length)
    users = min(spec.batch_size, len(lengths))
    return float(users * lengths.mean() + 2 * users**0.5 * lengths.std())


def _scores(spec: Spec, data: TrainingData, tokens: float) -> float:
    """Numbers of four bytes that the loss holds at once."""
    if spec.loss == "full_softmax":
        return min(max(BLOCK_SCORES, BLOCK_ROWS * data.num_items), (tokens + BLOCK_ROWS) * data.num_items)
    if spec.negative_sharing == "batch":
        return min(BLOCK_SCORES, tokens * spec.num_negatives) + 4 * (tokens + spec.num_negatives) * spec.hidden_dim
    drawn = tokens * (spec.num_negatives + 1)
    return 2 * drawn + (8 * drawn if spec.updates_touched_rows else min(drawn, 3 * BLOCK_SCORES))


def _floats_a_block(spec: Spec) -> float:
    if isinstance(spec, HSTUSpec):
        return 3 * spec.hidden_dim + spec.num_heads * (9 * spec.linear_dim + 6 * spec.attention_dim)
    return 17 * spec.hidden_dim
