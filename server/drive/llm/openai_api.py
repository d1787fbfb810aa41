"""The dialogue over the chat completions API, through OpenAI's SDK: OpenAI, vLLM, Ollama and others that speak it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import openai

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
from server.drive.llm.reading import clean, member, members, parsed, tokens, tool_calls
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
        http = openai.DefaultAsyncHttpxClient(trust_env=False) if is_here(self._plan) else None
        return openai.AsyncOpenAI(
            api_key=key, base_url=self._plan.base_url, max_retries=self._plan.retries, http_client=http
        )

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
        body = await self._create()
        answer = parsed(self._plan, body)
        choice = next(iter(members(answer.get("choices"))), None)
        if choice is None:
            raise ModelFailed(f"{self._plan.where} answered without a choice.")
        message, usage = member(choice, "message"), answer.get("usage")
        text = _text(member(message, "content"))
        asked = members(member(message, "tool_calls"))
        functions = [(call.get("id"), member(call, "function")) for call in asked]
        calls = tool_calls(
            [(id, member(call, "name"), member(call, "arguments")) for id, call in functions], len(self._messages)
        )
        read = tokens(usage, "prompt_tokens", json.dumps([self._messages, self._tools]))
        self._remember(text, calls)
        total = max(tokens(usage, "total_tokens", ""), read + tokens(usage, "completion_tokens", body))
        return Turn(text, calls, total, member(choice, "finish_reason") == "length", read)

    def _remember(self, text: str, calls: Sequence[ToolCall]) -> None:
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

    async def _create(self) -> str:
        """The body of the endpoint's answer, whatever it is."""
        try:
            answer = await self._client.chat.completions.with_raw_response.create(
                model=self._plan.model, messages=cast(Any, self._messages), tools=cast(Any, self._tools)
            )
            return answer.http_response.text
        except openai.APIStatusError as error:
            raise refused(self._plan, error.status_code, error.message) from error
        except openai.APIConnectionError as error:
            raise unreachable(self._plan, error) from error
        except openai.OpenAIError as error:
            raise ModelFailed(f"{self._plan.where} answered what cannot be read: {type(error).__name__}.") from error

    async def aclose(self) -> None:
        await self._client.close()


def _text(content: object) -> str:
    """The text of a message: a string, or the texts of its parts."""
    return clean(content) if isinstance(content, str) else "\n".join(clean(p.get("text")) for p in members(content))
