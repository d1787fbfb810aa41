"""What a drive lets its policy know of memory: all of it, none, or a placebo that looks like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Literal

from memory.advice.starts import Start
from memory.statistics.elsewhere import Elsewhere
from server.policies.base import PolicyContext
from server.policies.sampling import changes_between, draw
from trainers.contract.space import Space

MemoryMode = Literal["on", "off", "frozen", "permuted", "flipped"]
"""`frozen` reads and writes nothing; the placebos do not write either."""


def ablated(context: PolicyContext, mode: MemoryMode, space: Space, seed: int) -> PolicyContext:
    """The context that a policy gets. `permuted` shuffles expected gains and scores, and gives random starts.

    `flipped` reverses every expected gain and score, and gives no starts. Neither shows notes.
    """
    if mode in ("on", "frozen"):
        return context
    if mode == "off":
        return context.without_memory()
    if mode == "flipped":
        beliefs = tuple(replace(belief, gain=-belief.gain) for belief in context.beliefs)
        datasets = tuple(
            _rescored(dataset, _mirrored([point.mean for point in dataset.points])) for dataset in context.elsewhere
        )
        return replace(context, memory=(), starts=(), beliefs=beliefs, elsewhere=datasets)
    rng = Random(f"permuted:{seed}")
    gains = rng.sample([belief.gain for belief in context.beliefs], len(context.beliefs))
    beliefs = tuple(replace(belief, gain=gain) for belief, gain in zip(context.beliefs, gains, strict=True))
    default = space.default()
    starts = tuple(Start(changes_between(space, default, draw(space, rng)), start.gain) for start in context.starts)
    datasets = tuple(
        _rescored(dataset, rng.sample([point.mean for point in dataset.points], len(dataset.points)))
        for dataset in context.elsewhere
    )
    return replace(context, memory=(), starts=starts, beliefs=beliefs, elsewhere=datasets)


def _mirrored(means: Sequence[float]) -> list[float]:
    """The means in reverse: the best becomes as low as the worst was."""
    return [max(means) + min(means) - mean for mean in means]


def _rescored(dataset: Elsewhere, means: Sequence[float]) -> Elsewhere:
    points = (replace(point, mean=mean) for point, mean in zip(dataset.points, means, strict=True))
    return replace(dataset, points=tuple(points))
