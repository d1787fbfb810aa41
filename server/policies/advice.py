"""How policies follow memory: configurations to train first, and a leaning towards values that claims speak for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import exp
from random import Random

from memory.priors import Belief
from server.policies.base import Brief, Observation, Proposal, first_trial, standings, tried
from server.policies.sampling import changes_between, settle, valid
from trainers.space import Config, Space, Value

DISAPPOINTMENTS = 2
"""Advised configurations that did not lead, after which no more are followed; where none did, memory is dismissed."""
JOINT = 3
"""Claims that are tried one by one after all of them together."""
WARMTH = 0.05
"""Relative gain that a configuration may lack to the best that claims expect, to be taken one time in e; it grows."""
COOLING = 5.0
"""Configurations after which the leaning is half as strong, and a third after twice as many."""


def heeded(space: Space, history: Sequence[Observation], brief: Brief) -> Brief:
    """The brief as it is, or without what memory advises once that has disappointed and never led."""
    if not history or not (brief.starts or brief.beliefs):
        return brief
    disappointments, led = _outcome(space, history, brief)
    dismissed = disappointments >= DISAPPOINTMENTS and not led
    return replace(brief, starts=(), beliefs=()) if dismissed else brief


def advised(space: Space, history: Sequence[Observation], brief: Brief) -> Proposal | None:
    """The next configuration that memory advises and nobody trained; None once it has disappointed."""
    if brief.trials_left == 0 or _outcome(space, history, brief)[0] >= DISAPPOINTMENTS:
        return None
    seen = tried(space, history)
    for config, why, cites in _advice(space, brief):
        if space.hash(config) not in seen:
            changes = changes_between(space, history[0].config, config)
            return Proposal(changes, parent=first_trial(history), hypothesis=why, cites=cites)
    return None


def _advice(space: Space, brief: Brief) -> Iterator[tuple[Config, str, tuple[str, ...]]]:
    """Everything that memory advises, in its order."""
    default = space.default()
    for start in brief.starts:
        where = "1 dataset" if len(start.datasets) == 1 else f"{len(start.datasets)} datasets"
        yield from _valid(space, {**default, **start.changes}, f"won on {where} like this one", ())
    hopeful = best_by_field(brief.beliefs)
    if len(hopeful) > 1:
        joint = {**default, **{name: one.value for name, one in hopeful.items()}}
        cites = tuple(cite for one in hopeful.values() for cite in one.cites)
        yield from _valid(space, joint, "all that claims speak for, together", cites)
    for one in list(hopeful.values())[:JOINT]:
        why = f"{one.field} {one.value}: claims expect {one.gain:+.1%} here"
        yield from _valid(space, {**default, one.field: one.value}, why, one.cites)


def _valid(
    space: Space, config: Mapping[str, Value], why: str, cites: tuple[str, ...]
) -> Iterator[tuple[Config, str, tuple[str, ...]]]:
    settled = settle(space, dict(config))
    if valid(space, settled):
        yield settled, f"memory: {why}", cites


def best_by_field(beliefs: Sequence[Belief]) -> dict[str, Belief]:
    """Of each field the value with the largest expected gain, where that is one; the largest first."""
    found: dict[str, Belief] = {}
    for one in sorted(beliefs, key=lambda one: -one.gain):
        if one.gain > 0:
            found.setdefault(one.field, one)
    return found


def _outcome(space: Space, history: Sequence[Observation], brief: Brief) -> tuple[int, bool]:
    """How many advised configurations were trained and did not lead then, and whether any did."""
    wanted = {space.hash(config) for config, _, _ in _advice(space, brief)}
    best, disappointments, led = 0.0, 0, False
    for one in standings(history):
        if space.hash(one.config) in wanted and one.number != history[0].number:
            leads = one.mean is not None and one.mean >= best
            disappointments += not leads
            led |= leads
        best = max(best, one.mean or 0.0)
    return disappointments, led


def expected(space: Space, beliefs: Sequence[Belief], config: Mapping[str, Value]) -> float:
    """The gain over the default that claims expect of a configuration: the sum over its fields."""
    active = {one.name for one in space.free() if space.active(one, config)}
    return sum(one.gain for one in beliefs if one.field in active and config[one.field] == one.value)


def accepts(space: Space, brief: Brief, config: Config, configurations: int, rng: Random) -> bool:
    """Whether a sampler's proposal is taken: by chance, the rarer the less claims expect of it, and less so in time."""
    if not brief.beliefs:
        return True
    most = sum(one.gain for one in best_by_field(brief.beliefs).values())
    lacking = most - expected(space, brief.beliefs, config)
    return rng.random() < exp(-max(0.0, lacking) / (WARMTH * (1 + configurations / COOLING)))
