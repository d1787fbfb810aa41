"""Chooses few configurations that try every pair of choices and conditional fields of a space. No torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations, product
from math import prod
from typing import NamedTuple

from trainers.contract.space import Condition, Config, Field, Space, SpaceError, Value

_MOST_CANDIDATES = 2000
"""Configurations among which the few are chosen; a space with more is sampled."""

_Branch = tuple[str, Value | None]
"""A field with one of its values; None stands for a field that has no effect."""


class Branches(NamedTuple):
    """The chosen configurations without the default, and how many of the pairs they cover, the default among them."""

    configs: list[Config]
    covered: int
    pairs: int


def branches(space: Space, most: int) -> Branches:
    """At most `most` configurations that cover, with the default, as many pairs as possible.

    Tried are all choices, true and false, the values that conditions ask for and one that fails them; other numbers
    stay at their default. Raises SpaceError where a field has no effect in any configuration.
    """
    levels = {field.name: _levels(space, field) for field in space.fields}
    bits: dict[tuple[_Branch, ...], int] = {}
    configs = list(_candidates(space, levels))
    for field in space.fields:
        if not any(space.active(field, config) for config in configs):
            configs.append(_found_active(space, levels, field))
    pool = [(config, _pairs(space, levels, config, bits)) for config in configs]
    left = (1 << len(bits)) - 1 & ~pool[0][1]
    chosen: list[Config] = []
    while left and len(chosen) < most:
        config, pairs = max(pool, key=lambda candidate: (candidate[1] & left).bit_count())
        chosen.append(config)
        left &= ~pairs
    return Branches(chosen, len(bits) - left.bit_count(), len(bits))


def _levels(space: Space, field: Field) -> tuple[Value, ...]:
    """The values of a field to try, the default first."""
    values: list[Value] = [field.default, *field.choices]
    if field.kind == "bool" and not field.choices:
        values += [False, True]
    for condition in (condition for other in space.fields for condition in other.when):
        if condition.field == field.name:
            values += _both_sides(condition, field)
    return tuple({repr(value): value for value in values}.values())


def _both_sides(condition: Condition, field: Field) -> list[Value]:
    """Values with which the condition holds, and for a number one with which it fails, where the field has them."""
    if field.choices or field.kind not in ("int", "float"):
        return []
    ends = [
        field.check(number) for number in (field.low, field.high, 0.0 if field.zero else None) if number is not None
    ]
    fails = [number for number in ends if not condition.holds({field.name: number})][:1]
    if condition.values:
        return [field.check(value) for value in condition.values] + fails
    return [number for number in ends if condition.holds({field.name: number})][:1] + fails


def _candidates(space: Space, levels: dict[str, tuple[Value, ...]]) -> Iterator[Config]:
    """Valid configurations, the default first: all of them, or a sample in which each field has an effect if it can."""
    yield space.default()
    if prod(map(len, levels.values())) <= _MOST_CANDIDATES:
        drawn = (dict(zip(levels, values, strict=True)) for values in product(*levels.values()))
    else:
        drawn = _sample(space, levels)
    for config in drawn:
        try:
            yield space.check(config)
        except SpaceError:  # `divisible` forbids it
            continue


def _sample(space: Space, levels: dict[str, tuple[Value, ...]]) -> Iterator[Config]:
    draw = random.Random(0)
    paired = [space.field(name) for pair in space.divisible for name in pair]
    for index in range(_MOST_CANDIDATES):
        config = {name: draw.choice(values) for name, values in levels.items()}
        config |= {field.name: field.default for field in paired if draw.random() < 0.5}
        _activate(space, levels, config, space.fields[index % len(space.fields)], draw)
        yield config


def _found_active(space: Space, levels: dict[str, tuple[Value, ...]], field: Field) -> Config:
    """A configuration in which `field` has an effect, with any numbers. Raises SpaceError."""
    draw = random.Random(0)
    for _ in range(_MOST_CANDIDATES):
        drawn = {
            name: (*values, *(space.field(name).at(draw.random()) for _ in range(2))) for name, values in levels.items()
        }
        config = {name: draw.choice(values) for name, values in drawn.items()}
        _activate(space, drawn, config, field, draw)
        with suppress(SpaceError):
            return space.check(config)
    raise SpaceError(
        f"no configuration was found in which {field.name} has an effect; its conditions and `divisible` exclude each "
        "other."
    )


def _activate(
    space: Space, levels: dict[str, tuple[Value, ...]], config: Config, field: Field, draw: random.Random
) -> None:
    """Changes `config` so that one of the conditions of `field` holds, and the field of that one has an effect."""
    while field.when:
        condition = draw.choice(field.when)
        field = space.field(condition.field)
        config[field.name] = draw.choice([v for v in levels[field.name] if condition.holds({field.name: v})])


def _pairs(
    space: Space, levels: dict[str, tuple[Value, ...]], config: Config, bits: dict[tuple[_Branch, ...], int]
) -> int:
    """The branches that a configuration takes, and their pairs, as a number with the bit of each in `bits` set."""
    taken: list[_Branch] = [
        (field.name, config[field.name] if space.active(field, config) else None)
        for field in space.fields
        if len(levels[field.name]) > 1 or field.when
    ]
    pairs = 0
    for pair in [*combinations(taken, 2), *((branch,) for branch in taken)]:
        pairs |= 1 << bits.setdefault(pair, len(bits))
    return pairs
