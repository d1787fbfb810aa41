"""Space: what everyone but the trainer reads of the knobs: all fields of a backbone, and what a configuration is."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from trainers.knobs import Condition, Config, Field, Group, Kind, Knob, SpaceError, Value

__all__ = ["Condition", "Config", "Field", "Group", "Kind", "Knob", "Space", "SpaceError", "Value"]


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
        narrowed = {name: self.field(name).narrowed(limit) for name, limit in wanted.items()}
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
        return self._digest(_parts(self.canonical(config)), without)

    def rests(self, config: Mapping[str, Value]) -> dict[str, str]:
        """`hash` with each field left out that has an effect in `config`, by field."""
        parts = _parts(self.canonical(config))
        active = [field.name for field in self.fields if self.active(field, config)]
        return {name: self._digest(parts, self._governed[name]) for name in active}

    def _digest(self, parts: Mapping[str, str], without: frozenset[str]) -> str:
        """Of the JSON text of the backbone and an object of `parts`."""
        kept = ",".join(part for name, part in parts.items() if name not in without)
        text = f"[{json.dumps(self.backbone)},{{{kept}}}]"
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


def _parts(config: Mapping[str, Value]) -> dict[str, str]:
    """The members of `config` as JSON text, in the order of their names."""
    return {name: f"{json.dumps(name)}:{json.dumps(config[name])}" for name in sorted(config)}
