"""Recorded configurations near a wanted one: where the default of a study in a replay home comes from."""

from __future__ import annotations

from collections.abc import Mapping
from math import log

from server.replay.recorded import Table
from trainers.contract.space import Config, Field, Space, SpaceError, Value


def with_nearest_default(table: Table, space: Space, wanted: Mapping[str, Value]) -> Space:
    """`space`, a part of the table's grid, with the recorded configuration nearest to `wanted` as its default.

    Raises SpaceError where no recorded configuration lies in it.
    """
    default = nearest(table, space, wanted)
    if default is None:
        raise SpaceError("No recorded configuration lies in this space: give `space` more choices, or leave it out.")
    fields = tuple(field.model_copy(update={"default": default[field.name]}) for field in space.fields)
    return space.model_copy(update={"fields": fields})


def nearest(table: Table, space: Space, wanted: Mapping[str, Value]) -> Config | None:
    """The recorded configuration in `space` that is nearest to `wanted`; None where there is none.

    Each free field counts alike: a number by its distance in the range that was recorded, on the field's scale,
    anything else by being another. Of two that are equally near, the one whose values come first in the grid is taken.
    """
    candidates: list[Config] = []
    for config in table.configs.values():
        active = {field.name: config[field.name] for field in space.fields if space.active(field, config)}
        try:
            candidates.append(space.check(active))
        except SpaceError:
            continue
    return min(
        candidates, key=lambda config: (_distance(table.space, config, wanted), _place(space, config)), default=None
    )


def _distance(grid: Space, config: Mapping[str, Value], wanted: Mapping[str, Value]) -> float:
    return sum(
        _difference(field, config[field.name], wanted[field.name])
        for field in grid.free()
        if grid.active(field, config) or grid.active(field, wanted)
    )


def _difference(field: Field, one: Value, other: Value) -> float:
    numbers = [_number(field, value) for value in (one, other, *field.choices)]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return float(one != other)
    low, high = min(known[2:]), max(known[2:])
    return abs(known[0] - known[1]) / (high - low) if high > low else float(one != other)


def _number(field: Field, value: Value) -> float | None:
    """A number on the field's scale; None for what is not a number, or has no place on a logarithmic scale."""
    if isinstance(value, (bool, str)):
        return None
    if field.scale == "log":
        return log(value) if value > 0 else None
    return float(value)


def _place(space: Space, config: Mapping[str, Value]) -> tuple[int, ...]:
    return tuple(field.choices.index(config[field.name]) for field in space.fields if field.choices)
