"""Claims, the part of a heuristic that trials can check: their grammar, and whether they fit a space or a pair."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memory.errors import MemoryFault
from trainers.contract.facts import DatasetFacts
from trainers.contract.metrics import METRICS
from trainers.contract.space import Config, Space, SpaceError, Value

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
    """A claim that trials cannot check. The message says what is wrong with it and what to write instead."""


class Part(BaseModel):
    """A frozen part of a claim; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Predicate(Part):
    """A condition on a meta-feature of the dataset."""

    fact: str
    op: Literal["<", "<=", ">", ">="]
    value: float

    def holds(self, facts: DatasetFacts) -> bool:
        """Whether the dataset satisfies the condition; an unknown fact does not."""
        value = getattr(facts, self.fact)
        return value is not None and ORDER[self.op](value, self.value)


class Given(Part):
    """A condition on another field, which both configurations of a pair must satisfy."""

    field: str
    op: Comparison = "=="
    value: Value

    def holds(self, config: Mapping[str, Value]) -> bool:
        """Whether the configuration satisfies the condition; a field without effect in it does not."""
        value = config.get(self.field)
        if value is None or isinstance(value, str) != isinstance(self.value, str):
            return False
        return ORDER[self.op](value, self.value)


class Scope(Part):
    """Where a claim holds: for any backbone and any dataset, unless the scope restricts them."""

    backbone: str | None = None
    dataset: tuple[Predicate, ...] = ()

    def holds(self, backbone: str, facts: DatasetFacts) -> bool:
        """Whether a study of this backbone on a dataset with these facts is in scope."""
        return self.backbone in (None, backbone) and all(predicate.holds(facts) for predicate in self.dataset)


class Change(Part):
    """A change of one field: set `to` a value, from any value or from `before`, or moved up or down."""

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
    """In scope, the change moves the metric by more than `min_effect` (relative) in the direction `sign`."""

    scope: Scope = Scope()
    change: Change
    given: tuple[Given, ...] = ()
    metric: str = "ndcg@10"
    sign: Literal["+", "-"] = "+"
    min_effect: float = Field(default=0.0, ge=0, le=1)

    @property
    def turn(self) -> int:
        """1 where the claim says that the metric rises, -1 where it says that it falls."""
        return 1 if self.sign == "+" else -1

    def text(self) -> str:
        """Canonical JSON. Two claims are the same exactly where this text is the same."""
        whole = self.model_dump(by_alias=True)
        whole["scope"]["dataset"] = sorted(whole["scope"]["dataset"], key=json.dumps)
        whole["given"] = sorted(whole["given"], key=json.dumps)
        return json.dumps(whole, sort_keys=True, separators=(",", ":"))

    def words(self) -> str:
        """The claim in words, like `sasrec, mean_length < 10: dropout 0.5 → 0.2 raises ndcg@10 by more than 2 %`."""
        where = [self.scope.backbone or "any backbone"]
        where += [f"{predicate.fact} {predicate.op} {predicate.value:g}" for predicate in self.scope.dataset]
        where += [f"{given.field} {given.op} {given.value}" for given in self.given]
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


def read_claim(document: object) -> Claim:
    """Parses a claim from JSON text or plain values. Raises ClaimError, which names the first thing that is wrong."""
    if isinstance(document, str):
        document = _from_text(document)
    try:
        return Claim.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "claim"
        raise ClaimError(f"The claim cannot be read: {place}: {first['msg']}. Write it like {EXAMPLE}") from None


def _from_text(text: str) -> object:
    try:
        return cast(object, json.loads(text))
    except (ValueError, RecursionError):
        raise ClaimError(f"The claim is text that is not JSON. Write it like {EXAMPLE}") from None


def checked(claim: Claim, space: Space) -> Claim:
    """The claim with its values in the types of the space's fields. Raises ClaimError where it does not fit them."""
    change = claim.change
    if (change.to is None) == (change.direction is None):
        raise ClaimError("change needs either to or direction (up, down); from is optional.")
    if claim.metric not in METRICS:
        raise ClaimError(f"metric={claim.metric!r} is not measured; there are {', '.join(METRICS)}.")
    for predicate in claim.scope.dataset:
        if predicate.fact not in FACTS:
            raise ClaimError(f"A dataset has no fact {predicate.fact!r}; there are {', '.join(FACTS)}.")
    try:
        field = space.field(change.field).model_copy(update={"fixed": False})
        before, to = (None if value is None else field.check(value) for value in (change.before, change.to))
        given = tuple(_checked_given(condition, space) for condition in claim.given)
    except SpaceError as error:
        raise ClaimError(f"The claim does not fit the space: {error}") from None
    if change.direction is not None and isinstance(field.default, (bool, str)):
        raise ClaimError(f"{change.field} has no up and down; name the value it is changed to: {field.allowed()}.")
    if change.field in {condition.field for condition in given}:
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
    """Whether both configurations satisfy the conditions of the claim on other fields."""
    return all(given.holds(before) and given.holds(after) for given in claim.given)
