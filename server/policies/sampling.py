"""Valid configurations of any space: drawn at random, walked through, and measured on each field's own scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from math import log
from random import Random

from trainers.contract.space import Config, Field, Space, SpaceError, Value

ZERO_CHANCE = 0.2
"""Probability that a field that may be switched off is drawn as 0."""
DRAWS = 200
"""After this many draws that were all tried before, the untried configurations are searched one by one."""
GRID = 256
"""Largest number of values of one field in that search."""
LOOKED_THROUGH = 20_000
"""Largest number of configurations in that search."""


def draw(space: Space, rng: Random) -> Config:
    """One configuration, each free and active field uniform on its scale; the others stay at their default."""
    return settle(space, assemble(space, lambda field: _draw_value(field, rng)))


def assemble(space: Space, choose: Callable[[Field], Value]) -> Config:
    """The default with every free, active field replaced by `choose(field)`, switches before what they govern."""
    config = space.default()
    waiting = list(space.free())
    while ready := [field for field in waiting if not _waits(field, waiting)]:
        for field in ready:
            if space.active(field, config):
                config[field.name] = choose(field)
        waiting = [field for field in waiting if field not in ready]
    return config


def _waits(field: Field, waiting: Sequence[Field]) -> bool:
    switches = {condition.field for condition in field.when}
    return any(other.name in switches for other in waiting)


def _draw_value(field: Field, rng: Random) -> Value:
    if field.zero and not field.choices and rng.random() < ZERO_CHANCE:
        return field.check(0)
    return field.at(rng.random())


def settle(space: Space, config: Config) -> Config:
    """`config` with each divisible pair made to fit: the whole moves to a near multiple, or else the part shrinks."""
    for whole, part in space.divisible:
        if int(config[whole]) % int(config[part]):
            fitting = _near_multiple(space, config, whole, part) or _smaller_part(space, config, whole, part)
            config = {**config, **fitting}
    return config


def _near_multiple(space: Space, config: Config, whole: str, part: str) -> Config:
    step, value = int(config[part]), int(config[whole])
    for distance in range(1, max(value, step) + 1):
        for candidate in (value - distance, value + distance):
            if candidate > 0 and candidate % step == 0 and admits(space.field(whole), candidate):
                return {whole: candidate}
    return {}


def _smaller_part(space: Space, config: Config, whole: str, part: str) -> Config:
    for candidate in range(int(config[part]), 0, -1):
        if int(config[whole]) % candidate == 0 and admits(space.field(part), candidate):
            return {part: candidate}
    return {}


def admits(field: Field, value: Value) -> bool:
    """Whether the field allows the value."""
    try:
        field.check(value)
    except SpaceError:
        return False
    return True


def valid(space: Space, config: Mapping[str, Value]) -> bool:
    """Whether the space admits the whole configuration."""
    try:
        space.check(config)
    except SpaceError:
        return False
    return True


def untried(space: Space, seen: set[str], rng: Random, proposals: Callable[[], Config]) -> Config | None:
    """The first valid configuration from `proposals` that is new, else any other untried one, else None."""
    for _ in range(DRAWS if space.free() else 0):
        config = proposals()
        if space.hash(config) not in seen and valid(space, config):
            return config
    left = [config for config in islice(every(space), LOOKED_THROUGH) if space.hash(config) not in seen]
    return rng.choice(left) if left else None


def every(space: Space) -> Iterator[Config]:
    """The valid configurations on a grid: all values of a small field, evenly spaced ones of a large one."""
    free = space.free()
    for values in product(*(values_of(field) for field in free)):
        chosen = dict(zip([field.name for field in free], values, strict=True))
        config = assemble(space, lambda field, chosen=chosen: chosen[field.name])
        if valid(space, config):
            yield config


def values_of(field: Field) -> list[Value]:
    """A field's values in ascending order (choices in their own order), at most GRID plus the off switch."""
    off: list[Value] = [field.check(0)] if field.zero and not field.choices else []
    return list(dict.fromkeys([*off, *(field.at(step / (GRID - 1)) for step in range(GRID))]))


def position(field: Field, value: Value) -> float:
    """Where `value` stands in the field's range, 0..1 on its scale: the inverse of `Field.at`."""
    if isinstance(value, (bool, str)) or field.low is None or field.high is None or field.high <= field.low:
        return 0.5
    number = min(max(float(value), field.low), field.high)
    if field.scale == "log":
        return (log(number) - log(field.low)) / (log(field.high) - log(field.low))
    return (number - field.low) / (field.high - field.low)


def changes_between(space: Space, parent: Mapping[str, Value], config: Mapping[str, Value]) -> Config:
    """What turns `parent` into `config`, inactive fields left out."""
    return {
        field.name: config[field.name]
        for field in space.fields
        if config[field.name] != parent[field.name] and space.active(field, config)
    }
