"""Checks what fields of a declared space say of each other: conditions and multiples. No torch."""

from __future__ import annotations

from trainers.contract.space import Condition, Field, Space, SpaceError


def check_conditions(space: Space) -> None:
    """Raises SpaceError where a condition names no field, cannot hold, or waits on itself."""
    for field in space.fields:
        for condition in field.when:
            if why := _impossible(condition, space.field(condition.field)):
                raise SpaceError(
                    f"{field.name} can never have an effect by its condition {condition.words()}: {why}. Change `when` "
                    f"of {field.name}, or {condition.field}."
                )
    for field in space.fields:
        if circle := _circle(space, (field.name,)):
            raise SpaceError(f"the conditions of its fields wait on each other: {' -> '.join(circle)}.")


def check_divisible(space: Space) -> None:
    """Raises SpaceError where a pair of `divisible` is not of two fields of whole numbers, the second above 0."""
    for pair in space.divisible:
        for field in map(space.field, pair):
            if not (all(type(choice) is int for choice in field.choices) if field.choices else field.kind == "int"):
                raise SpaceError(f"divisible: {field.name} is {field.allowed()}; both fields must be whole numbers.")
        part = space.field(pair[1])
        if part.zero or min(map(float, part.choices or (part.low or 0,))) <= 0:
            raise SpaceError(f"divisible: {part.name} is {part.allowed()}; a divisor must be above 0.")


def _impossible(condition: Condition, switch: Field) -> str | None:
    """Why the condition on `switch` cannot hold for each value that it names; None if it can."""
    if condition.values:
        for value in condition.values:
            try:
                switch.check(value)
            except SpaceError as error:
                return str(error).rstrip(".")
        return None
    numbers = [value for value in switch.choices if not isinstance(value, (bool, str))]
    if not switch.choices and switch.kind in ("int", "float"):
        numbers = [float(switch.high or 0)]
    if not numbers:
        return f"{switch.name} is {switch.allowed()}, so give `values` instead of `above`"
    if max(numbers) <= condition.above:
        return f"{switch.name} is {switch.allowed()}"
    return None


def _circle(space: Space, path: tuple[str, ...]) -> tuple[str, ...] | None:
    """Names of fields, from the first of `path` on, each active only by the next, back to one that was there."""
    for condition in space.field(path[-1]).when:
        if condition.field in path:
            return (*path[path.index(condition.field) :], condition.field)
        if circle := _circle(space, (*path, condition.field)):
            return circle
    return None
