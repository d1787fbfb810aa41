"""Claims, the half of a heuristic that numbers can check: the grammar, its fit to a space, and what falls under it."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memory.errors import MemoryFault
from trainers.space import Config, Space, SpaceError, Value
from trainers.spec import METRICS, DatasetFacts

Comparison = Literal["==", "!=", "<", "<=", ">", ">="]
ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
FACTS = tuple(DatasetFacts.model_fields)
EXAMPLE = (
    '{"scope": {"dataset": [{"fact": "mean_length", "op": "<", "value": 10}]}, '
    '"change": {"field": "dropout", "from": 0.5, "to": 0.2}, "sign": "+", "min_effect": 0.02}'
)


class ClaimError(MemoryFault):
    """A claim that cannot be checked by numbers; the message says what is wrong with it and what would do."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Predicate(Part):
    """A condition on a meta-feature of the dataset."""

    fact: str
    op: Literal["<", "<=", ">", ">="]
    value: float

    def holds(self, facts: DatasetFacts) -> bool:
        """Whether the dataset is so; a fact that is not known is not."""
        known = getattr(facts, self.fact)
        return known is not None and ORDER[self.op](known, self.value)


class Given(Part):
    """A condition on another field of both configurations."""

    field: str
    op: Comparison = "=="
    value: Value

    def holds(self, config: Mapping[str, Value]) -> bool:
        """Whether it is so; a field that has no effect there is not."""
        known = config.get(self.field)
        if known is None or isinstance(known, str) != isinstance(self.value, str):
            return False
        return ORDER[self.op](known, self.value)


class Scope(Part):
    """Where the claim holds: of any backbone, on any dataset, unless it says otherwise."""

    backbone: str | None = None
    dataset: tuple[Predicate, ...] = ()

    def holds(self, backbone: str, facts: DatasetFacts) -> bool:
        """Whether a study of this backbone on such a dataset is inside."""
        return self.backbone in (None, backbone) and all(one.holds(facts) for one in self.dataset)


class Change(Part):
    """One field set `to` a value (from any other, or from one), or moved up or down."""

    field: str
    before: Value | None = Field(default=None, alias="from")
    to: Value | None = None
    direction: Literal["up", "down"] | None = None

    def covers(self, before: Value, after: Value) -> bool:
        """Whether a step from one value to another is this change."""
        if before == after or (self.before is not None and before != self.before):
            return False
        if self.direction is None:
            return after == self.to
        if isinstance(before, str) or isinstance(after, str):
            return False
        return after > before if self.direction == "up" else after < before


class Claim(Part):
    """In scope, such a change moves the metric by more than `min_effect` (relative) in the direction of `sign`."""

    scope: Scope = Scope()
    change: Change
    given: tuple[Given, ...] = ()
    metric: str = "ndcg@10"
    sign: Literal["+", "-"] = "+"
    min_effect: float = Field(default=0.0, ge=0, le=1)

    @property
    def turn(self) -> int:
        """1 where the claim says up, -1 where it says down."""
        return 1 if self.sign == "+" else -1

    def text(self) -> str:
        """Canonical JSON: two claims are the same exactly where this is."""
        whole = self.model_dump(by_alias=True)
        whole["scope"]["dataset"] = sorted(whole["scope"]["dataset"], key=json.dumps)
        whole["given"] = sorted(whole["given"], key=json.dumps)
        return json.dumps(whole, sort_keys=True, separators=(",", ":"))

    def words(self) -> str:
        """Such as `sasrec, mean_length < 10: dropout 0.5 → 0.2 raises ndcg@10 by more than 2 %`."""
        where = [self.scope.backbone or "any backbone"]
        where += [f"{one.fact} {one.op} {one.value:g}" for one in self.scope.dataset]
        where += [f"{one.field} {one.op} {one.value}" for one in self.given]
        change = self.change
        if change.direction is not None:
            step = f"{change.field} {change.direction}" + (
                f" from {change.before}" if change.before is not None else ""
            )
        else:
            step = f"{change.field} " + (f"{change.before} → " if change.before is not None else "→ ") + f"{change.to}"
        verb = "raises" if self.sign == "+" else "lowers"
        by = f" by more than {self.min_effect:.0%}" if self.min_effect else ""
        return f"{', '.join(where)}: {step} {verb} {self.metric}{by}"


def read_claim(given: object) -> Claim:
    """A claim of the grammar; raises ClaimError naming the first thing that is wrong."""
    if isinstance(given, str):
        given = _from_text(given)
    try:
        return Claim.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "claim"
        raise ClaimError(f"The claim cannot be read: {place}: {first['msg']}. Write it like {EXAMPLE}") from None


def _from_text(text: str) -> object:
    try:
        return cast(object, json.loads(text))
    except ValueError:
        raise ClaimError(f"The claim is text that is not JSON. Write it like {EXAMPLE}") from None


def checked(claim: Claim, space: Space) -> Claim:
    """The claim, its values in the types of the space's fields; raises ClaimError where one is unknown."""
    change = claim.change
    if (change.to is None) == (change.direction is None):
        raise ClaimError("change needs either to or direction (up, down); from is optional.")
    if claim.metric not in METRICS:
        raise ClaimError(f"metric={claim.metric!r} is not measured; there are {', '.join(METRICS)}.")
    for one in claim.scope.dataset:
        if one.fact not in FACTS:
            raise ClaimError(f"A dataset has no fact {one.fact!r}; there are {', '.join(FACTS)}.")
    try:
        field = space.field(change.field).model_copy(update={"fixed": False})
        before, to = (None if value is None else field.check(value) for value in (change.before, change.to))
        given = tuple(_checked_given(one, space) for one in claim.given)
    except SpaceError as error:
        raise ClaimError(f"The claim does not fit the space: {error}") from None
    if change.direction is not None and isinstance(field.default, (bool, str)):
        raise ClaimError(f"{change.field} has no up and down; name the value it is changed to: {field.allowed()}.")
    if change.field in {one.field for one in given}:
        raise ClaimError(f"given is about other fields; use change.from for {change.field}.")
    if before is not None and before == to:
        raise ClaimError(f"change goes from {before!r} to {to!r}: that is no change.")
    return claim.model_copy(update={"change": change.model_copy(update={"before": before, "to": to}), "given": given})


def _checked_given(given: Given, space: Space) -> Given:
    field = space.field(given.field).model_copy(update={"fixed": False})
    if given.op in ("==", "!="):
        return given.model_copy(update={"value": field.check(given.value)})
    if isinstance(given.value, (bool, str)) or isinstance(field.default, (bool, str)):
        raise ClaimError(f"given {given.field} {given.op} {given.value!r} compares no numbers; use == or !=.")
    return given


def fits(claim: Claim, before: Config, after: Config) -> bool:
    """Whether the rest of two configurations is as the claim has it given."""
    return all(one.holds(before) and one.holds(after) for one in claim.given)
