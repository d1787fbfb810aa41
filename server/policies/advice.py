"""How policies follow memory: configurations to train first, and a preference for values that claims support."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import exp
from random import Random

from memory.advice.starts import Belief
from server.policies.base import Observation, PolicyContext, Proposal, configurations, first_trial, tried
from server.policies.sampling import changes_between, settle, valid
from trainers.contract.space import Config, Space, Value

DISAPPOINTMENTS = 2
"""Advised configurations that fail to lead before no more are followed; if none has led, memory is ignored."""
JOINT = 3
"""How many claims are tried singly after all of them together."""
WARMTH = 0.05
"""Shortfall against the best gain that claims expect at which one configuration in e is accepted; it grows."""
COOLING = 5.0
"""Configurations after which the preference is half as strong; after twice as many it is a third as strong."""


def drop_failed_advice(space: Space, history: Sequence[Observation], context: PolicyContext) -> PolicyContext:
    """The context unchanged, or without memory's advice once that advice has disappointed and never led."""
    if not history or not (context.starts or context.beliefs):
        return context
    disappointments, led = _outcome(space, history, context)
    dismissed = disappointments >= DISAPPOINTMENTS and not led
    return replace(context, starts=(), beliefs=()) if dismissed else context


def advised(space: Space, history: Sequence[Observation], context: PolicyContext) -> Proposal | None:
    """The next configuration that memory advises and that was not trained; None once memory has disappointed."""
    if context.trials_left == 0 or _outcome(space, history, context)[0] >= DISAPPOINTMENTS:
        return None
    seen = tried(space, history)
    for config, why, cites in _advice(space, context):
        if space.hash(config) not in seen:
            changes = changes_between(space, history[0].config, config)
            return Proposal(changes, parent=first_trial(history), hypothesis=why, cites=cites)
    return None


def _advice(space: Space, context: PolicyContext) -> Iterator[tuple[Config, str, tuple[str, ...]]]:
    """Everything that memory advises, in order, as (configuration, reason, cited notes)."""
    default = space.default()
    for start in context.starts:
        where = "1 dataset" if len(start.datasets) == 1 else f"{len(start.datasets)} datasets"
        yield from _valid(space, {**default, **start.changes}, f"won on {where} like this one", ())
    hopeful = best_by_field(context.beliefs)
    if len(hopeful) > 1:
        joint = {**default, **{name: belief.value for name, belief in hopeful.items()}}
        cites = tuple(cite for belief in hopeful.values() for cite in belief.cites)
        yield from _valid(space, joint, "all that claims speak for, together", cites)
    for belief in list(hopeful.values())[:JOINT]:
        why = f"{belief.field} {belief.value}: claims expect {belief.gain:+.1%} here"
        yield from _valid(space, {**default, belief.field: belief.value}, why, belief.cites)


def _valid(
    space: Space, config: Mapping[str, Value], why: str, cites: tuple[str, ...]
) -> Iterator[tuple[Config, str, tuple[str, ...]]]:
    settled = settle(space, dict(config))
    if valid(space, settled):
        yield settled, f"memory: {why}", cites


def best_by_field(beliefs: Sequence[Belief]) -> dict[str, Belief]:
    """For each field the value with the largest expected gain, if that is positive; the largest gain first."""
    best: dict[str, Belief] = {}
    for belief in sorted(beliefs, key=lambda belief: -belief.gain):
        if belief.gain > 0:
            best.setdefault(belief.field, belief)
    return best


def _outcome(space: Space, history: Sequence[Observation], context: PolicyContext) -> tuple[int, bool]:
    """How many advised configurations did not lead when they were trained, and whether any did."""
    advised_hashes = {space.hash(config) for config, _, _ in _advice(space, context)}
    best, disappointments, led = 0.0, 0, False
    for configuration in configurations(history):
        if space.hash(configuration.config) in advised_hashes and configuration.number != history[0].number:
            leads = configuration.mean is not None and configuration.mean >= best
            disappointments += not leads
            led |= leads
        best = max(best, configuration.mean or 0.0)
    return disappointments, led


def expected(space: Space, beliefs: Sequence[Belief], config: Mapping[str, Value]) -> float:
    """The relative gain over the default that claims expect of a configuration: the sum over its fields."""
    active = {field.name for field in space.free() if space.active(field, config)}
    return sum(belief.gain for belief in beliefs if belief.field in active and config[belief.field] == belief.value)


def accepts(space: Space, context: PolicyContext, config: Config, configurations: int, rng: Random) -> bool:
    """Whether to accept a sampler's proposal: at random, less often where claims expect less; this fades with time."""
    if not context.beliefs:
        return True
    largest_gain = sum(belief.gain for belief in best_by_field(context.beliefs).values())
    shortfall = largest_gain - expected(space, context.beliefs, config)
    return rng.random() < exp(-max(0.0, shortfall) / (WARMTH * (1 + configurations / COOLING)))
