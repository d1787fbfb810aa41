"""A client of the MCP tools over a stub executor, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import Client

from server.executors.testing.stub import Answer, StubExecutor, curve
from server.owner.assembly import open_runtime
from server.runtime import Runtime
from server.settings import Settings
from server.tools.app import create_app
from tests.support.texts import text
from trainers.contract.wire import TrialSpec


class ToolClient:
    """A client of one runtime, with calls that fail loudly or return the error's text."""

    def __init__(self, client: Client, runtime: Runtime, executor: StubExecutor) -> None:
        self.client, self.runtime, self.executor = client, runtime, executor

    async def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        answer = await self.client.call_tool(name, arguments)
        assert not answer.is_error, answer.content
        assert answer.structured_content is not None
        return answer.structured_content

    async def refused(self, name: str, **arguments: Any) -> str:
        answer = await self.client.call_tool(name, arguments)
        assert answer.is_error, answer.structured_content
        return text(answer)


@asynccontextmanager
async def tool_client(
    home: Path, train: Callable[[TrialSpec], Answer] | None = None, **more: Any
) -> AsyncIterator[ToolClient]:
    executor = StubExecutor(train or by_dropout, **more)
    async with (
        open_runtime(Settings(home=home), executor) as runtime,
        Client(create_app(runtime)) as client,
    ):
        yield ToolClient(client, runtime, executor)


def by_dropout(trial: TrialSpec) -> Answer:
    """Less dropout scores higher; a seed moves the score by a thousandth."""
    return curve(trial, best=(0.2 - 0.2 * float(trial.config["dropout"])) * (1 + 0.001 * trial.seed))
