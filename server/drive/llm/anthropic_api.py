"""The dialogue over Anthropic's Messages API, through its SDK."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import anthropic

from server.drive.llm.dialogue import (
    Dialogue,
    ModelFailed,
    ToolCall,
    ToolOutcome,
    ToolSpec,
    Turn,
    is_here,
    missing_key,
    refused,
    unreachable,
)
from server.drive.llm.reading import clean, members, parsed, tokens, tool_calls
from server.drive.plan import ModelPlan

TURN_TOKENS = 8192


class AnthropicDialogue(Dialogue):
    def __init__(self, plan: ModelPlan, key: str | None) -> None:
        self._plan = plan
        http = anthropic.DefaultAsyncHttpxClient(trust_env=False) if is_here(plan) else None
        self._client = anthropic.AsyncAnthropic(
            api_key=key, base_url=plan.base_url, max_retries=plan.retries, http_client=http
        )
        if not (self._client.api_key or self._client.auth_token):
            if plan.base_url is None:
                raise missing_key(plan)
            self._client.api_key = "none"
        self._messages: list[dict[str, Any]] = []
        self._system = ""
        self._tools: list[dict[str, Any]] = []

    def begin(self, system: str, tools: Sequence[ToolSpec]) -> None:
        self._messages, self._system = [], system
        self._tools = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in tools
        ]

    async def turn(self, user_text: str | None, outcomes: Sequence[ToolOutcome]) -> Turn:
        content: list[dict[str, Any]] = [
            {"type": "tool_result", "tool_use_id": outcome.id, "content": outcome.text, "is_error": outcome.failed}
            for outcome in outcomes
        ]
        content += [{"type": "text", "text": user_text}] if user_text else []
        self._messages.append({"role": "user", "content": content})
        body = await self._create()
        answer = parsed(self._plan, body)
        if not isinstance(answer.get("content"), list):
            raise ModelFailed(f"{self._plan.where} answered without content.")
        given, usage = members(answer["content"]), answer.get("usage")
        uses = [block for block in given if block.get("type") == "tool_use"]
        calls = tool_calls(
            [(block.get("id"), block.get("name"), block.get("input")) for block in uses], len(self._messages)
        )
        read = tokens(usage, "input_tokens", json.dumps([self._system, self._messages, self._tools]))
        self._remember(given, calls)
        text = "\n".join(clean(block.get("text")) for block in given if block.get("type") == "text")
        written = tokens(usage, "output_tokens", body)
        return Turn(text, calls, read + written, answer.get("stop_reason") == "max_tokens", read)

    def _remember(self, given: Sequence[dict[str, Any]], calls: Sequence[ToolCall]) -> None:
        """Adds the answer to the history. What is no text and no call, such as thinking, goes back as it came."""
        waiting, blocks = list(calls), list[dict[str, Any]]()
        for block in given:
            if block.get("type") == "tool_use":
                call = waiting.pop(0)
                blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
            elif block.get("type") != "text":
                blocks.append({name: value for name, value in block.items() if value is not None})
            elif text := clean(block.get("text")):
                blocks.append({"type": "text", "text": text})
        if blocks:
            self._messages.append({"role": "assistant", "content": blocks})

    async def _create(self) -> str:
        """The body of the endpoint's answer, whatever it is."""
        try:
            answer = await self._client.messages.with_raw_response.create(
                model=self._plan.model,
                max_tokens=TURN_TOKENS,
                system=self._system,
                tools=cast(Any, self._tools),
                messages=cast(Any, self._messages),
            )
            return answer.http_response.text
        except anthropic.APIStatusError as error:
            raise refused(self._plan, error.status_code, error.message) from error
        except anthropic.APIConnectionError as error:
            raise unreachable(self._plan, error) from error
        except anthropic.AnthropicError as error:
            raise ModelFailed(f"{self._plan.where} answered what cannot be read: {type(error).__name__}.") from error

    async def aclose(self) -> None:
        await self._client.close()
