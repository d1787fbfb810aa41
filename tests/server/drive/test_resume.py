"""server.drive: a study goes on as it was started, and every printed command starts one like it."""

import io
import shlex
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from rich.console import Console

from server.cli import main
from server.drive.loop import play
from server.drive.plan import ModelPlan, Plan, PlanError, Resume
from server.drive.report.live import Lines
from server.drive.report.rewrite import report_again
from server.drive.state import Drive
from server.drive.stored_plan import plan_of, resumed
from server.executors.base import ExecutorError
from server.executors.testing.stub import Answer
from tests.support.examples import study
from tests.support.plans import plan_for
from tests.support.tool_client import ToolClient, tool_client
from trainers.contract.wire import TrialSpec

pytestmark = pytest.mark.anyio


def read_by_the_cli(command: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan that the real command line makes of a printed command; nothing is driven."""
    plans: list[Plan] = []

    def keep(plan: Plan, *others: Any) -> int:
        plans.append(plan)
        return 0

    with monkeypatch.context() as patch:
        patch.setattr("server.drive.run.run_drive", keep)
        words = shlex.split(command)
        assert words[0] == "virtualmle"
        assert main.main(words[1:]) == 0, command
    return plans[0]


def printed_in(page: str) -> str:
    return page.split("```sh\n")[1].split("\n```")[0]


async def drive(plan: Plan, client: Client, folder: Path) -> Drive:
    driven = Drive(plan, Lines(Console(file=io.StringIO())), folder)
    await play(driven, client, folder)
    return driven


@pytest.mark.parametrize(
    "plan",
    [
        plan_for(),
        plan_for(policy="gp", max_trials=3, seed=7, preset="paper", metric="recall@20", parallel=3, reflection=False),
        plan_for(
            budget_seconds=0.25,
            trial_seconds=1234567.5,
            min_gain=0.0123,
            confirm_seeds=0,
            gpu_seconds=3600.0,
            memory="off",
            withhold=0.123456789,
        ),
        plan_for(filter_seen="reference", early_stop="off", guardrails={"coverage@10": {"min": 0.1234567, "max": 1}}),
        plan_for(
            space={
                "hidden_dim": [16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384],
                "learning_rate": {"low": 1e-05, "high": 0.005},
                "tie_embeddings": True,
                "loss": "full_softmax",
            }
        ),
        plan_for(url="http://host:8765/mcp", token_file=Path("my token.txt"), withhold=0.1),
        plan_for(home=Path("/tmp/home of mine"), withhold=0.1),
        plan_for(policy="llm", withhold=0.1, model=ModelPlan("m", "openai", "http://h/v1", Path("key"), 9, 1000)),
        plan_for(
            policy="llm", withhold=0.1, model=ModelPlan("claude-sonnet-4-5", "anthropic", max_cost=0.5, anonymous=True)
        ),
        plan_for(policy="llm", withhold=0.1, model=ModelPlan("replay", "replay", replay=Path("t.jsonl"))),
    ],
)
async def test_a_printed_command_is_read_as_the_plan_that_printed_it(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = read_by_the_cli(plan.command(), monkeypatch)
    asked, read = plan.study_arguments(), again.study_arguments()
    assert {**read, "withhold": None} == {**asked, "withhold": None}
    assert again.request.withhold == (plan.request.withhold or 0.0)
    assert (again.model, again.memory, again.parallel, again.url) == (plan.model, plan.memory, plan.parallel, plan.url)
    assert read_by_the_cli(plan.resume_command("s-1"), monkeypatch).resume is not None


async def test_a_fixed_text_that_looks_like_a_number_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(space={"beta2": "1e-3", "loss": "16", "dropout": "off"})
    assert read_by_the_cli(plan.command(), monkeypatch).request.space == plan.request.space


@pytest.mark.parametrize("finished", [True, False])
async def test_the_report_of_a_chat_study_has_a_command_with_the_same_settings(
    finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {
        "dataset": "demo", "metric": "recall@10", "seed": 4, "early_stop": "off", "budget_seconds": 5000.0,
        "space": {"hidden_dim": [32, 64], "dropout": {"low": 0.1, "high": 0.5}, "num_blocks": 2},
        "guardrails": {"coverage@10": {"max": 0.875}},
    }  # fmt: skip
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", **asked))["study_id"]
        await at.call("run_trial", study_id=study_id)
        await at.call("run_trial", study_id=study_id, changes={"dropout": 0.2})
        if finished:
            await at.call("finish_study", study_id=study_id)
        report = await report_again(at.client, study_id, tmp_path / "report")
        assert report.policy == "client"
        page = (tmp_path / "report/report.md").read_text()
        assert "No command can repeat what `client` did." in page
        again = read_by_the_cli(printed_in(page), monkeypatch)
        assert again.study_arguments() == {**asked, "policy": "playbook", "max_trials": 2, "withhold": 0.0}
        assert not (await at.client.call_tool("start_study", again.study_arguments())).is_error


async def test_a_study_goes_on_with_its_own_policy_memory_switch_and_plan(tmp_path: Path) -> None:
    plan = plan_for(policy="random", max_trials=3, memory="off", reflection=False, parallel=2, seed=5)
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", **plan.study_arguments()))["study_id"]
        again = await drive(plan_for(resume=Resume(study_id)), at.client, tmp_path / "report")
        assert again.failure is None
        assert again.plan.command() == plan.command()
        assert (again.plan.policy, again.plan.memory) == ("random", "off")
        assert (again.plan.reflection, again.plan.parallel) == (False, 2)
        report = await report_again(at.client, study_id, tmp_path / "again")
        assert report.policy == "random"
        assert printed_in((tmp_path / "again/report.md").read_text()) == plan.command()


async def test_a_chat_study_goes_on_with_the_playbook_or_the_policy_that_is_named(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        for dropout in (0.5, 0.4, 0.3):
            await at.call("run_trial", study_id=study_id, changes={"dropout": dropout})
        asked = plan_for(resume=Resume(study_id, policy="random", more_trials=2))
        again = await drive(asked, at.client, tmp_path / "report")
        assert again.failure is None
        assert again.remarks[0] == "Policy 'client' tuned this study so far; from here on random does."
        assert len({trial.number for trial in again.open_study.trials.values()}) == 5
        other = (await at.call("start_study", dataset="demo"))["study_id"]
        await at.call("run_trial", study_id=other)
        assert (await drive(plan_for(resume=Resume(other)), at.client, tmp_path / "other")).plan.policy == "playbook"


@pytest.mark.parametrize(
    "option",
    [
        "--dataset demo", "--backbone hstu", "--metric recall@10", "--seed 0", "--preset strong", "--fix dropout=0.2",
        "--filter-seen yes", "--early-stop off", "--guardrail coverage@10>=0.2", "--memory on", "--withhold 0.1",
        "--budget-seconds 60", "--trial-seconds 60", "--gpu-seconds 60",
    ],
)  # fmt: skip
async def test_what_belongs_to_the_study_cannot_be_changed_on_resume(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["drive", "--resume", "s-1", *option.split()]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"virtualmle: {option.split()[0]} cannot be changed on a resumed study; 's-1' keeps")


async def test_trials_can_be_added_only_where_the_study_has_no_limit() -> None:
    resume = Resume("s-1", more_trials=4)
    assert resumed(plan_for(), resume, study(), 3).max_trials == 7
    with pytest.raises(PlanError, match="--trials cannot be changed on a resumed study; Study 's-1' was"):
        resumed(plan_for(), resume, study(max_trials=6), 3)


async def test_a_model_is_remembered_without_key_and_address_or_has_to_be_named_again(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:

        async def stored(model: ModelPlan) -> Plan:
            plan = plan_for(policy="llm", model=model)
            study_id = (await at.call("start_study", **plan.study_arguments()))["study_id"]
            return plan_of(at.runtime.memory.study(study_id))

        own = ModelPlan("claude-x", "anthropic", key_file=Path("key"), max_turns=3)
        assert (await stored(own)).model == ModelPlan("claude-x", "anthropic", max_turns=3)
        for model in (
            ModelPlan("m", "openai", base_url="http://elsewhere/v1"),
            ModelPlan("replay", "replay", replay=Path("t.jsonl")),
            ModelPlan("none", "anthropic", dry_run=True),
        ):
            assert (await stored(model)).model is None
    with pytest.raises(PlanError, match="give --policy llm --model NAME"):
        resumed(plan_for(), Resume("s-1"), study(policy="llm"), 0)


@pytest.mark.parametrize("text", ["[]", "7", "{", '{"memory": "psychic"}', '{"parallel": 1000000}', "[" * 4000])
async def test_what_another_client_stored_as_options_of_a_drive_hurts_nobody(text: str, tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo", max_trials=1, drive_options=text))["study_id"]
        plan = plan_of(at.runtime.memory.study(study_id))
        assert (plan.memory, plan.parallel) == ("on", 1)
        assert "no argument 'drive_options'" in await at.refused("get_study", study_id=study_id, drive_options=text)


async def test_a_dry_run_prints_a_command_that_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelPlan("none", "anthropic", dry_run=True)
    plan = plan_for(policy="llm", model=model, max_trials=4)
    command = plan.resume_command("s-1")
    assert command == "virtualmle drive --resume s-1 --policy llm --model MODEL"
    assert read_by_the_cli(command, monkeypatch).resume == Resume("s-1", policy="llm")


# A default that was never trained to its end


def node_lost(trial: TrialSpec) -> Answer:
    raise ExecutorError("the node is gone")


async def without_default(at: ToolClient, status: str, others: bool) -> str:
    """A study whose default was cancelled or interrupted; with `others` a chat has trained two changes of it."""
    study_id = (await at.call("start_study", dataset="demo", max_trials=4))["study_id"]
    if status == "cancelled":
        at.executor.gate.clear()
        started = await at.call("run_trial", study_id=study_id, wait_seconds=0)
        await at.call("cancel_trial", trial_id=started["trial_id"])
        at.executor.gate.set()
    else:
        obedient, at.executor.train = at.executor.train, node_lost
        started = await at.call("run_trial", study_id=study_id)
        at.executor.train = obedient
    assert (await at.call("get_trial", trial_id=started["trial_id"], wait_seconds=45))["status"] == status
    for dropout in (0.3, 0.4) if others else ():
        await at.call("run_trial", study_id=study_id, parent=started["trial_id"], changes={"dropout": dropout})
    return study_id


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("status", ["cancelled", "interrupted"])
async def test_a_default_that_did_not_end_is_trained_first_when_a_drive_goes_on(
    status: str, others: bool, tmp_path: Path
) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await without_default(at, status, others)
        again = await drive(plan_for(resume=Resume(study_id, policy="random")), at.client, tmp_path / "report")
        assert again.failure is None
        assert_default_came_next(at, study_id, others)


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("status", ["cancelled", "interrupted"])
async def test_a_default_that_did_not_end_is_trained_first_by_a_policy(
    status: str, others: bool, tmp_path: Path
) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await without_default(at, status, others)
        await at.call("run_policy", study_id=study_id, policy="random", max_trials=1)
        ended = await at.call("get_study", study_id=study_id, wait_seconds=45)
        assert ended["policy"]["status"] == "done", ended
        assert_default_came_next(at, study_id, others)


def assert_default_came_next(at: ToolClient, study_id: str, others: bool) -> None:
    trials = at.runtime.memory.trials(study_id)
    space = at.runtime.memory.study(study_id).space
    default = [trial for trial in trials if trial.config_hash == space.hash(space.default())]
    first = next(trial for trial in default if trial.status == "ok")
    later = [trial for trial in trials if trial.number > (2 if others else 0)]
    assert first.number == 0
    assert (first.seed, first.replicate_of) == (0, None)
    assert all(trial.created_at >= first.created_at for trial in later)


async def test_a_default_that_did_not_end_is_suggested_before_anything_else(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await without_default(at, "cancelled", True)
        answer = await at.call("suggest_trial", study_id=study_id)
        (default,) = answer["suggestions"]
        assert (default["source"], default["changes"]) == ("default", {})
        assert f"parent='{default['parent']}', changes={{}}) trains the default first" in answer["next"]
        trained = await at.call("run_trial", study_id=study_id, parent=default["parent"], changes={})
        assert (trained["status"], trained["number"], trained["duplicate"]) == ("ok", 0, False)
        sources = [one["source"] for one in (await at.call("suggest_trial", study_id=study_id))["suggestions"]]
        assert sources == ["playbook", "tpe", "gp"]


@pytest.mark.parametrize("policy", ["playbook", "random", "tpe", "hybrid", "gp"])
async def test_a_study_that_began_with_a_change_gets_its_default_before_a_policy_goes_on(
    policy: str, tmp_path: Path
) -> None:
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        await at.call("run_trial", study_id=study_id, changes={"dropout": 0.3})
        await at.call("run_policy", study_id=study_id, policy=policy, max_trials=2)
        ended = await at.call("get_study", study_id=study_id, wait_seconds=45)
        assert ended["policy"]["status"] == "done", ended
        history = at.runtime.memory.trials(study_id)
        assert history[1].config == at.runtime.memory.study(study_id).space.default()
