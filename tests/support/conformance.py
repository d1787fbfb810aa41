"""Tools, resources and prompts of fixed names that the official conformance suite wants on a server.

`virtualmle serve --http … --conformance tests.support.conformance` adds them to the real app, so that its own
transport, auth and extensions are what is judged.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import anyio
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp.types import (
    AudioContent,
    CallToolResult,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from mcp_types.jsonrpc import MISSING_REQUIRED_CLIENT_CAPABILITY
from pydantic import BaseModel, Field

from server.tools.app import CheckedServer
from tests.support import conformance_tasks

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


def register(server: CheckedServer) -> None:
    """Add everything to `server`."""
    _add_content_tools(server)
    _add_asking_tools(server)
    _add_rounds(server)
    _add_resources(server)
    _add_prompts(server)
    conformance_tasks.register(server)


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
        "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": parts}},
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
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


def _form(message: str, **fields: str) -> ElicitRequest:
    schema = {"type": "object", "properties": {k: {"type": v} for k, v in fields.items()}, "required": list(fields)}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sampled(text: str) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=_text(text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=50))


NAME = _form("What is your name?", name="string")
ROOTS = ListRootsRequest()


def _done(text: str) -> CallToolResult:
    return CallToolResult(content=[_text(text)])


def _content(ctx: Ctx, key: str) -> dict[str, Any] | None:
    """What the client answered to a form of this call; None before it did, or where its answer is none."""
    answer = (ctx.input_responses or {}).get(key)
    return dict(answer.content or {}) if isinstance(answer, ElicitResult) else None


def _add_rounds(server: MCPServer[Any]) -> None:
    """Calls that ask for something and are then made again with it (2026-07-28)."""

    def asks(name: str, requests: Mapping[str, InputRequest], state: str | None = None, word: str = "") -> None:
        async def tool(ctx: Ctx) -> CallToolResult | InputRequiredResult:
            answers = ctx.input_responses or {}
            if any(key not in answers for key in requests) or (state is not None and ctx.request_state != state):
                return InputRequiredResult(input_requests=dict(requests), request_state=state)
            shown = {key: answer.model_dump(mode="json", exclude_none=True) for key, answer in answers.items()}
            return _done(f"{word} {json.dumps(shown)}")

        server.add_tool(tool, name=name, description=f"Fixture: asks for {', '.join(requests)}.")

    asks("test_input_required_result_sampling", {"capital_question": _sampled("What is the capital of France?")})
    asks("test_input_required_result_list_roots", {"client_roots": ROOTS})
    asks(
        "test_input_required_result_request_state", {"confirm": _form("Please confirm", ok="boolean")}, "1", "state-ok"
    )
    asks("test_input_required_result_tampered_state", {"confirm": _form("Please confirm", ok="boolean")}, "1")
    several = {"user_name": NAME, "greeting": _sampled("Generate a greeting"), "client_roots": ROOTS}
    asks("test_input_required_result_multiple_inputs", several, "1")

    @server.tool()
    async def test_input_required_result_elicitation(ctx: Ctx) -> CallToolResult | InputRequiredResult:
        """Fixture: asks for a name."""
        answer = _content(ctx, "user_name")
        if answer is None or not isinstance(answer.get("name"), str):
            return InputRequiredResult(input_requests={"user_name": NAME})
        return _done(f"Hello, {answer['name']}!")

    @server.tool()
    async def test_input_required_result_multi_round(ctx: Ctx) -> CallToolResult | InputRequiredResult:
        """Fixture: asks twice."""
        if ctx.request_state == "1" and _content(ctx, "step1") is not None:
            second = _form("Step 2: What is your favorite color?", color="string")
            return InputRequiredResult(input_requests={"step2": second}, request_state="2")
        if ctx.request_state == "2" and _content(ctx, "step2") is not None:
            return _done("Both steps are done.")
        first = _form("Step 1: What is your name?", name="string")
        return InputRequiredResult(input_requests={"step1": first}, request_state="1")

    @server.tool()
    async def test_input_required_result_capabilities(ctx: Ctx) -> CallToolResult | InputRequiredResult:
        """Fixture: asks for what the client can answer."""
        able = ctx.client_capabilities
        requests: dict[str, InputRequest] = {}
        if able is not None and able.sampling is not None:
            requests["greeting"] = _sampled("Generate a greeting")
        if able is not None and able.elicitation is not None:
            requests["user_name"] = NAME
        return InputRequiredResult(input_requests=requests) if requests else _done("Nothing to ask.")

    @server.tool()
    async def test_missing_capability(ctx: Ctx) -> CallToolResult:
        """Fixture: needs a client that can sample."""
        able = ctx.client_capabilities
        if able is None or able.sampling is None:
            wanted = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "This tool needs the capability sampling.", wanted)
        return _done("The client can sample.")

    @server.prompt()
    async def test_input_required_result_prompt(ctx: Ctx) -> str | InputRequiredResult:
        """Fixture: a prompt that asks for its context."""
        answer = _content(ctx, "user_context")
        if answer is None:
            asked = _form("What context should the prompt use?", context="string")
            return InputRequiredResult(input_requests={"user_context": asked})
        return f"Use this context: {answer.get('context')}"


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
