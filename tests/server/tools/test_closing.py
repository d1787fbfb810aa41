"""A study closes before its sealed test is read: its choice is made, nothing more is trained, the look is counted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from memory.errors import MemoryFault
from memory.records import NewTrial
from server.executors.base import Exit
from server.executors.testing.stub import Answer, StubExecutor
from server.owner.assembly import open_runtime
from server.settings import Settings
from server.study.history import read_history
from server.study.requests import StudyRequest
from tests.support.tool_client import ToolClient, by_dropout, tool_client
from tests.support.trials import until
from trainers.contract.wire import EvaluationSpec, Revealed, TrialSpec

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def trained(at: ToolClient, **changes: Any) -> str:
    """A study whose default has been trained."""
    study_id = (await at.call("start_study", dataset="demo"))["study_id"]
    await at.call("run_trial", study_id=study_id)
    return study_id


class Held:
    """An evaluation that waits for `let_go`, and then scores every checkpoint alike or fails."""

    def __init__(self, fails: bool = False) -> None:
        self.requests: list[EvaluationSpec] = []
        self.fails = fails

    def __call__(self, request: EvaluationSpec) -> Revealed:
        self.requests.append(request)
        if self.fails:
            return Revealed(status="failed", message="the checkpoint is gone")
        return Revealed(
            status="ok", trials={checkpoint.trial_id: {"ndcg@10": 0.05} for checkpoint in request.checkpoints}
        )


async def test_while_the_test_is_read_no_trial_and_no_policy_is_admitted(tmp_path: Path) -> None:
    held = Held()
    async with tool_client(tmp_path, reveal=held) as at:
        study_id = await trained(at)
        at.executor.gate.clear()
        running = await at.call("finish_study", study_id=study_id, wait_seconds=0)
        assert running["status"] == "running"
        expected = (
            f"Study {study_id!r} is being finished: its choice is made, and only its fresh seeds are trained. "
            f"finish_study(study_id={study_id!r}) waits for the sealed test; start_study opens another study."
        )
        assert await at.refused("run_trial", study_id=study_id, changes={"dropout": 0.1}) == expected
        assert "is being finished" in await at.refused("run_policy", study_id=study_id, policy="random")
        assert (await at.call("get_study", study_id=study_id))["status"] == "closing"
        at.executor.gate.set()
        assert (await at.call("finish_study", study_id=study_id, wait_seconds=60))["status"] == "finished"
        assert len(at.runtime.memory.trials(study_id)) == 1


async def test_memory_itself_takes_no_trial_into_a_study_that_closes(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id, memory = await trained(at), at.runtime.memory
        (trial,) = memory.trials(study_id)
        memory.reveals.close(study_id, [trial.trial_id], [])
        with pytest.raises(MemoryFault, match="is being finished and takes no more trials"):
            memory.start_trial(NewTrial.model_validate(trial.model_dump(include=set(NewTrial.model_fields))))
        memory.reveals.close(study_id, ["t-other"], [])
        closing = memory.reveals.closing(study_id)
        assert closing is not None
        assert closing.chosen == (trial.trial_id,)


async def test_a_study_with_a_trial_under_way_cannot_close(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await trained(at)
        at.executor.gate.clear()
        await at.call("run_trial", study_id=study_id, changes={"dropout": 0.1}, wait_seconds=0)
        with pytest.raises(MemoryFault, match="so the study cannot close"):
            at.runtime.memory.reveals.close(study_id, [], [])
        assert not at.runtime.memory.study(study_id).closing
        at.executor.gate.set()


async def test_a_look_that_was_cut_off_counts_and_the_next_owner_goes_on_with_the_same_choice(tmp_path: Path) -> None:
    held = Held()
    async with tool_client(tmp_path, reveal=held) as at:
        study_id = await trained(at)
        (trial,) = at.runtime.memory.trials(study_id)
        at.executor.gate.clear()
        await at.call("finish_study", study_id=study_id, wait_seconds=0)
        await until(lambda: at.runtime.sealed_tests.active and _looks(at))
    executor = StubExecutor(by_dropout, reveal=held)
    async with open_runtime(Settings(home=tmp_path), executor) as runtime:
        await until(lambda: runtime.memory.study(study_id).finished)
        reveal = runtime.memory.reveals.of_study(study_id)
        assert reveal is not None
        assert (reveal.chosen, reveal.ordinal) == ((trial.trial_id,), 1)
    async with tool_client(tmp_path, reveal=held) as at:
        other = await trained(at)
        assert (await at.call("finish_study", study_id=other, wait_seconds=60))["test_reveal"] == 2


def _looks(at: ToolClient) -> int:
    with at.runtime.memory._connection.read() as cursor:  # pyright: ignore[reportPrivateUsage]
        return cursor.rows("SELECT count(*) AS looks FROM looks")[0]["looks"]


async def test_an_evaluation_that_fails_counts_as_a_look_and_may_be_repeated(tmp_path: Path) -> None:
    held = Held(fails=True)
    async with tool_client(tmp_path, reveal=held) as at:
        study_id = await trained(at)
        failing = await at.refused("finish_study", study_id=study_id, summary="First.", wait_seconds=60)
        assert "the checkpoint is gone" in failing
        assert _looks(at) == 1
        assert "is being finished" in await at.refused("run_trial", study_id=study_id, changes={"dropout": 0.1})
        held.fails = False
        ended = await at.call("finish_study", study_id=study_id, summary="Second.", wait_seconds=60)
        assert (ended["test_reveal"], len(held.requests)) == (1, 2)
        assert [note.text for note in at.runtime.memory.notes(study_id=study_id, kind="summary")] == ["First."]


async def test_a_study_that_trained_nothing_is_refused_not_finished(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        assert "has trained nothing" in await at.refused("finish_study", study_id=study_id, summary="Nothing.")
        at.executor.gate.clear()
        trial_id = (await at.call("run_trial", study_id=study_id, wait_seconds=0))["trial_id"]
        await at.call("cancel_trial", trial_id=trial_id)
        assert "has trained nothing" in await at.refused("finish_study", study_id=study_id)
        assert at.runtime.memory.notes(study_id=study_id) == []
        at.executor.gate.set()
        await at.call("run_trial", study_id=study_id)
        assert (await at.call("finish_study", study_id=study_id, wait_seconds=60))["status"] == "finished"


async def test_a_study_whose_trainings_all_failed_ends_without_a_look(tmp_path: Path) -> None:
    def crashes(trial: TrialSpec) -> Answer:
        return Answer(epochs=(), exit=Exit(cause="crashed", message="no luck"))

    async with tool_client(tmp_path, crashes) as at:
        study_id = await trained(at)
        ended = await at.call("finish_study", study_id=study_id, wait_seconds=60)
        assert (ended["status"], _looks(at)) == ("finished", 0)
        assert "the test split stays sealed" in ended["words"]
        (trial, *_) = at.runtime.memory.trials(study_id)
        answer = await at.call("get_trial", trial_id=trial.trial_id)
        assert answer["next"] == f"The study is finished: get_study(study_id='{study_id}') shows its end."


async def test_finishing_beside_a_policy_ends_the_policy_first(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await trained(at)
        at.executor.gate.clear()
        await at.call("run_policy", study_id=study_id, policy="random", max_trials=50)
        await at.executor.started.get()
        await at.executor.started.get()
        refusal = await at.refused("finish_study", study_id=study_id)
        assert "is still" in refusal
        run = at.runtime.memory.runs.last(study_id)
        assert run is not None
        assert run.outcome == "cancelled"
        at.executor.gate.set()
        for trial in at.runtime.memory.trials(study_id):
            await at.call("get_trial", trial_id=trial.trial_id, wait_seconds=60)
        before = at.runtime.memory.trials(study_id)
        await at.call("finish_study", study_id=study_id, wait_seconds=60)
        later = at.runtime.memory.trials(study_id)[len(before) :]
        assert {trial.hypothesis for trial in later} <= {
            "a fresh seed for the end of the study, drawn after the choice was made"
        }


async def test_a_policy_may_finish_its_own_study(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        await at.call("run_policy", study_id=study_id, policy="random", max_trials=2, finish=True)
        await until(lambda: at.runtime.memory.study(study_id).finished)
        await until(lambda: not at.runtime.autopilot.studies)
        run = at.runtime.memory.runs.last(study_id)
        assert run is not None
        assert (run.outcome, run.message) == ("done", "")


async def test_a_policy_trains_as_many_of_its_own_as_were_asked_for(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await trained(at)
        at.executor.gate.clear()
        await at.call("run_policy", study_id=study_id, policy="random", max_trials=3)
        mine = [
            asyncio.create_task(at.call("run_trial", study_id=study_id, changes={"dropout": dropout}, wait_seconds=60))
            for dropout in (0.11, 0.12)
        ]
        await until(lambda: len(at.runtime.memory.trials(study_id)) >= 4)
        at.executor.gate.set()
        chats = {(await task)["trial_id"] for task in mine}
        await until(lambda: not at.runtime.autopilot.studies)
        trials = at.runtime.memory.trials(study_id)
        policys = [trial for trial in trials[1:] if trial.trial_id not in chats]
        others = {trial.number for trial in trials if trial not in policys}
        assert len({trial.number for trial in policys} - others) == 3  # seeds of the others' are not counted
        assert {(trial.request_key or "")[:2] for trial in policys} == {"p-"}


async def test_a_request_key_that_was_used_for_something_else_is_refused_and_names_the_first(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await trained(at)
        changes = {"dropout": 0.1}
        first = await at.call("run_trial", study_id=study_id, changes=changes, request_key="k")
        again = await at.call("run_trial", study_id=study_id, changes=changes, request_key="k")
        assert (again["trial_id"], again["duplicate"]) == (first["trial_id"], False)
        others: tuple[dict[str, Any], ...] = (
            {"changes": {"dropout": 0.2}}, {}, {"changes": changes, "seed": 7}, {"replicate_of": "t-nowhere"},
            {"changes": changes, "parent": first["trial_id"]}, {"changes": changes, "early_stop": "off"},
        )  # fmt: skip
        for other in others:
            assert await at.refused("run_trial", study_id=study_id, request_key="k", **other) == (
                f"request_key='k' was used for trial {first['trial_id']!r} (changes {{'dropout': 0.1}}, seed 0, "
                "early_stop 'auto'): a retry repeats that request; another trial takes another key."
            )
        repeat = {"study_id": study_id, "replicate_of": first["trial_id"], "request_key": "r"}
        replicate = await at.call("run_trial", **repeat)
        assert (await at.call("run_trial", **repeat))["trial_id"] == replicate["trial_id"]
        assert len(read_history(at.runtime.memory, study_id).trials) == 3


async def test_a_retry_is_known_although_the_incumbent_has_changed(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await trained(at)
        first = await at.call("run_trial", study_id=study_id, changes={"max_length": 40}, request_key="k")
        for seed in range(1, 8):
            await at.call("run_trial", study_id=study_id, parent=first["trial_id"], changes={"dropout": 0.0}, seed=seed)
        again = await at.call("run_trial", study_id=study_id, changes={"max_length": 40}, request_key="k")
        assert again["trial_id"] == first["trial_id"]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_trials", 2**31), ("max_trials", 10**400), ("budget_seconds", 10**400), ("gpu_seconds", 1e300),
        ("policy", "p" * 65), ("policy", ""), ("policy", "a\nb"), ("seed", 10**400),
    ],
)  # fmt: skip
async def test_numbers_and_labels_that_cannot_be_are_refused_in_one_line(
    argument: str, value: Any, tmp_path: Path
) -> None:
    async with tool_client(tmp_path) as at:
        refusal = await at.refused("start_study", dataset="demo", **{argument: value})
        assert refusal.startswith(f"start_study: {argument}=")
        assert len(refusal) < 300
        assert "\n" not in refusal
        assert at.runtime.memory.studies() == []


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0, 0.0, 2e9])
@pytest.mark.parametrize("argument", ["budget_seconds", "trial_seconds", "gpu_seconds", "withhold"])
def test_seconds_and_shares_are_numbers_that_a_clock_can_count(argument: str, value: float) -> None:
    if (argument, value) != ("withhold", 0.0):
        with pytest.raises(ValidationError):
            StudyRequest.model_validate({"dataset": "demo", argument: value})


@pytest.mark.parametrize("cursor", ["9" * 5000, "9" * 10, "-1", "1.5", "²", "", "0x1"])
@pytest.mark.parametrize("tool", ["read_memory", "get_study"])
async def test_a_cursor_that_no_tool_gave_is_refused_in_one_line(tool: str, cursor: str, tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await trained(at)
        refusal = await at.refused(tool, study_id=study_id, cursor=cursor)
        assert refusal == f"cursor={cursor[:20]!r} is not one that {tool} gave; leave it out to begin again."


@pytest.mark.parametrize("part", ["train", "sealed/test"])
async def test_a_dataset_that_was_changed_is_refused_before_its_test_is_looked_at(part: str, tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await trained(at)
        path = tmp_path / "datasets" / "demo" / f"{part}.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[:-4] + b"\1\0\0\0")
        assert "was changed after it was added" in await at.refused("finish_study", study_id=study_id, wait_seconds=60)
        assert _looks(at) == 0
        path.write_bytes(whole)
        assert (await at.call("finish_study", study_id=study_id, wait_seconds=60))["test_reveal"] == 1


async def test_a_summary_that_cannot_be_kept_leaves_the_study_open(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await trained(at)
        for summary in ("x" * 8001, " \n"):
            assert "The summary" in await at.refused("finish_study", study_id=study_id, summary=summary)
            assert (await at.call("get_study", study_id=study_id))["status"] == "open"
        await at.call("run_trial", study_id=study_id, changes={"dropout": 0.1})
        assert (await at.call("finish_study", study_id=study_id, wait_seconds=60))["status"] == "finished"
