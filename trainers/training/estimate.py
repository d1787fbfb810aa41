"""Predicts the peak memory of a training, before it starts, from the spec and the size of the data."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np

from trainers.contract.fields import Spec
from trainers.contract.specs import HSTUSpec
from trainers.data import TrainingData
from trainers.models import native
from trainers.ranking.evaluate import BLOCK_TOKENS, BLOCK_USERS
from trainers.training.losses import BLOCK_ROWS, BLOCK_SCORES

PROCESS_MB = 390
"""Peak memory in MiB of a process that trained something tiny."""
BYTES_AN_EVENT = 80
"""Bytes per interaction: the event, an epoch's rows, inputs and targets, and what evaluation encodes and filters."""
SLACK = 1.15
"""Factor for the memory that an allocator holds beyond what is in use."""


class NotEnoughMemory(MemoryError):
    """The training cannot fit; the message says what it needs and what would help."""


def predicted_memory_mb(spec: Spec, data: TrainingData, bf16: bool) -> float:
    """The predicted peak of a training process on a CPU in MiB; up to 1.3 GiB, within a fifth of measured peaks."""
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
    """Raises NotEnoughMemory if a training is predicted to need more than `allowed_mb`."""
    if predicted_mb > allowed_mb:
        advice = "a smaller hidden_dim or batch_size"
        if not spec.updates_touched_rows:
            advice += ', or loss "sampled_softmax" with table_updates "touched_rows",'
        raise NotEnoughMemory(f"needs about {predicted_mb:.0f} MB, {allowed_mb:.0f} MB can be had: {advice} needs less")


def available_memory_mb() -> float:
    """Memory in MiB that this process may hold: what it has plus what is free, on the machine or in its cgroup."""
    held, free = _read_number(Path("/proc/self/status"), "VmRSS:"), _read_number(Path("/proc/meminfo"), "MemAvailable:")
    if held is None or free is None:
        return inf
    available = (held + free) / 2**10
    for limit, used in _CGROUPS:
        allowed, taken = _read_number(limit), _read_number(used)
        if allowed is not None and taken is not None:
            available = min(available, held / 2**10 + (allowed - taken) / 2**20)
    return available


_CGROUP = Path("/sys/fs/cgroup")
_CGROUPS = (
    (_CGROUP / "memory.max", _CGROUP / "memory.current"),
    (_CGROUP / "memory" / "memory.limit_in_bytes", _CGROUP / "memory" / "memory.usage_in_bytes"),
)


def _read_number(path: Path, name: str = "") -> int | None:
    """The number after `name`, or the first without `name`, in a file of the Linux kernel; None if there is none."""
    try:
        words = path.read_text(encoding="ascii", errors="replace").split()
        word = words[words.index(name) + 1] if name else words[0]
        return int(word)
    except (OSError, ValueError, IndexError):
        return None


def _training_bytes(spec: Spec, data: TrainingData, tokens: float) -> float:
    """Bytes that the encoder keeps of a batch for the backward pass."""
    users = min(spec.batch_size, len(data.offsets) - 1)
    held = tokens * (spec.num_blocks * _floats_a_block(spec) + 8 * spec.hidden_dim)
    return 4 * (held + spec.num_blocks * _attention_weights(spec, data, users))


def _evaluation_bytes(spec: Spec, data: TrainingData) -> float:
    """Bytes that one block of the encoder holds for the users that are ranked together."""
    lengths = np.diff(data.offsets).clip(max=spec.max_length)
    users = min(BLOCK_USERS, len(lengths), max(1.0, BLOCK_TOKENS / lengths.mean()))
    return 4 * (users * lengths.mean() * (_floats_a_block(spec) / 2) + _attention_weights(spec, data, users))


def _attention_weights(spec: Spec, data: TrainingData, users: float) -> float:
    """Three times the attention weights of `users` users, which plain torch holds at once; kernels hold one row."""
    if native.kernels() is not None:
        return 0.0
    lengths = np.diff(data.offsets).clip(max=spec.max_length).astype(np.float64)
    return 3 * spec.num_heads * users * float((lengths**2).mean())


def _tokens(spec: Spec, data: TrainingData) -> float:
    """Number of tokens in a large batch: the mean sum over its users plus two standard deviations."""
    lengths = np.minimum(np.diff(data.offsets), spec.train_window or spec.max_length).clip(max=spec.max_length)
    users = min(spec.batch_size, len(lengths))
    return float(users * lengths.mean() + 2 * users**0.5 * lengths.std())


def _scores(spec: Spec, data: TrainingData, tokens: float) -> float:
    """How many numbers of four bytes the loss holds at once."""
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
