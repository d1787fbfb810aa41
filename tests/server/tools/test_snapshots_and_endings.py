"""What a trial was planned from, and what the end of a study writes: only what its caller said, and only in time."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from memory.store import Memory
from server.drive.autopilot import Autopilot
from tests.support.tool_client import ToolClient, by_dropout, tool_client
from trainers.contract.wire import TrialSpec

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def snapshots(memory: Memory) -> int:
    with memory._connection.read() as cursor:  # pyright: ignore[reportPrivateUsage]
        return cursor.rows("SELECT count(*) AS n FROM snapshots")[0]["n"]


async def planned_from(at: ToolClient, study_id: str, **arguments: Any) -> str | None:
    answer = await at.call("run_trial", study_id=study_id, **arguments)
    return at.runtime.memory.trial(answer["trial_id"]).snapshot_id


async def noted(at: ToolClient) -> str:
    """A study with a note, so that a read of its memory shows something else than its brief."""
    study_id = (await at.call("start_study", dataset="demo"))["study_id"]
    await at.call("write_heuristic", study_id=study_id, kind="heuristic", text="Less dropout is better here.")
    return study_id


async def test_a_trial_is_planned_from_what_its_caller_passed_not_from_who_looked_last(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await noted(at)
        mine = (await at.call("read_memory", study_id=study_id))["snapshot_id"]
        theirs = (await at.call("read_memory", study_id=study_id, level="trial"))["snapshot_id"]
        assert mine != theirs
        assert await planned_from(at, study_id, snapshot_id=mine) == mine
        assert await planned_from(at, study_id, changes={"dropout": 0.1}) is None


async def test_a_snapshot_that_does_not_exist_is_refused_and_nothing_is_trained(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        text = await at.refused("run_trial", study_id=study_id, snapshot_id="r-nowhere")
        assert text == (
            "Unknown snapshot 'r-nowhere'; pass the snapshot_id that start_study or read_memory returned, or leave it "
            "out."
        )
        assert at.runtime.memory.trials(study_id) == []


async def test_the_same_look_at_a_study_is_one_snapshot(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await noted(at)
        first, again = [await at.call("read_memory", study_id=study_id) for _ in range(2)]
        assert first["snapshot_id"] == again["snapshot_id"]
        await at.call("write_heuristic", study_id=study_id, kind="heuristic", text="More epochs do not matter at all.")
        assert (await at.call("read_memory", study_id=study_id))["snapshot_id"] != first["snapshot_id"]


async def test_reads_of_the_server_itself_leave_no_snapshot(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await noted(at)
        await at.call("run_trial", study_id=study_id)
        before = snapshots(at.runtime.memory)
        for tool in ("suggest_trial", "get_study"):
            await at.call(tool, study_id=study_id)
        for path in ("trials", "notes", "page", "elsewhere", "space"):
            await at.client.read_resource(f"virtualmle://studies/{study_id}/{path}")
        assert snapshots(at.runtime.memory) == before


async def test_a_policy_passes_the_snapshot_of_its_brief_and_leaves_at_most_that_one(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        started = await at.call("start_study", dataset="demo")
        study_id, memory = started["study_id"], at.runtime.memory
        before = snapshots(memory)
        await at.call("run_policy", study_id=study_id, policy="random", max_trials=1)
        await at.call("get_study", study_id=study_id, wait_seconds=60)
        trials = memory.trials(study_id)
        assert {trial.snapshot_id for trial in trials} == {started["brief"]["snapshot_id"]}
        assert snapshots(memory) == before


async def test_runs_of_policies_and_snapshots_have_ids_of_their_own(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        started = await at.call("start_study", dataset="demo")
        await at.call("run_policy", study_id=started["study_id"], policy="random", max_trials=1)
        run = at.runtime.memory.runs.last(started["study_id"])
        assert isinstance(at.runtime.autopilot, Autopilot)
        assert run is not None
        assert (run.run_id[:2], started["brief"]["snapshot_id"][:2]) == ("p-", "r-")


def summaries(at: ToolClient, study_id: str) -> list[str]:
    return [note.text for note in at.runtime.memory.notes(study_id=study_id, kind="summary")]


async def test_a_refused_end_writes_no_summary(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        await at.call("run_trial", study_id=study_id)
        at.executor.gate.clear()
        running = await at.call("run_trial", study_id=study_id, changes={"dropout": 0.1}, wait_seconds=0)
        refusal = await at.refused("finish_study", study_id=study_id, summary="Too early.")
        assert f"Trial {running['trial_id']!r} is still" in refusal
        await at.refused("finish_study", study_id=study_id)
        assert summaries(at, study_id) == []
        at.executor.gate.set()
        await at.call("get_trial", trial_id=running["trial_id"], wait_seconds=60)
        await at.call("finish_study", study_id=study_id, summary="In time.")
        assert summaries(at, study_id) == ["In time."]


async def test_nobody_who_has_seen_the_test_writes_a_summary(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        await at.call("run_trial", study_id=study_id)
        first = await at.call("finish_study", study_id=study_id, summary="Before the test.")
        again = await at.call("finish_study", study_id=study_id, summary="The test said so.")
        assert again == first
        late = await at.refused("write_heuristic", study_id=study_id, kind="summary", text="The test said so.")
        assert f"Study {study_id!r} is finished: a summary is written before its test is read." in late
        assert summaries(at, study_id) == ["Before the test."]


async def test_two_calls_at_once_end_a_study_once(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        await at.call("run_trial", study_id=study_id)
        calls = [at.call("finish_study", study_id=study_id, summary=f"Summary {n}.") for n in range(2)]
        one, other = await asyncio.gather(*calls)
        assert (one, one["test_reveal"]) == (other, 1)
        assert len(summaries(at, study_id)) == 1


async def test_a_summary_never_praises_what_may_not_be_chosen(tmp_path: Path) -> None:
    def covered(trial: TrialSpec) -> Any:
        """Less dropout scores higher, and recommends fewer items."""
        answer = by_dropout(trial)
        assert answer.result is not None
        measures = {"coverage@10": float(trial.config["dropout"])}
        return answer.model_copy(update={"result": answer.result.model_copy(update={"measures": measures})})

    async with tool_client(tmp_path, covered) as at:
        limits = {"coverage@10": {"min": 0.3}}
        study_id = (await at.call("start_study", dataset="demo", guardrails=limits))["study_id"]
        for changes in ({}, {"dropout": 0.1}):
            await at.call("run_trial", study_id=study_id, changes=changes)
        await at.call("finish_study", study_id=study_id)
        (summary,) = summaries(at, study_id)
        assert "Best: the default" in summary
        assert "Helped beyond noise: nothing." in summary
        assert "dropout 0.1" not in summary


async def test_where_every_configuration_violates_a_guardrail_the_summary_says_so(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        limits = {"recall@10": {"min": 0.99}}
        study_id = (await at.call("start_study", dataset="demo", guardrails=limits))["study_id"]
        await at.call("run_trial", study_id=study_id)
        await at.call("finish_study", study_id=study_id)
        (summary,) = summaries(at, study_id)
        assert "Every configuration violates a guardrail (recall@10)." in summary
        assert "Best:" not in summary
