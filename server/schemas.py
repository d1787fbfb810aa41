"""Tools as clients are told of them: without what no model needs, for a list is read in every conversation."""

from __future__ import annotations

from typing import Any, cast

from mcp_types import Tool

_NULL = {"type": "null"}


def thrifty(tool: Tool) -> Tool:
    """The tool with what a caller needs: arguments it does not know are refused, so the schema admits no others.

    Titles repeat names, and nulls of optional arguments need not be said; the server takes them. Of answers it is told
    that they are objects: they explain themselves, and the schema of one is longer than it is.
    """
    given: dict[str, Any] = _slim(tool.input_schema)
    output = None if tool.output_schema is None else {"type": "object"}
    return tool.model_copy(update={"input_schema": {**given, "additionalProperties": False}, "output_schema": output})


def _slim(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_slim(part) for part in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: {key: _slim(part) for key, part in value.items()} if name in ("properties", "$defs") else _slim(value)
        for name, value in cast("dict[str, Any]", schema).items()
        if name != "title" or not isinstance(value, str)
    }
    if found.get("additionalProperties") is True:
        del found["additionalProperties"]
    others = [part for part in found.get("anyOf", ()) if part != _NULL]
    if len(others) == 1:
        del found["anyOf"]
        found = {**others[0], **found}
    if found.get("default", 0) is None:
        del found["default"]
    return found
