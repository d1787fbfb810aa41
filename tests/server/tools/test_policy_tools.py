"""Unattended work: policies that play inside the owner, beside a chat, over its end and the owner's."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from server.executors.testing.stub import Answer, StubExecutor
from server.owner.assembly import open_runtime
from server.runtime import Runtime
from server.settings import Settings
from server.tools.app import create_app
from tests.support.texts import text
from tests.support.tool_client import ToolClient, by_dropout, tool_client
from trainers.contract.wire import TrialSpec

pytestmark = pytest.mark.anyio


async def opened(at: ToolClient, **more: Any) -> str:
    return (await at.call("start_study", dataset="demo", **more))["study_id"]


async def played(at: ToolClient, study: str) -> dict[str, Any]:
    """The study once the policy that plays it has ended, with its whole table."""
    found = await at.call("get_study", study_id=study, wait_seconds=200, limit=100)
    page = found
    while page["truncated"]:
        page = await at.call("get_study", study_id=study, limit=100, cursor=page["cursor"])
        found["table"] += page["table"]
    return found


async def test_a_policy_plays_on_its_own_and_the_study_says_how_far_it_is(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = await opened(at)
        began = await at.call("run_policy", study_id=study, policy="playbook", max_trials=4)
        assert began["policy"] == {"policy": "playbook", "status": "running", "until_trials": 4}
        assert began["trainings"] == 0
        found = await played(at, study)
        assert found["policy"]["status"] == "done"
        assert found["configurations"] == len(found["table"]) == 4
        means = [line["mean"] for line in found["table"]]
        assert means == sorted(means, reverse=True)
        assert found["best"]["mean"] == means[0]
        default = next(line for line in found["table"] if line["number"] == 0)
        assert (default["changes"], default["trainings"]) == ({}, 3)
        assert found["best_delta"] == pytest.approx(means[0] / default["mean"] - 1, abs=1e-4)
        notes = (await at.call("read_memory", study_id=study, level="reflection"))["items"]
        assert len(notes) >= 3


async def test_pages_of_a_study_are_asked_for_by_cursor(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = await opened(at)
        await at.call("run_policy", study_id=study, policy="playbook", max_trials=5)
        whole = await played(at, study)
        first = await at.call("get_study", study_id=study, limit=3)
        assert (first["truncated"], first["cursor"]) == (True, "3")
        rest = await at.call("get_study", study_id=study, limit=3, cursor="3")
        assert rest["truncated"] is False
        assert [*first["table"], *rest["table"]] == whole["table"]
        assert "cursor='x' is not one" in await at.refused("get_study", study_id=study, cursor="x")


async def test_an_answer_stays_short_however_much_configurations_differ(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = await opened(at)
        await at.call("run_policy", study_id=study, policy="random", max_trials=20)
        whole = await played(at, study)
        assert len(whole["table"]) == whole["configurations"] == 20
        answer = await at.client.call_tool("get_study", {"study_id": study})
        assert len(text(answer)) < 1200 * 4


async def test_a_policy_keeps_to_the_memory_switch_of_its_study(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        before = await opened(at)
        await at.call("run_trial", study_id=before)
        for seed in (0, 1, 2):
            await at.call("run_trial", study_id=before, changes={"dropout": 0.05}, seed=seed)
        for options, remembers in (("{}", True), ('{"memory": "off"}', False)):
            study = await opened(at, space={"learning_rate": 0.002}, drive_options=options)
            await at.call("run_policy", study_id=study, policy="playbook", max_trials=4, finish=True)
            table = (await played(at, study))["table"]
            tried = {line["number"]: line["changes"] for line in table}
            assert (tried[1] == {"dropout": 0.05}) is remembers, tried
            items = (await at.call("read_memory", study_id=study, level="heuristic"))["items"]
            assert any(item["study_id"] == study for item in items) is remembers


async def test_finish_reveals_the_test_at_the_end(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = await opened(at)
        await at.call("run_policy", study_id=study, policy="random", max_trials=2, finish=True)
        found = await played(at, study)
        assert found["status"] == "finished"
        assert (await at.call("finish_study", study_id=study))["test_reveal"] == 1
        assert "is finished" in await at.refused("run_policy", study_id=study)


async def test_a_chat_trains_beside_a_policy_which_learns_of_it_and_trains_its_own_number(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = await opened(at)
        at.executor.gate.clear()
        await at.call("run_policy", study_id=study, policy="playbook", max_trials=3)
        await at.executor.started.get()
        mine = await at.call("run_trial", study_id=study, changes={"dropout": 0.05}, wait_seconds=0)
        at.executor.gate.set()
        found = await played(at, study)
        assert (found["configurations"], found["policy"]["until_trials"]) == (4, 4)
        line = next(line for line in found["table"] if line["trial_id"] == mine["trial_id"])
        assert line["changes"] == {"dropout": 0.05}


async def test_a_second_policy_waits_for_the_end_of_the_first(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study, other = await opened(at), await opened(at)
        at.executor.gate.clear()
        await at.call("run_policy", study_id=study, policy="random")
        refusal = await at.refused("run_policy", study_id=study, policy="tpe")
        assert "'random' already" in refusal
        assert "cancel_study" in refusal
        await at.call("run_policy", study_id=other, policy="random", max_trials=1)
        at.executor.gate.set()
        await played(at, other)
        await at.call("cancel_study", study_id=study)


async def test_cancelling_a_study_ends_policy_and_trial_and_leaves_it_open(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = await opened(at)
        at.executor.gate.clear()
        await at.call("run_policy", study_id=study, policy="random")
        await at.executor.started.get()
        ended = await at.call("cancel_study", study_id=study)
        assert (ended["status"], ended["policy"]["status"], ended["running"]) == ("open", "cancelled", [])
        assert [line["status"] for line in ended["table"]] == ["cancelled"]
        at.executor.gate.set()
        assert (await at.call("run_trial", study_id=study, changes={"dropout": 0.3}))["status"] == "ok"
        again = await at.call("cancel_study", study_id=study)
        assert again["policy"]["status"] == "cancelled"


async def test_a_time_budget_ends_a_policy(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = await opened(at)
        await at.call("run_policy", study_id=study, policy="random", max_trials=500, budget_seconds=0.05)
        found = await played(at, study)
        assert found["policy"]["status"] == "done"
        assert found["configurations"] < 500


async def test_unknown_policies_and_studies_are_refused(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = await opened(at)
        assert "'playbook'" in await at.refused("run_policy", study_id=study, policy="llm")
        assert "s-nowhere" in await at.refused("run_policy", study_id="s-nowhere")
        assert "s-nowhere" in await at.refused("get_study", study_id="s-nowhere", wait_seconds=1)
        assert "s-nowhere" in await at.refused("cancel_study", study_id="s-nowhere")
        assert "s-nowhere" in await at.refused("suggest_trial", study_id="s-nowhere")
        assert (await at.call("get_study", study_id=study))["trainings"] == 0


async def test_a_policy_that_fails_says_so_in_its_study(tmp_path: Path) -> None:
    def broken(trial: TrialSpec) -> Answer:
        raise OSError(28, "No space left on device")

    async with tool_client(tmp_path, broken) as at:
        study = await opened(at)
        await at.call("run_policy", study_id=study, policy="random", max_trials=2)
        found = await played(at, study)
        assert found["policy"]["status"] in ("done", "failed")
        assert "No space left on device" in str(found["policy"])


async def test_a_policy_goes_on_with_the_next_owner(tmp_path: Path) -> None:
    """The first owner ends in the middle of a training; the second one needs no call to go on."""

    def runtime_over(executor: StubExecutor) -> AbstractAsyncContextManager[Runtime]:
        return open_runtime(Settings(home=tmp_path), executor)

    begun: list[str] = []

    def held_at_the_second(trial: TrialSpec) -> Answer:
        begun.append(trial.trial_id)
        if len(begun) == 2:
            first.gate.clear()
        return by_dropout(trial)

    first = StubExecutor(held_at_the_second)
    async with runtime_over(first) as runtime, Client(create_app(runtime)) as client:
        at = ToolClient(client, runtime, first)
        study = await opened(at)
        await at.call("run_policy", study_id=study, policy="random", max_trials=3, finish=True)
        assert [await first.started.get() for _ in range(2)] == begun
    second = StubExecutor(by_dropout)
    async with runtime_over(second) as runtime, Client(create_app(runtime)) as client:
        at = ToolClient(client, runtime, second)
        found = await played(at, study)
        assert (found["status"], found["policy"]["status"]) == ("finished", "done")
        assert found["configurations"] == 3
        assert all("mean" in line for line in found["table"])
        assert {line["trial_id"] for line in found["table"]} >= set(begun[:1])


async def test_a_client_that_leaves_leaves_the_policy_playing(tmp_path: Path) -> None:
    executor = StubExecutor(by_dropout)
    executor.gate.clear()
    async with open_runtime(Settings(home=tmp_path), executor) as runtime:
        async with Client(create_app(runtime)) as client:
            study = await opened(ToolClient(client, runtime, executor))
            await ToolClient(client, runtime, executor).call(
                "run_policy", study_id=study, policy="random", max_trials=2
            )
        executor.gate.set()
        async with Client(create_app(runtime)) as client:
            assert (await played(ToolClient(client, runtime, executor), study))["configurations"] == 2


async def test_waiting_on_a_study_tells_progress(tmp_path: Path) -> None:
    heard: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)
        at.executor.gate.set()

    async with tool_client(tmp_path) as at:
        study = await opened(at)
        at.executor.gate.clear()
        await at.call("run_policy", study_id=study, policy="random", max_trials=1)
        at.runtime.autopilot.wait_for_end = _at_once
        arguments = {"study_id": study, "wait_seconds": 200}
        await at.client.call_tool("get_study", arguments, progress_callback=on_progress)
        assert heard == sorted(set(heard))
        assert heard


async def _at_once(study_id: str, seconds: float) -> bool:
    await asyncio.sleep(0)
    return False


async def test_suggestions_stand_side_by_side_and_train_nothing(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = await opened(at)
        assert (await at.call("suggest_trial", study_id=study))["suggestions"] == []
        first = (await at.call("run_trial", study_id=study))["trial_id"]
        found = await at.call("suggest_trial", study_id=study)
        assert [one["source"] for one in found["suggestions"]] == ["playbook", "tpe", "gp"]
        for one in found["suggestions"]:
            assert one["why"]
            assert one["parent"] == first
        assert (await at.call("get_study", study_id=study))["trainings"] == 1
        tried = found["suggestions"][0]
        assert (await at.call("run_trial", study_id=study, changes=tried["changes"]))["changes"] == tried["changes"]


async def test_memory_suggests_what_won_on_a_like_dataset(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        before = await opened(at)
        await at.call("run_trial", study_id=before)
        for seed in (0, 1, 2):
            await at.call("run_trial", study_id=before, changes={"dropout": 0.05}, seed=seed)
        study = await opened(at, space={"learning_rate": 0.002})
        await at.call("run_trial", study_id=study)
        found = (await at.call("suggest_trial", study_id=study))["suggestions"]
        assert found[0]["source"] == "memory"
        assert found[0]["changes"] == {"dropout": 0.05}
