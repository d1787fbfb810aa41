"""Tools, resources and prompts of fixed names that the official conformance suite wants on a server.

`virtualmle serve --http … --conformance tests.conformance` adds them to the real app, so that its own transport, auth
and extensions are what is judged.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any, Literal

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp.types import (
    AudioContent,
    CallToolResult,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel, Field

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PAUSE = 0.05
Ctx = Context[Any, Any]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PIXEL = base64.b64encode(
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\x00\xff\x00\x00"))
    + _chunk(b"IEND", b"")
).decode()
SILENCE = base64.b64encode(
    b"RIFF" + struct.pack("<I", 38) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8) + b"data"
    + struct.pack("<I", 2) + b"\x80\x80"
).decode()  # fmt: skip
IMAGE = ImageContent(type="image", data=PIXEL, mime_type="image/png")


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _resource(uri: str, kind: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=kind, text=text))


class Contact(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Literal["active", "inactive", "pending"] = "active"
    verified: bool = True


_TITLED = [("value1", "First"), ("value2", "Second"), ("value3", "Third")]
ENUMS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": [{"const": v, "title": f"{t} Option"} for v, t in _TITLED]},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {
            "type": "array", "items": {"anyOf": [{"const": v, "title": f"{t} Choice"} for v, t in _TITLED]},
        },
    },
}  # fmt: skip


def register(server: MCPServer[Any]) -> None:
    """Add everything to `server`."""
    _add_content_tools(server)
    _add_asking_tools(server)
    _add_resources(server)
    _add_prompts(server)


def _add_content_tools(server: MCPServer[Any]) -> None:
    @server.tool()
    def test_simple_text() -> CallToolResult:
        """Fixture: simple text."""
        return CallToolResult(content=[_text("This is a simple text response for testing.")])

    @server.tool()
    def test_image_content() -> CallToolResult:
        """Fixture: image content."""
        return CallToolResult(content=[IMAGE])

    @server.tool()
    def test_audio_content() -> CallToolResult:
        """Fixture: audio content."""
        return CallToolResult(content=[AudioContent(type="audio", data=SILENCE, mime_type="audio/wav")])

    @server.tool()
    def test_embedded_resource() -> CallToolResult:
        """Fixture: embedded resource."""
        text = "This is an embedded resource content."
        return CallToolResult(content=[_resource("test://embedded-resource", "text/plain", text)])

    @server.tool()
    def test_multiple_content_types() -> CallToolResult:
        """Fixture: multiple content types."""
        data = json.dumps({"test": "data", "value": 123})
        parts = [_text("Multiple content types test:"), IMAGE]
        return CallToolResult(content=[*parts, _resource("test://mixed-content-resource", "application/json", data)])

    @server.tool()
    def test_error_handling() -> CallToolResult:
        """Fixture: error handling."""
        raise ToolError("This tool intentionally returns an error for testing")

    @server.tool()
    async def test_tool_with_logging(ctx: Ctx) -> CallToolResult:
        """Fixture: tool with logging."""
        for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.info(words)
            await anyio.sleep(PAUSE)
        return CallToolResult(content=[_text("Done.")])

    @server.tool()
    async def test_tool_with_progress(ctx: Ctx) -> CallToolResult:
        """Fixture: tool with progress."""
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100)
            await anyio.sleep(PAUSE)
        return CallToolResult(content=[_text("Done.")])

    @server.tool()
    async def test_reconnection(ctx: Ctx) -> CallToolResult:
        """Fixture: reconnection."""
        await ctx.close_sse_stream()
        await anyio.sleep(PAUSE)
        return CallToolResult(content=[_text("Reconnected.")])

    @server.tool()
    def json_schema_2020_12_tool(name: str = "", address: dict[str, str] | None = None) -> CallToolResult:
        """Tool with JSON Schema 2020-12 features."""
        return CallToolResult(content=[_text(name)])

    tool = server._tool_manager.get_tool("json_schema_2020_12_tool")
    assert tool is not None
    parts = {"street": {"type": "string"}, "city": {"type": "string"}}
    tool.parameters = {
        "$schema": DIALECT,
        "type": "object",
        "$defs": {"address": {"type": "object", "properties": parts}},
        "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
        "additionalProperties": False,
    }


def _add_asking_tools(server: MCPServer[Any]) -> None:
    @server.tool()
    async def test_sampling(prompt: str, ctx: Ctx) -> CallToolResult:
        """Fixture: sampling."""
        asked = SamplingMessage(role="user", content=_text(prompt))
        answer = await ctx.session.create_message([asked], max_tokens=100, related_request_id=ctx.request_id)
        text = answer.content.text if isinstance(answer.content, TextContent) else str(answer.content)
        return CallToolResult(content=[_text(f"LLM response: {text}")])

    @server.tool()
    async def test_elicitation(message: str, ctx: Ctx) -> CallToolResult:
        """Fixture: elicitation."""
        return _told("User response: ", await _elicited(ctx, message, Contact.model_json_schema()))

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Ctx) -> CallToolResult:
        """Fixture: elicitation sep1034 defaults."""
        return _told("Elicitation completed: ", await _elicited(ctx, "Please confirm", Defaults.model_json_schema()))

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: Ctx) -> CallToolResult:
        """Fixture: elicitation sep1330 enums."""
        return _told("Elicitation completed: ", await _elicited(ctx, "Please choose", ENUMS))


async def _elicited(ctx: Ctx, message: str, schema: dict[str, Any]) -> ElicitResult:
    return await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)


def _told(start: str, answer: ElicitResult) -> CallToolResult:
    return CallToolResult(content=[_text(f"{start}action={answer.action}, content={json.dumps(answer.content)}")])


def _add_resources(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        """Fixture: static text."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """Fixture: static binary."""
        return base64.b64decode(PIXEL)

    @server.resource("test://watched-resource", mime_type="text/plain")
    def watched() -> str:
        """Fixture: watched."""
        return "Watched."

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:
        """Fixture: template."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    low = server._lowlevel_server

    async def set_level(_: Any, __: SetLevelRequestParams) -> EmptyResult:
        return EmptyResult()

    async def subscribe(_: Any, __: SubscribeRequestParams) -> EmptyResult:
        return EmptyResult()

    async def unsubscribe(_: Any, __: UnsubscribeRequestParams) -> EmptyResult:
        return EmptyResult()

    low.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)


def _add_prompts(server: MCPServer[Any]) -> None:
    @server.prompt()
    def test_simple_prompt() -> str:
        """Fixture: simple prompt."""
        return "This is a simple prompt for testing."

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        """Fixture: prompt with arguments."""
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[Message]:
        """Fixture: prompt with embedded resource."""
        embedded = _resource(resourceUri, "text/plain", "Embedded resource content for testing.")
        return [UserMessage(content=embedded), UserMessage(content="Please process the embedded resource above.")]

    @server.prompt()
    def test_prompt_with_image() -> list[Message]:
        """Fixture: prompt with image."""
        return [UserMessage(content=IMAGE), UserMessage(content="Please analyze the image above.")]
