"""Four stdio clients and one over HTTP on one home at once: nothing lost, nothing mixed, whoever is killed."""

import sys
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from server.client.home import OWNER_ENDED
from tests.support.owners import CLONE, bridge, bridges, environment, foreground, kill, new_study, owner_of
from tests.support.texts import text

pytestmark = pytest.mark.anyio
SPACE = {"max_epochs": 1}
STDIO = 4


async def called(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, text(answer)
    assert answer.structured_content is not None
    return answer.structured_content


async def tuned(client: Client, dropout: float, found: dict[str, list[float]]) -> None:
    """A study of two trials, each of a dropout that is this client's own."""
    study = await new_study(client, space=SPACE)
    for change in (dropout, dropout + 0.05):
        trial = await called(client, "run_trial", study_id=study, changes={"dropout": change}, wait_seconds=0)
        while trial["status"] in ("queued", "running"):
            trial = await called(client, "get_trial", trial_id=trial["trial_id"], wait_seconds=45)
        assert (trial["study_id"], trial["status"]) == (study, "ok")
    table = (await called(client, "get_study", study_id=study))["table"]
    found[study] = sorted(line["changes"].get("dropout", 0.5) for line in table)


async def test_five_clients_at_once_each_have_their_own_study(home: Path, tmp_path: Path) -> None:
    tokens, found = tmp_path / "tokens", dict[str, list[float]]()
    tokens.write_text("ann-token-of-a-test ann\n")
    with foreground(home, "--token-file", tokens):
        url = f"{owner_of(home).url}/mcp"

        async def over_stdio(number: int) -> None:
            async with Client(bridge(home), mode="auto" if number % 2 else "legacy") as client:
                await tuned(client, 0.1 * (number + 1), found)

        async def over_http() -> None:
            async with (
                httpx2.AsyncClient(
                    headers={"authorization": "Bearer ann-token-of-a-test"}, trust_env=False, timeout=60
                ) as http,
                Client(streamable_http_client(url, http_client=http)) as client,
            ):
                await tuned(client, 0.6, found)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(over_http)
            for number in range(STDIO):
                tasks.start_soon(over_stdio, number)
    assert len(found) == STDIO + 1
    expected = sorted([round(0.1 * (number + 1), 2), round(0.1 * (number + 1) + 0.05, 2)] for number in range(STDIO))
    assert sorted([round(value, 2) for value in values] for values in found.values()) == [*expected, [0.6, 0.65]]


@pytest.mark.timeout(600)
async def test_whoever_is_killed_nothing_is_lost_and_the_next_step_is_said(home: Path) -> None:
    """In turn, amid a training each: a client, its bridge, and the owner."""
    async with Client(bridge(home)) as watcher:
        # A client that is killed: its trial goes on.
        client = await anyio.open_process(
            [
                sys.executable, "-c",
                f"import anyio; from tests.support.owners import train; anyio.run(train, {str(home)!r})",
            ],
            cwd=CLONE, env=environment(),
        )  # fmt: skip
        seen = [first := await _training(watcher)]
        kill(client.pid)
        await client.aclose()
        ended = await called(watcher, "get_trial", trial_id=first["trial_id"], wait_seconds=200)
        assert ended["status"] == "ok"

        # A bridge that is killed: the same, and another one finds it.
        before = {process.pid for process in bridges(home)}

        async def lost() -> None:
            async with Client(bridge(home)) as client:
                study = await new_study(client, space={"dropout": 0.3})
                with pytest.raises(MCPError, match="Connection closed"):
                    await client.call_tool("run_trial", {"study_id": study, "wait_seconds": 200})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lost)
            seen.append(await _training(watcher, but=first["trial_id"]))
            for process in bridges(home):
                if process.pid not in before:
                    kill(process.pid)
        second = seen[1]["trial_id"]
        assert (await called(watcher, "get_trial", trial_id=second, wait_seconds=200))["status"] == "ok"

        # The owner that is killed: the call says what to do, and the trial is tried again.
        study, answers = await new_study(watcher, space={"dropout": 0.4}), list[Any]()

        async def waiting() -> None:
            answers.append(await watcher.call_tool("run_trial", {"study_id": study, "wait_seconds": 200}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waiting)
            seen.append(await _training(watcher, but=second))
            kill(owner_of(home).pid)
        third = seen[2]["trial_id"]
        assert (answers[0].is_error, text(answers[0])) == (True, OWNER_ENDED)
        table = (await called(watcher, "get_study", study_id=study))["table"]
        assert [(line["trial_id"], line["status"]) for line in table] == [(third, "interrupted")]
        again = await called(watcher, "run_trial", study_id=study, wait_seconds=200)
        assert (again["trial_id"], again["status"]) == (third, "ok")
        for study_id in (one["study_id"] for one in seen):
            assert (await called(watcher, "get_study", study_id=study_id))["trainings"] == 1
    assert not [process for process in psutil.process_iter() if str(home / "trials") in " ".join(_words(process))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def _training(watcher: Client, but: str = "") -> dict[str, Any]:
    """The newest trial, once it trains."""
    with anyio.fail_after(60):
        while True:
            listed = await called(watcher, "read_memory", limit=5)
            for study in listed["studies"]:
                for trial_id in (await called(watcher, "get_study", study_id=study["study_id"]))["running"]:
                    trial = await called(watcher, "get_trial", trial_id=trial_id)
                    if trial["status"] == "running" and trial_id != but:
                        return trial
            await anyio.sleep(0.05)
