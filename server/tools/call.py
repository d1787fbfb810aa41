"""Shared by every tool: arguments from a request model, the runtime, readable errors, the form of an answer."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent
from pydantic import BaseModel, Field
from pydantic_core import PydanticUndefined

from memory.errors import MemoryFault
from server.answers import Answer
from server.executors.base import ExecutorError
from server.runtime import Runtime
from server.study.admission import ProtocolError
from server.study.guardrails import GuardrailError
from trainers.contract.space import SpaceError
from trainers.data import DataError
from trainers.external.registry import TrainerError

Seconds = Annotated[float, Field(ge=0)]
"""How many seconds a call may wait."""
Tool = Callable[..., Awaitable[CallToolResult]]


def takes_fields_of(request: type[BaseModel]) -> Callable[[Tool], Tool]:
    """Gives a tool one argument for each field of `request`; the tool gets them as its parameter `request`.

    The fields come first, in their order, then the tool's other parameters.
    """

    def decorate(tool: Tool) -> Tool:
        signature = inspect.signature(tool, eval_str=True)
        context, _, *others = signature.parameters.values()

        @wraps(tool)
        async def call_with_request(ctx: Context[Any, Any], **arguments: Any) -> CallToolResult:
            fields = {name: arguments.pop(name) for name in request.model_fields if name in arguments}
            return await tool(ctx, request.model_validate(fields), **arguments)

        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is PydanticUndefined else field.default,
                annotation=Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation,
            )
            for name, field in request.model_fields.items()
        ]
        others = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in others]
        setattr(call_with_request, "__signature__", signature.replace(parameters=[context, *parameters, *others]))  # noqa: B010
        return call_with_request

    return decorate


@contextmanager
def tool_errors() -> Generator[None]:
    """Turns expected failures into errors that the model reads; any other failure stays masked."""
    try:
        yield
    except (ProtocolError, GuardrailError, SpaceError, TrainerError, MemoryFault, DataError, ExecutorError) as error:
        raise ToolError(str(error)) from error
    except OSError as error:
        raise ToolError(f"The server's home cannot be used: {error}.") from error


def runtime_of(ctx: Context[Any, Any]) -> Runtime:
    return ctx.request_context.lifespan_context


def offset_of(cursor: str | None, tool: str) -> int:
    """The offset of the page that a cursor stands for. Raises ProtocolError."""
    if cursor is not None and not re.fullmatch("[0-9]{1,9}", cursor):
        raise ProtocolError(f"cursor={cursor[:20]!r} is not one that {tool} gave; leave it out to begin again.")
    return int(cursor or 0)


def result(answer: Answer) -> CallToolResult:
    """The same facts twice: as structured content, and as compact JSON for clients that show only text."""
    facts = answer.model_dump(mode="json", exclude_none=True)
    text = answer.model_dump_json(exclude_none=True)
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=facts)
