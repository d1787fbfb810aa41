"""The dialogue over the chat completions API, through OpenAI's SDK: OpenAI, vLLM, Ollama and others that speak it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import openai
from openai.types.chat import ChatCompletion

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


class OpenAIDialogue(Dialogue):
    def __init__(self, plan: ModelPlan, key: str | None) -> None:
        self._plan = plan
        try:
            self._client = self._open(key)
        except openai.OpenAIError:
            if plan.base_url is None:
                raise missing_key(plan) from None
            self._client = self._open("none")  # a self-hosted server often needs no key, the SDK always does
        self._messages: list[dict[str, Any]] = []
        self._tools: list[dict[str, Any]] = []

    def _open(self, key: str | None) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(api_key=key, base_url=self._plan.base_url, max_retries=self._plan.retries)

    def begin(self, system: str, tools: Sequence[ToolSpec]) -> None:
        self._messages = [{"role": "system", "content": system}]
        self._tools = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema},
            }
            for tool in tools
        ]

    async def turn(self, user_text: str | None, outcomes: Sequence[ToolOutcome]) -> Turn:
        for outcome in outcomes:
            text = f"Error: {outcome.text}" if outcome.failed else outcome.text
            self._messages.append({"role": "tool", "tool_call_id": outcome.id, "content": text})
        if user_text:
            self._messages.append({"role": "user", "content": user_text})
        completion = await self._create()
        if not completion.choices:
            raise ModelFailed(f"{self._plan.base_url or 'openai'} answered without a choice.")
        choice = completion.choices[0]
        calls = tuple(_call(call.model_dump()) for call in choice.message.tool_calls or ())
        self._remember(choice.message.content, calls)
        used = completion.usage
        total, read = (used.total_tokens, used.prompt_tokens) if used else (0, 0)
        return Turn(choice.message.content or "", calls, total, choice.finish_reason == "length", read)

    def _remember(self, text: str | None, calls: Sequence[ToolCall]) -> None:
        """Adds the answer to the history. Arguments that were not JSON become an empty object: servers refuse them."""
        message: dict[str, Any] = {"role": "assistant", "content": text or ("" if not calls else None)}
        if calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
                }
                for call in calls
            ]
        self._messages.append(message)

    async def _create(self) -> ChatCompletion:
        try:
            return await self._client.chat.completions.create(
                model=self._plan.model, messages=cast(Any, self._messages), tools=cast(Any, self._tools)
            )
        except openai.APIStatusError as error:
            raise refused(self._plan, error.status_code, error.message) from error
        except openai.APIConnectionError as error:
            raise unreachable(self._plan, error) from error
        except openai.OpenAIError as error:
            raise ModelFailed(f"{self._plan.provider} answered what cannot be read: {type(error).__name__}.") from error

    async def aclose(self) -> None:
        await self._client.close()


def _call(call: dict[str, Any]) -> ToolCall:
    function: dict[str, Any] = call.get("function") or {}
    name, text = str(function.get("name")), str(function.get("arguments") or "{}")
    try:
        arguments = json.loads(text)
    except ValueError as error:
        return ToolCall(call["id"], name, {}, f"arguments are not JSON ({error}); send one JSON object.")
    if not isinstance(arguments, dict):
        return ToolCall(call["id"], name, {}, f"arguments must be a JSON object; got {text!r}.")
    return ToolCall(call["id"], name, cast(dict[str, Any], arguments))
