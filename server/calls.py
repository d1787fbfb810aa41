"""What every tool shares: its runtime, the errors a model may read, and the two forms of an answer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent

from memory.errors import MemoryFault
from server.admission import ProtocolError
from server.answers import Answer
from server.executors.base import ExecutorError
from server.guardrails import GuardrailError
from server.runtime import Runtime
from trainers.data import DataError
from trainers.registry import TrainerError
from trainers.space import SpaceError


@contextmanager
def told() -> Generator[None]:
    """Expected failures become errors that the model reads; anything else stays masked."""
    try:
        yield
    except (ProtocolError, GuardrailError, SpaceError, TrainerError, MemoryFault, DataError, ExecutorError) as error:
        raise ToolError(str(error)) from error
    except OSError as error:
        raise ToolError(f"The server's home cannot be used: {error}.") from error


def runtime_of(ctx: Context[Any, Any]) -> Runtime:
    return ctx.request_context.lifespan_context


def offset_of(cursor: str | None, tool: str) -> int:
    """Where a page begins."""
    if cursor is not None and not cursor.isdecimal():
        raise ProtocolError(f"cursor={cursor!r} is not one that {tool} gave; leave it out to begin again.")
    return int(cursor or 0)


def result(answer: Answer) -> CallToolResult:
    """The same facts twice: as structured content, and as compact JSON for clients that show only text."""
    facts = answer.model_dump(mode="json", exclude_none=True)
    text = answer.model_dump_json(exclude_none=True)
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=facts)
