"""What endpoints of language models answer, in both wire formats: well, and in every way that was seen to be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.support.fake_endpoint import Raw, Reply

Call = tuple[str, dict[str, Any] | str]
Body = dict[str, Any]


def anthropic_reply(*calls: Call, text: str = "", stop: str | None = None) -> tuple[int, Body]:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    content += [
        {"type": "tool_use", "id": f"toolu_{n}", "name": name, "input": arguments}
        for n, (name, arguments) in enumerate(calls)
    ]
    return 200, {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content,
        "stop_reason": stop or ("tool_use" if calls else "end_turn"), "stop_sequence": None,
        "usage": {"input_tokens": 90, "output_tokens": 10},
    }  # fmt: skip


def openai_reply(*calls: Call, text: str = "", stop: str | None = None) -> tuple[int, Body]:
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{n}", "type": "function",
                "function": {"name": name, "arguments": args if isinstance(args, str) else json.dumps(args)},
            }
            for n, (name, args) in enumerate(calls)
        ]  # fmt: skip
    choice = {"index": 0, "message": message, "finish_reason": stop or ("tool_calls" if calls else "stop")}
    return 200, {
        "id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
        "usage": {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100},
    }  # fmt: skip


REPLIES: dict[str, Callable[..., tuple[int, Body]]] = {"anthropic": anthropic_reply, "openai": openai_reply}
CUT_OFF = {"anthropic": "max_tokens", "openai": "length"}


def error_reply(provider: str, status: int, text: str) -> Reply:
    """A failure in the words of the provider."""
    if provider == "anthropic":
        return status, {"type": "error", "error": {"type": "api_error", "message": text}}
    return status, {"error": {"message": text, "type": "api_error", "param": None, "code": None}}


def given_arguments(provider: str, name: str, arguments: Any) -> tuple[int, Body]:
    """A call whose arguments are sent as they are, of whatever type."""
    status, body = REPLIES[provider]((name, {}))
    (call,) = _calls(provider, body)
    (call if provider == "anthropic" else call["function"])[_ARGUMENTS[provider]] = arguments
    return status, body


def with_ids(provider: str, id: Any, *calls: Call) -> tuple[int, Body]:
    """Calls that all have the same id."""
    status, body = REPLIES[provider](*calls)
    for call in _calls(provider, body):
        call["id"] = id
    return status, body


def with_usage(provider: str, usage: Any, *calls: Call) -> tuple[int, Body]:
    """An answer that counts its tokens in its own way."""
    status, body = REPLIES[provider](*calls)
    return status, {**body, "usage": usage}


def without_message(provider: str) -> tuple[int, Body]:
    """`"message": null`, and what comes closest to it."""
    status, body = REPLIES[provider](text="x")
    if provider == "anthropic":
        return status, {**body, "content": [None]}
    return status, {**body, "choices": [{**body["choices"][0], "message": None}]}


def as_text(reply: tuple[int, Body]) -> Reply:
    """The answer with half characters and NaN as they are written in JSON text."""
    return reply[0], Raw(json.dumps(reply[1]).encode())


HTML = Raw(b"<!doctype html><html><body>Sign in to the proxy.</body></html>", "text/html")
NESTED = "[" * 1500 + "]" * 1500
_ARGUMENTS = {"anthropic": "input", "openai": "arguments"}


def _calls(provider: str, body: Body) -> list[dict[str, Any]]:
    if provider == "anthropic":
        return [part for part in body["content"] if part["type"] == "tool_use"]
    return body["choices"][0]["message"]["tool_calls"]


def trial(turn: int, **more: Any) -> Call:
    """A trial that no other turn asks for."""
    return "run_trial", {"study_id": "s-1", "changes": {"learning_rate": round(0.0011 + 0.0001 * turn, 4)}, **more}


def misbehaviours(provider: str) -> dict[str, Callable[[int], Reply]]:
    """By name: what an endpoint answers in each turn."""
    reply, cut = REPLIES[provider], CUT_OFF[provider]

    def arguments(turn: int) -> dict[str, Any]:
        given = trial(turn)[1]
        assert isinstance(given, dict)
        return given

    def as_json(turn: int) -> str:
        return json.dumps(arguments(turn))

    nan = {"study_id": "s-1", "changes": {"learning_rate": float("nan")}}
    return {
        "half a character": lambda turn: as_text(reply(trial(turn, hypothesis="up \ud83d"), text="So \ude00")),
        "arguments as an object": lambda turn: given_arguments(provider, "run_trial", arguments(turn)),
        "arguments as text": lambda turn: given_arguments(provider, "run_trial", as_json(turn)),
        "a string in a string": lambda turn: given_arguments(provider, "run_trial", json.dumps(as_json(turn))),
        "null arguments": lambda turn: given_arguments(provider, "read_memory", None),
        "usage with nulls": lambda turn: with_usage(provider, {"prompt_tokens": None, "n": None}, trial(turn)),
        "no usage": lambda turn: with_usage(provider, None, trial(turn)),
        "usage that is text": lambda turn: with_usage(provider, {"input_tokens": "x", "total_tokens": -3}, trial(turn)),
        "null ids": lambda turn: with_ids(provider, None, trial(2 * turn), trial(2 * turn + 1)),
        "one id for all": lambda turn: with_ids(provider, "call", trial(2 * turn), trial(2 * turn + 1)),
        "NaN": lambda turn: as_text(reply(("run_trial", nan), trial(turn))),
        "nested arguments": lambda turn: given_arguments(provider, "run_trial", f'{{"changes": {NESTED}}}'),
        "a prefix": lambda turn: reply(("mcp__virtualmle__get_trial", {"trial_id": "t-0"})),
        "a null name": lambda turn: with_name(provider, None),
        "no call": lambda turn: reply(text="<tool_call>run_trial</tool_call>"),
        "nothing": lambda turn: reply(),
        "no message": lambda turn: without_message(provider),
        "cut text": lambda turn: reply(text="Let me think", stop=cut),
        "cut calls": lambda turn: reply(trial(turn), stop=cut),
        "HTML": lambda turn: (200, HTML),
        "no JSON": lambda turn: (200, Raw(b"data: {}\n\n", "text/event-stream")),
        "a list": lambda turn: (200, Raw(b"[1]")),
        "an empty body": lambda turn: (200, Raw(b"")),
        "no answer in it": lambda turn: (200, {"choices": None, "content": None}),
        "a cut body": lambda turn: (200, Raw(b'{"choices": [', cut=True)),
        "bytes": lambda turn: (200, Raw(b"\xff\xfe\x00")),
        "deep JSON": lambda turn: (200, Raw(b"[" * 5000)),
        "a redirect": lambda turn: (302, {}),
        "refused": lambda turn: error_reply(provider, 403, "no"),
        "busy": lambda turn: error_reply(provider, 429, "slow down"),
        "broken": lambda turn: error_reply(provider, 500, "oh"),
        "HTML with an error": lambda turn: (502, HTML),
        "too long": lambda turn: error_reply(provider, 400, "maximum context length is 8 tokens"),
    }  # fmt: skip


def with_name(provider: str, name: Any) -> tuple[int, Body]:
    """A call of a tool with a name of whatever type."""
    status, body = REPLIES[provider](("run_trial", {}))
    (call,) = _calls(provider, body)
    (call if provider == "anthropic" else call["function"])["name"] = name
    return status, body
