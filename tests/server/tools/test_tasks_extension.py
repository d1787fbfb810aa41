"""Trials as tasks: for a client that knows tasks, over the end of the owner, and for nobody else."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from mcp import Client, MCPError
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.types import CallToolResult, Request, RequestParams, Result
from pydantic import ConfigDict, Field

from server.executors.testing.stub import StubExecutor
from server.owner.assembly import open_runtime
from server.runtime import Runtime
from server.settings import Settings
from server.tools import tasks_extension
from server.tools.app import create_app
from server.tools.tasks_extension import TASKS, TasksExtension, home_secret
from tests.support.tool_client import ToolClient, by_dropout
from trainers.contract.wire import TrialSpec

pytestmark = pytest.mark.anyio


class Created(Result):
    result_type: Literal["task"] = Field("task", alias="resultType")
    task_id: str = Field(alias="taskId")
    status: str


class Detailed(Result):
    model_config = ConfigDict(extra="allow")
    result_type: Literal["complete"] = Field("complete", alias="resultType")
    status: str = ""
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class TaskParams(RequestParams):
    task_id: str = Field(serialization_alias="taskId")


class Asked(Request[TaskParams, str]):
    name_param = "taskId"


class KnowsTasks(ClientExtension):
    """Keeps the ids of the tasks that calls became."""

    identifier = TASKS

    def __init__(self) -> None:
        self.ids: list[str] = []

    def claims(self) -> Any:
        return (ResultClaim(result_type="task", model=Created, resolve=self._resolve),)

    async def _resolve(self, created: Created, context: ClaimContext) -> CallToolResult:
        self.ids.append(created.task_id)
        return CallToolResult(content=[], structured_content={"status": created.status})


async def ask(client: Client, method: str, task_id: str) -> Detailed:
    asked: Any = Asked(method=method, params=TaskParams(task_id=task_id))
    return await client.session.send_request(asked, Detailed)


class Home:
    def __init__(self, folder: Path, train: Callable[[TrialSpec], Any] = by_dropout) -> None:
        self.settings, self.executor, self.tasks = Settings(home=folder), StubExecutor(train), KnowsTasks()


@asynccontextmanager
async def held(home: Home) -> AsyncIterator[tuple[Runtime, Client, str]]:
    """A client that knows tasks, and its study with one trial in training, which is held."""
    home.executor.gate.clear()
    async with (
        open_runtime(home.settings, home.executor) as runtime,
        Client(create_app(runtime), extensions=[home.tasks]) as client,
    ):
        study = (await ToolClient(client, runtime, home.executor).call("start_study", dataset="demo"))["study_id"]
        answer = await client.call_tool("run_trial", {"study_id": study, "wait_seconds": 200})
        assert answer.structured_content == {"status": "working"}
        yield runtime, client, study


async def test_a_trial_is_a_task_that_tells_of_it_to_its_end(tmp_path: Path) -> None:
    home = Home(tmp_path)
    async with held(home) as (runtime, client, study):
        (task_id,) = home.tasks.ids
        assert (await ask(client, "tasks/get", task_id)).status == "working"
        home.executor.gate.set()
        (trial,) = runtime.memory.trials(study)
        await runtime.supervisor.wait(trial.trial_id, 20)
        done = await ask(client, "tasks/get", task_id)
        assert done.status == "completed"
        assert done.result is not None
        assert done.result["structuredContent"]["trial_id"] == trial.trial_id
        assert done.result["structuredContent"]["status"] == "ok"
        repeated = await client.call_tool("run_trial", {"study_id": study, "seed": trial.seed, "changes": {}})
        assert repeated.structured_content is not None
        assert repeated.structured_content["duplicate"] is True


async def test_cancelling_a_task_cancels_its_trial_and_again_does_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    async with held(home) as (runtime, client, study):
        for _ in range(2):
            await ask(client, "tasks/cancel", home.tasks.ids[0])
        assert (await ask(client, "tasks/get", home.tasks.ids[0])).status == "cancelled"
        assert [trial.status for trial in runtime.memory.trials(study)] == ["cancelled"]


async def test_a_task_survives_the_owner_and_says_what_became_of_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    async with held(home):
        await home.executor.started.get()
    async with (
        open_runtime(home.settings, StubExecutor(by_dropout)) as runtime,
        Client(create_app(runtime), extensions=[KnowsTasks()]) as client,
    ):
        found = await ask(client, "tasks/get", home.tasks.ids[0])
        assert found.status == "failed"
        assert found.error is not None
        assert "the same run_trial starts a new attempt" in found.error["message"]


async def test_who_knows_no_tasks_waits_as_before_and_cannot_ask(tmp_path: Path) -> None:
    home = Home(tmp_path)
    async with open_runtime(home.settings, home.executor) as runtime, Client(create_app(runtime)) as client:
        at = ToolClient(client, runtime, home.executor)
        study = (await at.call("start_study", dataset="demo"))["study_id"]
        assert (await at.call("run_trial", study_id=study))["status"] == "ok"
        with pytest.raises(MCPError) as refused:
            await ask(client, "tasks/get", "trial.t-x.0.0")
        assert refused.value.error.code == -32021


async def test_ids_that_are_forged_or_expired_are_no_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    async with held(home) as (_, client, _):
        task_id = home.tasks.ids[0]
        name, key, since, signature = task_id.split(".")
        forged = (f"{name}.t-other.{since}.{signature}", f"{name}.{key}.{since}.", "é", "", f"{task_id[:-1]}x")
        for wrong in forged:
            with pytest.raises(MCPError, match="no such task"):
                await ask(client, "tasks/get", wrong)
        monkeypatch.setattr(tasks_extension, "TTL", timedelta(seconds=-1))
        with pytest.raises(MCPError, match=f"expired; what it stood for, {key}, is kept"):
            await ask(client, "tasks/get", task_id)


def test_a_task_is_bound_to_the_token_that_it_was_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    extension = TasksExtension(lambda: b"s" * 32, [])
    found = [extension._signature("trial", "t-1", "0")]
    for who in ("ann", "bob"):
        token = type("Token", (), {"client_id": who})()
        monkeypatch.setattr(tasks_extension, "get_access_token", lambda token=token: token)
        found.append(extension._signature("trial", "t-1", "0"))
    assert len(set(found)) == 3


def test_the_secret_of_a_home_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "task.key"
    path.write_bytes(b"")  # a first start that was cut off
    secret = home_secret(path)
    assert home_secret(path) == secret
    assert len(secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600
