"""Takes calls as clients send them: null for what is unset, arguments as text, numbers where a prompt wants text."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any, cast

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.types import CallToolResult, TextContent
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

AS_GIVEN = ("changes", "space")
"""Arguments whose members are the fields of a space: a null there is a mistake, and is told."""


async def mend_arguments(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Unwraps arguments that arrive as JSON text, before the SDK checks them; says what is wrong with others."""
    params: Any = ctx.params
    if ctx.method not in ("tools/call", "prompts/get") or not isinstance(params, Mapping):
        return await call_next(ctx)
    given = cast("Mapping[str, Any]", params)
    arguments = _unwrapped(given.get("arguments"))
    if arguments is not None and not isinstance(arguments, dict):
        if ctx.method == "tools/call":
            return _refusal(given.get("name"), arguments, ctx)
        return await call_next(ctx)
    if ctx.method == "prompts/get" and arguments is not None:
        members = cast("dict[str, Any]", arguments).items()
        arguments = {name: _text(value) for name, value in members if value is not None}
    return await call_next(replace(ctx, params={**given, "arguments": arguments}))


def without_unset(arguments: Mapping[str, Any], required: Container[str]) -> dict[str, Any]:
    """The arguments without those that are null: some clients send null for each that is not set.

    A required argument stays, so that what it needs is told.
    """
    return {
        name: value if name in AS_GIVEN else _without_nulls(value)
        for name, value in arguments.items()
        if value is not None or name in required
    }


def _without_nulls(value: Any) -> Any:
    """The value without members of objects that are null."""
    if isinstance(value, list):
        return [_without_nulls(part) for part in cast("list[Any]", value)]
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value).items()
        return {name: _without_nulls(part) for name, part in members if part is not None}
    return value


def _unwrapped(value: Any) -> dict[str, Any] | Any:
    """The object that JSON text holds, also where the text was encoded twice; any other value as it is."""
    found: Any = value
    for _ in range(2):
        if isinstance(found, str):
            try:
                found = json.loads(found) if found.strip() else dict[str, Any]()
            except (ValueError, RecursionError):
                return value
    return cast("dict[str, Any]", found) if isinstance(found, dict) or found is None else value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _refusal(tool: Any, arguments: Any, ctx: ServerRequestContext[Any, Any]) -> HandlerResult:
    shown = json.dumps(arguments, ensure_ascii=False)
    got = shown if len(shown) <= 80 else f"{shown[:77]}…"
    text = f'{tool}: arguments must be one JSON object, as in {{"study_id": "s-…"}}; got {got}.'
    answer = CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
    modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
    return answer.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude=set() if modern else {"result_type"}
    )
