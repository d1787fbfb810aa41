"""Shortens the schemas of tools as clients see them: the list of tools costs tokens in every conversation."""

from __future__ import annotations

from typing import Any, cast

from mcp_types import Tool

_NULL = {"type": "null"}


def with_short_schemas(tool: Tool) -> Tool:
    """The tool with schemas that hold only what a caller needs.

    Titles repeat names, and that an optional argument may be null need not be said, although the server accepts null.
    Unknown arguments are refused, so the schema admits none. Of an answer it says only that it is an object: answers
    explain themselves, and the schema of an answer is longer than the answer.
    """
    input_schema: dict[str, Any] = _shorten(tool.input_schema)
    output = None if tool.output_schema is None else {"type": "object"}
    return tool.model_copy(
        update={"input_schema": {**input_schema, "additionalProperties": False}, "output_schema": output}
    )


def _shorten(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_shorten(part) for part in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    shorter = {
        name: {key: _shorten(part) for key, part in value.items()}
        if name in ("properties", "$defs")
        else _shorten(value)
        for name, value in cast("dict[str, Any]", schema).items()
        if name != "title" or not isinstance(value, str)
    }
    if shorter.get("additionalProperties") is True:
        del shorter["additionalProperties"]
    others = [part for part in shorter.get("anyOf", ()) if part != _NULL]
    if len(others) == 1:
        del shorter["anyOf"]
        shorter = {**others[0], **shorter}
    if shorter.get("default", 0) is None:
        del shorter["default"]
    return shorter
