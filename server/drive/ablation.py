"""What a drive lets its policy know of memory: all of it, none, or a placebo that looks like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Literal

from memory.elsewhere import Elsewhere
from memory.priors import Start
from server.policies.base import Brief
from server.policies.sampling import changes_between, draw
from trainers.space import Space

MemoryMode = Literal["on", "off", "frozen", "permuted", "flipped"]
"""`frozen` reads and writes nothing; the placebos do not write either."""


def ablated(brief: Brief, mode: MemoryMode, space: Space, seed: int) -> Brief:
    """The brief as a policy sees it. `permuted` deals expected gains and scores out anew and advises at random.

    `flipped` expects the opposite of every claim and score, and advises nothing. Neither shows words.
    """
    if mode in ("on", "frozen"):
        return brief
    if mode == "off":
        return brief.without_memory()
    if mode == "flipped":
        turned = tuple(replace(one, gain=-one.gain) for one in brief.beliefs)
        others = tuple(_rescored(one, _turned([point.mean for point in one.points])) for one in brief.elsewhere)
        return replace(brief, memory=(), starts=(), beliefs=turned, elsewhere=others)
    dice = Random(f"permuted:{seed}")
    gains = dice.sample([one.gain for one in brief.beliefs], len(brief.beliefs))
    dealt = tuple(replace(one, gain=gain) for one, gain in zip(brief.beliefs, gains, strict=True))
    default = space.default()
    starts = tuple(Start(changes_between(space, default, draw(space, dice)), one.gain) for one in brief.starts)
    others = tuple(
        _rescored(one, dice.sample([point.mean for point in one.points], len(one.points))) for one in brief.elsewhere
    )
    return replace(brief, memory=(), starts=starts, beliefs=dealt, elsewhere=others)


def _turned(means: Sequence[float]) -> list[float]:
    """The best as low as the worst was, and so on."""
    return [max(means) + min(means) - mean for mean in means]


def _rescored(one: Elsewhere, means: Sequence[float]) -> Elsewhere:
    points = (replace(point, mean=mean) for point, mean in zip(one.points, means, strict=True))
    return replace(one, points=tuple(points))
