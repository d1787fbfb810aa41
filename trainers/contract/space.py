"""Space: all fields of a backbone, and the rules for valid, active and equal configurations."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from trainers.contract.field import Condition, Config, Field, Group, Kind, Knob, SpaceError, Value

__all__ = ["Condition", "Config", "Field", "Group", "Kind", "Knob", "Space", "SpaceError", "Value"]


class Space(BaseModel):
    """The fields of one backbone, perhaps narrowed by a study; policies, briefs and validation read them."""

    model_config = ConfigDict(frozen=True)

    backbone: str
    fields: tuple[Field, ...]
    divisible: tuple[tuple[str, str], ...] = ()
    """Pairs (a, b) of field names: the value of a must be a multiple of the value of b."""

    def field(self, name: str) -> Field:
        """The field called `name`. Raises SpaceError with the nearest name."""
        for field in self.fields:
            if field.name == name:
                return field
        names = [field.name for field in self.fields]
        near = difflib.get_close_matches(name, names, 1, 0.5)
        hint = f" Did you mean {near[0]!r}?" if near else f" Fields: {', '.join(names)}."
        raise SpaceError(f"{self.backbone} has no field {name!r}.{hint}")

    def default(self) -> Config:
        """The default configuration, which trial 0 trains."""
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
        """The complete configuration, typed; missing fields take their default. Raises SpaceError if it is invalid."""
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
        """`parent` with `changes`. Raises SpaceError if the result is invalid or a changed field has no effect."""
        for name, value in changes.items():
            self.field(name).check(value)
        config = self.check({**parent, **changes})
        for name in changes:
            field = self.field(name)
            if not self.active(field, config):
                ways = self._missing(field, config)
                needed = ", or ".join(" and ".join(condition.words() for condition in way) for way in ways)
                switches = dict.fromkeys(condition.field for way in ways for condition in way)
                current = " and ".join(f"{switch} is {json.dumps(config[switch])}" for switch in switches)
                advice = dict.fromkeys(" and ".join(condition.field for condition in way) for way in ways)
                raise SpaceError(
                    f"{name} has no effect here: it needs {needed}, and {current}. "
                    f"Change {' or '.join(advice)} too, or leave {name} out."
                )
        return config

    def _missing(self, field: Field, config: Mapping[str, Value]) -> list[tuple[Condition, ...]]:
        """For an inactive `field`, the ways to make it active: the conditions that fail, of whatever field they are."""
        ways: list[tuple[Condition, ...]] = []
        for condition in field.when:
            own = () if condition.holds(config) else (condition,)
            switch = self.field(condition.field)
            deeper = [()] if self.active(switch, config) else self._missing(switch, config)
            ways += [own + way for way in deeper]
        return list(dict.fromkeys(ways))

    def restrict(self, limits: Mapping[str, Any]) -> Space:
        """This space with fields fixed (a value), limited to choices (a list) or narrowed ({low, high}).

        A default outside the limits moves to an allowed value, so trial 0 stays in the space. Raises SpaceError.
        """
        narrowed = {name: self.field(name).narrowed(limit) for name, limit in limits.items()}
        space = self.model_copy(update={"fields": tuple(narrowed.get(f.name, f) for f in self.fields)})
        space.check(space.default())
        return space

    def canonical(self, config: Mapping[str, Value]) -> Config:
        """`config` without inactive fields and fields at their neutral value; the form in which they are compared."""
        return {
            field.name: config[field.name]
            for field in self.fields
            if self.active(field, config) and (field.neutral is None or config[field.name] != field.neutral)
        }

    def hash(self, config: Mapping[str, Value], leave_out: str | None = None) -> str:
        """A short stable hash of what `config` does; `leave_out` gives the rest_hash of a matched pair.

        Fields that only have an effect because of the field left out are left out too. So two losses can be compared
        although only one of them has a number of negatives.
        """
        without = frozenset[str]() if leave_out is None else self._governed[leave_out]
        return self._digest(_json_members(self.canonical(config)), without)

    def rests(self, config: Mapping[str, Value]) -> dict[str, str]:
        """For each field that has an effect in `config`, the `hash` with that field left out."""
        parts = _json_members(self.canonical(config))
        active = [field.name for field in self.fields if self.active(field, config)]
        return {name: self._digest(parts, self._governed[name]) for name in active}

    def _digest(self, parts: Mapping[str, str], without: frozenset[str]) -> str:
        """Hash of the backbone and of the members in `parts`, as JSON text, except the fields in `without`."""
        kept = ",".join(part for name, part in parts.items() if name not in without)
        text = f"[{json.dumps(self.backbone)},{{{kept}}}]"
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @cached_property
    def _governed(self) -> dict[str, frozenset[str]]:
        """For each field: its own name, and the names of the fields that can only be active through it."""
        governed: dict[str, frozenset[str]] = {}
        for field in self.fields:
            names = {field.name}
            while more := {
                other.name
                for other in self.fields
                if other.name not in names and other.when and all(condition.field in names for condition in other.when)
            }:
                names |= more
            governed[field.name] = frozenset(names)
        return governed


def _json_members(config: Mapping[str, Value]) -> dict[str, str]:
    """Each member of `config` as JSON text, sorted by name."""
    return {name: f"{json.dumps(name)}:{json.dumps(config[name])}" for name in sorted(config)}
