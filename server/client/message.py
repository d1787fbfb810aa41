"""One line of a client as a JSON-RPC message: mended where its meaning is plain, refused by its id where it is not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
"""Key in a request's _meta from protocol 2026-07-28 on; a request that has it needs no session."""
READING_TOOLS = frozenset({"list_datasets", "get_trial", "get_study", "suggest_trial", "plot_study", "read_memory"})
"""Tools that change nothing. Calls of them are repeated when an owner ends. Their read-only hint comes from here."""
PARSE_ERROR = -32700
INVALID_REQUEST = -32600

_NAMED_BY = {
    "tools/call": "name", "prompts/get": "name", "resources/read": "uri",
    "tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId",
}  # fmt: skip
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s"{}\[\]:,]+')
"""A string, a mark or a word of JSON."""


class BadLine(ValueError):
    """A line that is no message. `code` is that of JSON-RPC, `id` the request that waits for an answer, if any does."""

    def __init__(self, code: int, text: str, id: str | float | None = None) -> None:
        super().__init__(text)
        self.code, self.id = code, id


@dataclass(frozen=True)
class Message:
    """One JSON-RPC message as it is sent on, and what the bridge needs to know about it."""

    line: bytes
    body: dict[str, Any]
    given_id: str | float | None = None
    """The id as the client wrote it; the server is told 2 for 2.0."""

    @property
    def id(self) -> str | int:
        return self.body["id"]

    @property
    def answer_id(self) -> str | float:
        """The id in answers to the client."""
        return self.id if self.given_id is None else self.given_id

    @property
    def method(self) -> str | None:
        return self.body.get("method")

    @property
    def is_request(self) -> bool:
        return self.method is not None and "id" in self.body

    @property
    def cancels(self) -> str | int | None:
        """The request that this notification cancels."""
        request_id = self._params.get("requestId") if self.method == "notifications/cancelled" else None
        return request_id if isinstance(request_id, str | int) else None

    @cached_property
    def version(self) -> str | None:
        """The protocol version that a message names itself; None for a message that belongs to a session."""
        version = _mapping(self._params.get("_meta")).get(VERSION_KEY)
        return version if isinstance(version, str) else None

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that repeat parts of the message; empty where the message has no version of its own."""
        if self.version is None or self.method is None:
            return {}
        headers = {_VERSION_HEADER: _header_value(self.version), "mcp-method": _header_value(self.method)}
        name = self._params.get(_NAMED_BY.get(self.method, ""))
        if isinstance(name, str):
            headers["mcp-name"] = _header_value(name)
        return headers

    @property
    def may_have_effect(self) -> bool:
        """Whether sending it twice could do something twice."""
        return self.method == "tools/call" and self._params.get("name") not in READING_TOOLS

    @property
    def _params(self) -> dict[str, Any]:
        return _mapping(self.body.get("params"))


_VERSION_HEADER = "mcp-protocol-version"


def read_message(line: bytes) -> Message:
    """The message of a line. Raises BadLine for what no server could answer.

    A byte order mark is dropped, and half a character becomes the replacement character.
    """
    text = line.removeprefix(_BYTE_ORDER_MARK).decode("utf-8", "replace").strip()
    try:
        body: Any = json.loads(text)
        if "\\u" in text:
            text = _SURROGATE.sub("\ufffd", json.dumps(body, ensure_ascii=False))
    except RecursionError:
        raise BadLine(INVALID_REQUEST, "The message is nested too deeply; flatten it.", _id_in(text)) from None
    except ValueError as error:
        reason = str(error).partition(";")[0]
        raise BadLine(PARSE_ERROR, f"Parse error: not a line of JSON ({reason}).", _id_in(text)) from None
    if not isinstance(body, dict):
        raise BadLine(INVALID_REQUEST, "One JSON-RPC message a line; batches are not supported.")
    message = Message(text.encode(), json.loads(text))
    given, method = cast("dict[str, Any]", body).get("id"), message.body.get("method", "")
    if fault := _fault(message.body):
        raise BadLine(INVALID_REQUEST, fault, _repeatable(given))
    if not method or "id" not in body:
        return message
    if given is None and method.startswith("notifications/"):
        return _with_id(message, None)
    if isinstance(given, str) or type(given) is int:
        return replace(message, given_id=given)
    if isinstance(given, float) and given.is_integer():
        return _with_id(message, int(given), given)
    raise BadLine(INVALID_REQUEST, "The id of a request is text or a whole number.", _repeatable(given))


def _fault(body: dict[str, Any]) -> str | None:
    """What makes this no message of JSON-RPC 2.0."""
    if body.get("jsonrpc") != "2.0":
        return 'A message says "jsonrpc": "2.0".'
    if not isinstance(body.get("method", ""), str):
        return "The method of a message is text."
    if not isinstance(body.get("params", {}), dict | None):
        return "The params of a message are an object."
    return None


def _with_id(message: Message, id: int | None, given: float | None = None) -> Message:
    """The message with another id, or with none."""
    body = {name: value for name, value in message.body.items() if name != "id"} | ({} if id is None else {"id": id})
    return Message(json.dumps(body, ensure_ascii=False).encode(), body, given)


def as_line(body: Mapping[str, Any]) -> str:
    """A message as one line of JSON that can be written as UTF-8, whatever its texts hold."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(body, separators=(",", ":")) if _SURROGATE.search(text) else text


def _repeatable(id: object) -> str | float | None:
    """An id that an error may repeat: text or a number that JSON can hold, else None."""
    if isinstance(id, bool) or not isinstance(id, str | int | float):
        return None
    return id if isinstance(id, str) or math.isfinite(id) else None


def _id_in(text: str) -> str | float | None:
    """The id of a message that cannot be parsed, looked for at the top of it."""
    depth, before, key = 0, "", ""
    for found in _PIECE.finditer(text):
        piece = found[0]
        if depth == 1 and before == ":" and key == '"id"':
            try:
                return _repeatable(json.loads(piece))
            except ValueError:
                return None
        key = piece if depth == 1 and before in "{," else key
        depth += (piece in "{[") - (piece in "}]")
        before = piece
    return None


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _header_value(value: str) -> str:
    if value.isascii() and value.isprintable() and value == value.strip() and not value.startswith("=?"):
        return value
    from mcp.shared.inbound import encode_header_value  # takes half a second to import, and is rarely needed

    return encode_header_value(_SURROGATE.sub("\ufffd", value))
