"""Space: what everyone but the trainer reads of the knobs: fields, bounds, scale, neutral, group, condition."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict

Value = bool | int | float | str
Config = dict[str, Value]
Group = Literal["architecture", "training", "regularization", "scoring"]
Kind = Literal["int", "float", "bool", "choice"]


class SpaceError(ValueError):
    """A value or field that the space does not admit; the message says what is allowed and what to do."""


class Condition(BaseModel):
    """Another field has one of `values`, or, where none are named, a number above `above`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str
    values: tuple[Value, ...] = ()
    above: float = 0.0

    def holds(self, config: Mapping[str, Value]) -> bool:
        """Whether it is so in `config`."""
        value = config[self.field]
        if self.values:
            return value in self.values
        return not isinstance(value, (bool, str)) and value > self.above

    def words(self) -> str:
        """Such as `loss="bce" or "gbce"`, or `item_cf_alpha above 0`."""
        if self.values:
            return f"{self.field}=" + " or ".join(json.dumps(value) for value in self.values)
        return f"{self.field} above {self.above:g}"


def _conditions(given: Any) -> Any:
    """Conditions as studies kept them before there could be several: a field and its values."""
    if given is None:
        return ()
    parts = cast(Sequence[Any], given)
    if isinstance(given, (list, tuple)) and len(parts) == 2 and isinstance(parts[0], str):
        return ({"field": parts[0], "values": parts[1]},)
    return parts


Conditions = Annotated[tuple[Condition, ...], BeforeValidator(_conditions)]
"""One of them makes a field active; a field without conditions always is."""


@dataclass(frozen=True)
class Knob:
    """Bounds and meaning of one field, written once, as `Annotated` metadata on a spec class.

    `zero` admits 0 (off) beside the range low..high. One condition of `when` makes the field active, where it has any.
    `neutral` is the behaviour before the field existed: a field at its neutral value is left out of hashes.
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
        """The admitted values in words, for messages and briefs."""
        if self.fixed:
            return f"fixed at {self.default!r}"
        if self.kind == "bool" and not self.choices:
            return "true or false"
        if self.choices:
            return "one of " + ", ".join(json.dumps(choice) for choice in self.choices)
        low, high = (f"{bound:g}" for bound in (self.low or 0, self.high or 0))
        return ("0 or " if self.zero else "") + f"{low} to {high}" + (" (log scale)" if self.scale == "log" else "")

    def check(self, value: Any) -> Value:
        """The value in this field's own type; raises SpaceError naming the value and what is allowed."""
        typed = _typed(self, value)
        if typed is None or not self._admits(typed):
            raise SpaceError(f"{self.name}={value!r} is not allowed: {self.name} is {self.allowed()}.")
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
        """The value at `fraction` (0..1) of this field's range, on its scale: how policies walk any field alike."""
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


def _typed(field: Field, value: Any) -> Value | None:
    """`value` as the field's type, or None where that would change its meaning."""
    if field.kind == "bool":
        return value if isinstance(value, bool) else None
    if field.kind == "choice":
        return value if isinstance(value, (str, bool, int, float)) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    if field.kind == "int":
        return int(value) if float(value).is_integer() else None
    return float(value)


class Space(BaseModel):
    """The fields of one backbone, or of one study of it, that searches, briefs and validation read."""

    model_config = ConfigDict(frozen=True)

    backbone: str
    fields: tuple[Field, ...]
    divisible: tuple[tuple[str, str], ...] = ()
    """Pairs (a, b): the value of a must be a multiple of the value of b."""

    def field(self, name: str) -> Field:
        """The field called `name`; raises SpaceError with the nearest name."""
        for field in self.fields:
            if field.name == name:
                return field
        names = [field.name for field in self.fields]
        near = difflib.get_close_matches(name, names, 1, 0.5)
        hint = f" Did you mean {near[0]!r}?" if near else f" Fields: {', '.join(names)}."
        raise SpaceError(f"{self.backbone} has no field {name!r}.{hint}")

    def default(self) -> Config:
        """The configuration of trial 0."""
        return {field.name: field.default for field in self.fields}

    def free(self) -> tuple[Field, ...]:
        """The fields a study may change."""
        return tuple(field for field in self.fields if not field.fixed)

    def active(self, field: Field, config: Mapping[str, Value]) -> bool:
        """Whether `field` has any effect in `config`."""
        return not field.when or any(
            condition.holds(config) and self.active(self.field(condition.field), config) for condition in field.when
        )

    def check(self, config: Mapping[str, Any]) -> Config:
        """A whole configuration, typed and in bounds; missing fields take their default."""
        for name in config:
            self.field(name)
        typed = {field.name: field.check(config.get(field.name, field.default)) for field in self.fields}
        for whole, part in self.divisible:
            if int(typed[whole]) % int(typed[part]):
                raise SpaceError(
                    f"{whole}={typed[whole]!r} is not a multiple of {part}={typed[part]!r}: change one of them."
                )
        return typed

    def apply(self, parent: Mapping[str, Value], changes: Mapping[str, Any]) -> Config:
        """`parent` with `changes`; refuses a change to a field that has no effect in the result, with the reason."""
        for name, value in changes.items():
            self.field(name).check(value)
        config = self.check({**parent, **changes})
        for name in changes:
            field = self.field(name)
            if not self.active(field, config):
                wanted = ", or ".join(condition.words() for condition in field.when)
                switches = list(dict.fromkeys(condition.field for condition in field.when))
                there = " and ".join(f"{switch} is {json.dumps(config[switch])}" for switch in switches)
                raise SpaceError(
                    f"{name} has no effect here: it needs {wanted}, and {there}. "
                    f"Change {' or '.join(switches)} too, or leave {name} out."
                )
        return config

    def restrict(self, wanted: Mapping[str, Any]) -> Space:
        """This space with fields fixed (a value), limited to choices (a list) or narrowed ({low, high}).

        A default that falls outside moves to the nearest admitted value, so trial 0 stays inside the study's space.
        """
        narrowed = {name: _narrow(self.field(name), limit) for name, limit in wanted.items()}
        space = self.model_copy(update={"fields": tuple(narrowed.get(f.name, f) for f in self.fields)})
        space.check(space.default())
        return space

    def canonical(self, config: Mapping[str, Value]) -> Config:
        """`config` without inactive fields and fields at their neutral value: what identity is judged on."""
        return {
            field.name: config[field.name]
            for field in self.fields
            if self.active(field, config) and (field.neutral is None or config[field.name] != field.neutral)
        }

    def hash(self, config: Mapping[str, Value], leave_out: str | None = None) -> str:
        """A short stable hash of what `config` does; `leave_out` gives the rest_hash of a matched pair.

        What only has an effect by the field that is left out is left out with it: two losses compare although one of
        them has negatives to count.
        """
        without = frozenset[str]() if leave_out is None else self._governed[leave_out]
        return self._digest(self.canonical(config), without)

    def rests(self, config: Mapping[str, Value]) -> dict[str, str]:
        """`hash` with each field left out that has an effect in `config`, by field."""
        canonical = self.canonical(config)
        active = [field.name for field in self.fields if self.active(field, config)]
        return {name: self._digest(canonical, self._governed[name]) for name in active}

    def _digest(self, canonical: Mapping[str, Value], without: frozenset[str]) -> str:
        kept = {name: value for name, value in canonical.items() if name not in without}
        text = json.dumps([self.backbone, kept], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @cached_property
    def _governed(self) -> dict[str, frozenset[str]]:
        """By field: itself and all that have an effect only by its leave."""
        found: dict[str, frozenset[str]] = {}
        for field in self.fields:
            names = {field.name}
            while more := {
                other.name
                for other in self.fields
                if other.name not in names and other.when and all(one.field in names for one in other.when)
            }:
                names |= more
            found[field.name] = frozenset(names)
        return found


def _narrow(field: Field, limit: Any) -> Field:
    if isinstance(limit, Mapping):
        bounds = cast(Mapping[str, Any], limit)
        if not bounds or set(bounds) - {"low", "high"} or field.low is None or field.choices:
            raise SpaceError(
                f"space for {field.name} must be a value, a list of choices"
                + ("" if field.low is None else ', or {"low": …, "high": …}')
                + f"; got {dict(bounds)!r}."
            )
        low, high = (float(field.check(bounds.get(k, v))) for k, v in (("low", field.low), ("high", field.high)))
        if low > high:
            raise SpaceError(f"space for {field.name} has low={low:g} above high={high:g}.")
        zero = field.zero and bounds.get("low", 0) == 0
        if zero:
            low = field.low  # 0 is the switch-off value beside the range, never its end
        default = float(field.default)
        if not (low <= default <= high or (zero and default == 0)):
            default = min(max(default, low), high)
        update = {"low": low, "high": high, "default": _typed(field, default), "zero": zero}
        return field.model_copy(update=update)
    if isinstance(limit, (list, tuple)):
        items = list(cast(Sequence[Any], limit))
        if not items:
            raise SpaceError(f"space for {field.name} is an empty list; give at least one value.")
        choices = tuple(field.check(item) for item in items)
        default = field.default if field.default in choices else choices[0]
        return field.model_copy(update={"choices": choices, "default": default, "fixed": len(choices) == 1})
    return field.model_copy(update={"default": field.check(limit), "fixed": True})
