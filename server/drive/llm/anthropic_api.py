"""The dialogue over Anthropic's Messages API, through its SDK."""

from __future__ import annotations

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
    missing_key,
    refused,
    unreachable,
)
from server.drive.plan import ModelPlan

TURN_TOKENS = 8192


class AnthropicDialogue(Dialogue):
    def __init__(self, plan: ModelPlan, key: str | None) -> None:
        self._plan = plan
        self._client = anthropic.AsyncAnthropic(api_key=key, base_url=plan.base_url, max_retries=plan.retries)
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
        message = await self._create()
        blocks = [block.model_dump(mode="json", exclude_none=True) for block in message.content]
        if blocks:
            self._messages.append({"role": "assistant", "content": blocks})
        text = "\n".join(str(block["text"]) for block in blocks if block["type"] == "text")
        calls = tuple(_call(block) for block in blocks if block["type"] == "tool_use")
        read = message.usage.input_tokens
        return Turn(text, calls, read + message.usage.output_tokens, message.stop_reason == "max_tokens", read)

    async def _create(self) -> anthropic.types.Message:
        try:
            return await self._client.messages.create(
                model=self._plan.model,
                max_tokens=TURN_TOKENS,
                system=self._system,
                tools=cast(Any, self._tools),
                messages=cast(Any, self._messages),
            )
        except anthropic.APIStatusError as error:
            raise refused(self._plan, error.status_code, error.message) from error
        except anthropic.APIConnectionError as error:
            raise unreachable(self._plan, error) from error
        except anthropic.AnthropicError as error:
            raise ModelFailed(f"{self._plan.provider} answered what cannot be read: {type(error).__name__}.") from error

    async def aclose(self) -> None:
        await self._client.close()


def _call(block: dict[str, Any]) -> ToolCall:
    arguments = block.get("input")
    if isinstance(arguments, dict):
        return ToolCall(block["id"], block["name"], cast(dict[str, Any], arguments))
    return ToolCall(block["id"], block["name"], {}, f"input must be a JSON object; got {arguments!r}.")
