"""What a stored heuristic says about one field's value, written and read in the same few phrases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from server.policies.base import Lesson
from trainers.contract.space import Space, SpaceError, Value

BEAT, LOST, NO_EFFECT = "beat", "did worse than", "made no believable difference to"


@dataclass(frozen=True)
class Hint:
    """One value of one field that helped (or did not) in an earlier study."""

    field: str
    value: Value
    helped: bool
    lesson: Lesson


def hints(space: Space, lessons: Sequence[Lesson]) -> list[Hint]:
    """What the heuristics among `lessons` say of fields that this space may change; the same backbone's first."""
    found_hints: list[Hint] = []
    for lesson in sorted(lessons, key=lambda lesson: lesson.backbone != space.backbone):
        if lesson.kind == "heuristic":
            found_hints += [hint for field in space.free() if (hint := _hint(space, field.name, lesson))]
    return found_hints


def _hint(space: Space, name: str, lesson: Lesson) -> Hint | None:
    pattern = rf"\b{name}[ =]+(\S+) (beat|{LOST}|{NO_EFFECT}|beats|helped|improved|hurt)\b"
    match = re.search(pattern, lesson.text)
    if match is None:
        return None
    try:
        value = space.field(name).check(number_or_word(match.group(1)))
    except SpaceError:
        return None
    return Hint(name, value, match.group(2) in (BEAT, "beats", "helped", "improved"), lesson)


def number_or_word(text: str) -> Any:
    """A value as YAML types it, except that 1e-3 is a number, which YAML 1.1 takes for a word."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
