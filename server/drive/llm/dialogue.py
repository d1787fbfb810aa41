"""A dialogue with a language model that calls tools, the same for every provider."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from server.client.endpoint import RemoteError, check_proxies, uses_proxies
from server.drive.plan import ModelPlan

PROVIDERS = {
    "anthropic": "server.drive.llm.anthropic_api:AnthropicDialogue",
    "openai": "server.drive.llm.openai_api:OpenAIDialogue",
    "replay": "server.drive.llm.transcript_replay:ReplayedDialogue",
}
CHARACTERS_PER_TOKEN = 4
"""Approximate, for English and JSON: no provider's tokenizer is used."""
KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
_TOO_LONG = re.compile(
    r"context.{0,20}(length|window|size)|(length|window|size).{0,20}context|too (long|many tokens)|max_new_tokens",
    re.IGNORECASE,
)
"""How endpoints say that a request outgrows the model's context."""
_SECRET = re.compile(r"\bsk-[\w*.-]+")


class ModelFailed(RuntimeError):
    """The model's endpoint cannot be used, or failed for good; the message says what to do."""


class ContextTooLong(ModelFailed):
    """The endpoint refused a request because it is longer than the model's context."""


@dataclass(frozen=True)
class ToolSpec:
    """A tool as it is described to a model."""

    name: str
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for. `problem` says why its arguments cannot be read."""

    id: str
    name: str
    arguments: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True)
class ToolOutcome:
    """The result of a call."""

    id: str
    text: str
    failed: bool = False


@dataclass(frozen=True)
class Turn:
    """One answer of the model. `cut`: it reached the maximum length. `tokens` counts those written and `read`."""

    text: str
    calls: tuple[ToolCall, ...]
    tokens: int
    cut: bool = False
    read: int = 0


class Dialogue(ABC):
    """Keeps the messages in the provider's own form. Use `async with`, then `begin`, then `turn` repeatedly."""

    @abstractmethod
    def __init__(self, plan: ModelPlan, key: str | None) -> None: ...

    @abstractmethod
    def begin(self, system: str, tools: Sequence[ToolSpec]) -> None:
        """Start a new dialogue with a system prompt and tools. Earlier messages are dropped."""

    @abstractmethod
    async def turn(self, user_text: str | None, outcomes: Sequence[ToolOutcome]) -> Turn:
        """Send a user message or the results of the last turn's calls; returns the answer. Raises ModelFailed."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


def open_dialogue(plan: ModelPlan) -> Dialogue:
    """The provider's dialogue; raises ModelFailed where its SDK or the key is missing."""
    module, name = PROVIDERS[plan.provider].split(":")
    try:
        kind: type[Dialogue] = getattr(import_module(module), name)
    except ImportError:
        raise ModelFailed(f"--policy llm needs the {plan.provider} SDK: pip install 'virtualmle[llm]'.") from None
    key = _read_key(plan.key_file) if plan.key_file else _key_of_environment(plan)
    if not is_here(plan) and plan.provider != "replay":
        try:
            check_proxies()
        except RemoteError as error:
            raise ModelFailed(str(error)) from None
    return kind(plan, key)


def is_here(plan: ModelPlan) -> bool:
    """Whether the endpoint is on this machine, where no proxy stands in between."""
    url = plan.base_url or os.environ.get(f"{plan.provider.upper()}_BASE_URL")
    return url is not None and not uses_proxies(url)


def _read_key(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFailed(f"--key-file {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if not _is_key(text):
        raise ModelFailed(f"--key-file {path} must hold one key and nothing else.")
    return text


def _key_of_environment(plan: ModelPlan) -> str | None:
    """The key in the environment; None where there is none, or where the SDK finds another way."""
    name = KEYS.get(plan.provider, "")
    key = os.environ.get(name, "").strip()
    if key and not _is_key(key):
        raise ModelFailed(f"{name} holds a blank, a line break or another character that no key has: set it anew.")
    return key or None


def _is_key(text: str) -> bool:
    return text.isascii() and text.isprintable() and len(text.split()) == 1


def missing_key(plan: ModelPlan) -> ModelFailed:
    """The error for a provider without a key."""
    return ModelFailed(f"No key for {plan.provider}: set {KEYS[plan.provider]}, or give --key-file F.")


def refused(plan: ModelPlan, status: int, words: str) -> ModelFailed:
    """The error for a final HTTP failure. Its message holds no key."""
    where = plan.where
    reason = _SECRET.sub("sk-…", " ".join(words.split()))[:200]
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(words)):
        advice = "give the model a longer context, or lower --max-context"
        return ContextTooLong(f"{where} takes no request of this length (HTTP {status}: {reason}): {advice}.")
    if status in (401, 403):
        return ModelFailed(f"{where} refused the key (HTTP {status}): check {KEYS[plan.provider]} or --key-file.")
    if status == 404:
        return ModelFailed(f"{where} knows no model {plan.model!r} (HTTP 404): check --model and --base-url.")
    if status == 429:
        return ModelFailed(f"{where} admits no more requests now (HTTP 429), {plan.retries} retries included.")
    return ModelFailed(f"{where} failed (HTTP {status}): {reason}")


def unreachable(plan: ModelPlan, error: Exception) -> ModelFailed:
    """The error for an endpoint without a connection."""
    return ModelFailed(f"{plan.where} cannot be reached: {type(error).__name__}.")
