"""What a drive lets its policy know of memory: all of it, none, or a placebo that looks like it."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Literal

from memory.priors import Start
from server.policies.base import Brief
from server.policies.sampling import changes_between, draw
from trainers.space import Space

MemoryMode = Literal["on", "off", "frozen", "permuted", "flipped"]
"""`frozen` reads and writes nothing; the placebos do not write either."""


def ablated(brief: Brief, mode: MemoryMode, space: Space, seed: int) -> Brief:
    """The brief as a policy sees it. `permuted` deals expected gains out anew and advises configurations at random.

    `flipped` expects the opposite of every claim and advises nothing. Neither shows what was written in words.
    """
    if mode in ("on", "frozen"):
        return brief
    if mode == "off":
        return replace(brief, memory=(), starts=(), beliefs=())
    if mode == "flipped":
        turned = tuple(replace(one, gain=-one.gain) for one in brief.beliefs)
        return replace(brief, memory=(), starts=(), beliefs=turned)
    dice = Random(f"permuted:{seed}")
    gains = dice.sample([one.gain for one in brief.beliefs], len(brief.beliefs))
    dealt = tuple(replace(one, gain=gain) for one, gain in zip(brief.beliefs, gains, strict=True))
    default = space.default()
    starts = tuple(Start(changes_between(space, default, draw(space, dice)), one.gain) for one in brief.starts)
    return replace(brief, memory=(), starts=starts, beliefs=dealt)
