"""What a model's answer holds, read from an endpoint that may send anything: texts, arguments of calls, tokens."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn, cast

from server.drive.llm.dialogue import CHARACTERS_PER_TOKEN, ModelFailed, ToolCall
from server.drive.plan import ModelPlan

DEEPEST = 40
"""Levels of nesting that the arguments of a call may have."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: object) -> str:
    """A text in which half a character became the replacement character; "" for what is no text."""
    return _SURROGATE.sub("\ufffd", text) if isinstance(text, str) else ""


def parsed(plan: ModelPlan, body: str) -> dict[str, Any]:
    """The JSON object that an endpoint answered. Raises ModelFailed, which shows what it answered instead."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        shown = " ".join(clean(body).split())[:60]
        raise ModelFailed(
            f"{plan.where} answered no JSON object but {shown!r}: check --base-url, which often ends in /v1."
        )
    return cast("dict[str, Any]", found)


def members(value: object) -> list[dict[str, Any]]:
    """The objects in a list; [] for what is no list."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def member(value: object, name: str) -> Any:
    """A member of an object; None for what is no object."""
    return cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else None


def tokens(usage: object, name: str, text: str) -> int:
    """A number of tokens that an endpoint counted, else a guess from the text."""
    count = member(usage, name)
    known = isinstance(count, int | float) and not isinstance(count, bool) and math.isfinite(count) and count >= 0
    return int(cast(float, count)) if known else len(text) // CHARACTERS_PER_TOKEN


def tool_calls(parts: Sequence[tuple[object, object, object]], turn: int) -> tuple[ToolCall, ...]:
    """The calls of one answer from their ids, names and arguments. Ids that are missing or repeated are made up."""
    seen = set[str]()
    calls = list[ToolCall]()
    for place, (id, name, given) in enumerate(parts):
        own = clean(id) if isinstance(id, str) and id and id not in seen else f"call-{turn}-{place}"
        seen.add(own)
        arguments, problem = read_arguments(given)
        calls.append(ToolCall(own, clean(name), arguments, problem))
    return tuple(calls)


def read_arguments(given: object) -> tuple[dict[str, Any], str | None]:
    """The arguments of a call, given as an object, as JSON text, or as such text in a string; and why they are none."""
    found: Any = given
    try:
        for _ in range(2):
            if isinstance(found, str):
                found = json.loads(found, parse_constant=_refuse) if found.strip() else None
        found = _plain(dict[str, Any]() if found is None else found)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        return {}, f"arguments are not JSON ({reason}); send one JSON object."
    if not isinstance(found, dict):
        return {}, f"arguments must be a JSON object; got {clean(str(given))[:80]!r}."
    return cast("dict[str, Any]", found), None


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _plain(value: Any, depth: int = 0) -> Any:
    """The value with whole characters. Raises ValueError for what JSON cannot hold, and for deep nesting."""
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(str(value))
    if isinstance(value, list):
        return [_plain(part, depth + 1) for part in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {clean(name): _plain(part, depth + 1) for name, part in cast("dict[str, Any]", value).items()}
    return value
