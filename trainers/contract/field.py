"""One tunable field: its bounds, scale and choices, when it has an effect, and how a study narrows it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict

Value = bool | int | float | str
Config = dict[str, Value]
Group = Literal["architecture", "training", "regularization", "scoring"]
Kind = Literal["int", "float", "bool", "choice"]


class SpaceError(ValueError):
    """A value or field that the space does not allow; the message says what is allowed and what to do."""


class Condition(BaseModel):
    """Another field must have one of `values` or, if `values` is empty, a number greater than `above`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str
    values: tuple[Value, ...] = ()
    above: float = 0.0

    def holds(self, config: Mapping[str, Value]) -> bool:
        """Whether `config` meets the condition."""
        value = config[self.field]
        if self.values:
            return value in self.values
        return not isinstance(value, (bool, str)) and value > self.above

    def words(self) -> str:
        """The condition as text, such as `loss="bce" or "gbce"`, or `item_cf_alpha above 0`."""
        if self.values:
            return f"{self.field}=" + " or ".join(json.dumps(value) for value in self.values)
        return f"{self.field} above {self.above:g}"


def _upgrade_conditions(stored: Any) -> Any:
    """Accepts the older stored form with a single condition: a pair of a field and its values."""
    if stored is None:
        return ()
    parts = cast(Sequence[Any], stored)
    if isinstance(stored, (list, tuple)) and len(parts) == 2 and isinstance(parts[0], str):
        return ({"field": parts[0], "values": parts[1]},)
    return parts


Conditions = Annotated[tuple[Condition, ...], BeforeValidator(_upgrade_conditions)]
"""Conditions of a field: any one of them makes the field active, and without conditions it is always active."""


@dataclass(frozen=True)
class Knob:
    """Bounds and meaning of one field, written once, as `Annotated` metadata on a spec class.

    `zero` also allows 0 (off), outside the range low..high. If `when` has conditions, any one makes the field active.
    `neutral` is the value that keeps the behaviour from before the field existed; hashes leave out a field with it.
    """

    group: Group
    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "log"] = "linear"
    zero: bool = False
    when: tuple[Condition, ...] = ()
    neutral: Value | None = None
    about: str = ""


class Field(BaseModel):
    """One tunable field of a space."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    default: Value
    group: Group
    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "log"] = "linear"
    zero: bool = False
    choices: tuple[Value, ...] = ()
    when: Conditions = ()
    neutral: Value | None = None
    fixed: bool = False
    about: str = ""

    def allowed(self) -> str:
        """The allowed values in words, for messages and briefs."""
        if self.fixed:
            return f"fixed at {self.default!r}"
        if self.kind == "bool" and not self.choices:
            return "true or false"
        if self.choices:
            return "one of " + ", ".join(json.dumps(choice) for choice in self.choices)
        low, high = (f"{bound:g}" for bound in (self.low or 0, self.high or 0))
        return ("0 or " if self.zero else "") + f"{low} to {high}" + (" (log scale)" if self.scale == "log" else "")

    def check(self, value: Any) -> Value:
        """`value` in this field's type. Raises SpaceError with the value and what is allowed."""
        typed = _typed(self, value)
        if typed is None or not self._admits(typed):
            wanted = "a number is wanted; " if isinstance(value, str) and self.kind in ("int", "float") else ""
            raise SpaceError(f"{self.name}={value!r} is not allowed: {wanted}{self.name} is {self.allowed()}.")
        return typed

    def _admits(self, value: Value) -> bool:
        if self.fixed:
            return value == self.default
        if self.choices:
            return value in self.choices
        if isinstance(value, (bool, str)):
            return self.kind == "bool"
        if self.zero and value == 0:
            return True
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def at(self, fraction: float) -> Value:
        """The value at `fraction` (0..1) of this field's range, on its scale; lets policies treat all fields alike."""
        if self.fixed:
            return self.default
        options = self.choices or ((False, True) if self.kind == "bool" else ())
        if options:
            return options[min(int(fraction * len(options)), len(options) - 1)]
        low, high = float(self.low or 0), float(self.high or 0)
        if self.scale == "log":
            number = exp(log(low) + fraction * (log(high) - log(low)))
        else:
            number = low + fraction * (high - low)
        number = min(max(number, low), high)
        return round(number) if self.kind == "int" else float(f"{number:.4g}")

    def narrowed(self, limit: Any) -> Field:
        """A copy fixed to a value, limited to a list of choices, or narrowed to {low, high}. Raises SpaceError."""
        if isinstance(limit, Mapping):
            bounds = cast(Mapping[str, Any], limit)
            if not bounds or set(bounds) - {"low", "high"} or self.low is None or self.choices:
                raise SpaceError(
                    f"space for {self.name} must be a value, a list of choices"
                    + ("" if self.low is None else ', or {"low": …, "high": …}')
                    + f"; got {dict(bounds)!r}."
                )
            low, high = (float(self.check(bounds.get(k, v))) for k, v in (("low", self.low), ("high", self.high)))
            if low > high:
                raise SpaceError(f"space for {self.name} has low={low:g} above high={high:g}.")
            zero = self.zero and bounds.get("low", 0) == 0
            if zero:
                low = self.low  # 0 switches the field off; it is never an end of the range
            default = float(self.default)
            if not (low <= default <= high or (zero and default == 0)):
                default = min(max(default, low), high)
            update = {"low": low, "high": high, "default": _typed(self, default), "zero": zero}
            return self.model_copy(update=update)
        if isinstance(limit, (list, tuple)):
            items = list(cast(Sequence[Any], limit))
            if not items:
                raise SpaceError(f"space for {self.name} is an empty list; give at least one value.")
            choices = tuple(self.check(item) for item in items)
            default = self.default if self.default in choices else choices[0]
            return self.model_copy(update={"choices": choices, "default": default, "fixed": len(choices) == 1})
        return self.model_copy(update={"default": self.check(limit), "fixed": True})


def _typed(field: Field, value: Any) -> Value | None:
    """`value` in the field's type, or None if conversion would change its meaning."""
    if field.kind == "bool":
        return value if isinstance(value, bool) else None
    if field.kind == "choice":
        return value if isinstance(value, (str, bool, int, float)) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    if field.kind == "int":
        return int(value) if float(value).is_integer() else None
    return float(value)
