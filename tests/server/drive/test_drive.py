"""server.drive: the reference engineer, end to end over a fake of the server."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from mcp import Client
from rich.console import Console

from server.answers import NoteLine, Previous
from server.cli import main
from server.client.endpoint import RemoteError, read_token
from server.drive.ablation import MemoryMode
from server.drive.loop import play
from server.drive.plan import WITHHOLD, PlanError, PolicyName, Resume, fixed_fields, limits_of
from server.drive.remote import connect_url
from server.drive.report.live import LiveTable
from server.drive.run import Connect, DriveFailed, run_drive
from server.drive.search import play_policy
from server.drive.state import Drive
from server.drive.study_client import ServerGone, StudyClient
from server.executors.testing.stub import StubExecutor, curve
from server.owner.assembly import open_runtime
from server.policies import load
from server.policies.base import Proposal
from server.settings import Settings
from server.tools.app import create_app
from tests.support.fake_server import FakeServer, by_learning_rate
from tests.support.plans import plan_for
from trainers.contract.space import Config
from trainers.contract.wire import TrialSpec
from trainers.data import add


def driven(server: FakeServer, folder: Path, connect: Connect | None = None, **plan: Any) -> dict[str, Any]:
    """report.json of a drive that came to its end."""
    assert run_drive(plan_for(**plan), connect or server.connect, folder, folder, False) == 0
    return json.loads((folder / "report.json").read_text())


def asked(server: FakeServer) -> list[dict[str, Any]]:
    return [arguments for tool, arguments in server.calls if tool == "run_trial"]


def test_the_playbook_tunes_reflects_and_finishes(tmp_path: Path) -> None:
    server = FakeServer()
    report = driven(server, tmp_path)
    trials = report["trials"]
    assert len({trial["number"] for trial in trials}) == 8
    assert [trial["number"] for trial in trials[:3]] == [0, 0, 0]
    assert report["best"]["config"]["learning_rate"] == 0.003
    assert len(report["best"]["trial_ids"]) == 2
    kinds = [note["kind"] for note in report["heuristics"]]
    assert kinds[:2] == ["summary", "heuristic"]
    assert kinds.count("reflection") == len(trials) - 2
    assert kinds.count("summary") == 1
    heuristic = next(note for note in server.notes if note.level == "heuristic")
    assert heuristic.text == (
        "On short sequences (mean length 8.0, 5,000 users, 500 items), sasrec: learning_rate 0.003 beat 0.001 by "
        "59.9% in ndcg@10 (noise ±7.7%, 2 against 3 trainings)."
    )
    assert heuristic.evidence == ["t-3", "t-4", "t-0", "t-1", "t-2"]


def test_a_reflection_says_what_was_expected_what_came_and_what_is_next(tmp_path: Path) -> None:
    server = FakeServer()
    driven(server, tmp_path)
    notes = [note.text for note in server.notes if note.evidence == ["t-3"]]
    assert notes == [
        "learning_rate 0.003 (number 1, seed 0). Expected: +3% with probability 0.5. Came: ndcg@10 0.0800, +59.8% "
        "against the incumbent (+39.3% to +83.8% is expected): better. Next: number 1 has one seed so far: a fresh one "
        "tells luck from effect."
    ]


@pytest.mark.parametrize("policy", ["random", "tpe", "playbook", "hybrid"])
def test_every_policy_ends_in_a_report(policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = FakeServer()
    report = driven(server, tmp_path, policy=policy, max_trials=5, seed=4)
    assert (report["policy"], report["seed"]) == (policy, 4)
    assert len({trial["number"] for trial in report["trials"]}) == 5
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "report.md")


def test_one_trial_is_one_training(tmp_path: Path) -> None:
    report = driven(FakeServer(), tmp_path, max_trials=1)
    assert report["trainings"] == 1
    assert [note["kind"] for note in report["heuristics"]] == ["summary", "heuristic", "reflection"]


@pytest.mark.parametrize(("budget", "seeds"), [(29.0, 1), (31.0, 3)])
def test_the_default_is_repeated_only_where_it_costs_under_a_tenth_of_the_budget(
    budget: float, seeds: int, tmp_path: Path
) -> None:
    server = FakeServer()
    driven(server, tmp_path, policy="random", max_trials=4, budget_seconds=budget)
    assert sum(call["replicate_of"] == "t-0" for call in asked(server)) == seeds - 1


def test_fewer_than_four_trials_leave_the_default_at_one_seed(tmp_path: Path) -> None:
    server = FakeServer()
    assert len({trial["number"] for trial in driven(server, tmp_path, policy="random", max_trials=3)["trials"]}) == 3
    assert [call for call in asked(server) if call["replicate_of"] == "t-0"] == []


def test_a_spent_budget_ends_in_the_sealed_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    monkeypatch.setattr(Drive, "elapsed", lambda self: 20.0 * len(server.trials))
    report = driven(server, tmp_path, policy="random", max_trials=50, budget_seconds=100.0)
    assert (report["trainings"], report["seconds"]) == (5, 100.0)
    assert report["test_reveal"] == 2


def test_running_trials_and_a_running_reveal_are_waited_for(tmp_path: Path) -> None:
    server = FakeServer(slow=True)
    report = driven(server, tmp_path, max_trials=4)
    assert {trial["status"] for trial in report["trials"]} == {"ok"}
    assert sum(tool == "get_trial" for tool, _ in server.calls) == len(report["trials"])
    assert server.finishes == 2
    assert sum(note.level == "summary" for note in server.notes) == 1


@pytest.mark.parametrize("policy", ["random", "tpe", "playbook", "hybrid"])
def test_failed_trainings_are_results_too(policy: str, tmp_path: Path) -> None:
    def score(config: Config, seed: int) -> float | str:
        return 0.05 if config["learning_rate"] == 0.001 else "diverged"

    report = driven(FakeServer(score), tmp_path, policy=policy, max_trials=5)
    assert "diverged" in {trial["status"] for trial in report["trials"]}
    assert report["best"] is not None


def test_a_default_that_fails_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def score(config: Config, seed: int) -> float | str:
        return "diverged" if config["learning_rate"] == 0.001 else 0.05

    report = driven(FakeServer(score), tmp_path, max_trials=4)
    words = "The default configuration itself ended diverged (it ended diverged); going on from it"
    assert words in " ".join(capsys.readouterr().err.split())
    assert words in (tmp_path / "report.md").read_text()
    assert report["default"] == {"trial_ids": ["t-0"], "validation": {}, "test": {}, "tested": []}
    assert report["best"] is not None


def test_a_study_where_nothing_trains_still_ends_in_a_report(tmp_path: Path) -> None:
    report = driven(FakeServer(lambda config, seed: "out_of_memory"), tmp_path, max_trials=3)
    assert (report["best"], report["test_reveal"], report["trainings"]) == (None, None, 3)
    assert "No training scored" in (tmp_path / "report.md").read_text()


def test_what_memory_says_is_tried_first_and_cited(tmp_path: Path) -> None:
    server = FakeServer()
    text = "On sparse sequences, sasrec: dropout 0.3 beat 0.5 by 6.0 % in ndcg@10."
    server.memory = [NoteLine(note_id="h-9", kind="heuristic", text=text, dataset="office", backbone="sasrec")]
    driven(server, tmp_path, max_trials=2)
    assert asked(server)[1] == {
        "changes": {"dropout": 0.3}, "parent": "t-0", "replicate_of": None, "cites": ["h-9"],
        "expected": {"field": "dropout", "direction": "up", "effect": 0.03, "confidence": 0.5},
        "hypothesis": "dropout 0.5 → 0.3: h-9 from office: dropout 0.3 helped there",
    }  # fmt: skip


def test_options_reach_the_study(tmp_path: Path) -> None:
    server = FakeServer()
    driven(
        server, tmp_path, dataset="beauty", backbone="hstu", policy="random", max_trials=2, budget_seconds=60.0,
        trial_seconds=9.0, seed=5, preset="paper", space={"dropout": 0.2}, filter_seen="no",
    )  # fmt: skip
    assert server.arguments == {
        "dataset": "beauty", "backbone": "hstu", "preset": "paper", "space": {"dropout": 0.2}, "filter_seen": "no",
        "max_trials": 2, "budget_seconds": 60.0, "trial_seconds": 9.0, "policy": "random", "seed": 5,
    }  # fmt: skip


def test_a_space_without_free_fields_trains_the_default_alone(tmp_path: Path) -> None:
    fixed = dict(FakeServer().space.default())
    report = driven(FakeServer(), tmp_path, max_trials=2, space=fixed)
    assert report["trainings"] == 1


def test_ctrl_c_cancels_the_trial_and_leaves_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = FakeServer()
    server.hang_at = 2
    server.on_trial = lambda count: signal.raise_signal(signal.SIGINT) if count == 1 else None
    assert run_drive(plan_for(policy="random", max_trials=2), server.connect, tmp_path, tmp_path, False) == 130
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["test_reveal"], server.finishes) == (None, 0)
    assert report["trials"][0]["status"] == "ok"
    said = capsys.readouterr()
    assert "Study s-1 is kept, unfinished" in said.err
    assert said.out.splitlines()[-1] == str(tmp_path / "report.md")
    assert "interrupted before the end" in (tmp_path / "report.md").read_text()


def test_ctrl_c_while_a_trial_is_waited_for_cancels_that_trial(tmp_path: Path) -> None:
    server = FakeServer()
    server.hang_at = 1

    async def interrupt() -> None:
        while not server.trials:
            await anyio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGINT)

    @asynccontextmanager
    async def connect() -> AsyncIterator[Client]:
        async with server.connect() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(interrupt)
            yield client

    assert run_drive(plan_for(), connect, tmp_path, tmp_path, False) == 130
    assert server.cancelled == ["t-0"]
    assert json.loads((tmp_path / "report.json").read_text())["trials"][0]["status"] == "cancelled"


def test_a_server_that_stops_answering_leaves_one_line_and_a_report(tmp_path: Path) -> None:
    server = FakeServer()

    @asynccontextmanager
    async def connect() -> AsyncIterator[Client]:
        async with server.connect() as client:
            call_tool = client.call_tool

            async def dying(name: str, *rest: Any, **more: Any) -> Any:
                if len(server.trials) == 3:
                    raise anyio.ClosedResourceError
                return await call_tool(name, *rest, **more)

            client.call_tool = dying
            yield client

    with pytest.raises(DriveFailed, match=r"went away during run_trial .* study s-1 is kept, unfinished"):
        run_drive(plan_for(policy="random"), connect, tmp_path, tmp_path, False)
    assert json.loads((tmp_path / "report.json").read_text())["trainings"] == 3


def test_a_connection_that_breaks_under_a_call_leaves_one_line_and_a_report(tmp_path: Path) -> None:
    server = FakeServer()
    server.hang_at = 2

    async def die() -> None:
        while len(server.trials) < 2:
            await anyio.lowlevel.checkpoint()
        raise OSError("the owner ended")

    @asynccontextmanager
    async def connect() -> AsyncIterator[Client]:
        async with server.connect() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(die)
            yield client

    with pytest.raises(DriveFailed, match="The server went away: the owner ended The report holds"):
        run_drive(plan_for(policy="random"), connect, tmp_path, tmp_path, False)
    assert json.loads((tmp_path / "report.json").read_text())["trainings"] == 1


def test_an_unknown_dataset_fails_in_the_servers_words(tmp_path: Path) -> None:
    with pytest.raises(DriveFailed, match="No dataset 'nope'; there are demo, beauty"):
        run_drive(plan_for(dataset="nope"), FakeServer().connect, tmp_path, None, False)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_trial_ends_the_search_but_not_the_study(tmp_path: Path) -> None:
    server = FakeServer()
    connect_to = server.connect

    @asynccontextmanager
    async def connect() -> AsyncIterator[Client]:
        async with connect_to() as client:
            yield client

    def forget(count: int) -> None:
        if count == 3:
            server.arguments["max_trials"] = 1

    server.on_trial = forget
    report = driven(server, tmp_path, connect, policy="random")
    assert report["trainings"] == 3
    assert "The server refused a trial, so the search ends here" in (tmp_path / "report.md").read_text()


def test_the_report_goes_to_the_home_where_no_folder_is_named(tmp_path: Path) -> None:
    run_drive(plan_for(max_trials=1), FakeServer().connect, tmp_path, None, False)
    assert sorted(path.name for path in (tmp_path / "s-1").iterdir()) == ["best-so-far.svg", "report.json", "report.md"]


def test_json_is_the_report_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_drive(plan_for(max_trials=1), FakeServer().connect, tmp_path, tmp_path, True)
    out = capsys.readouterr().out
    assert json.loads(out) == json.loads((tmp_path / "report.json").read_text())
    assert len(out.splitlines()) == 1


def test_plain_lines_say_that_demo_is_synthetic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_drive(plan_for(max_trials=2), FakeServer(synthetic=True).connect, tmp_path, tmp_path, False)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "The dataset is synthetic (generated): its numbers say nothing about real users."
    assert "#0 the default, seed 0: ok ndcg@10 0.0500; 5 epochs, 3.0 s" in lines
    assert "#1 learning_rate 0.003, seed 0: ok ndcg@10 0.0800 (+60.0% vs default), better; 5 epochs, 3.0 s" in lines


def test_a_terminal_shows_a_live_table(tmp_path: Path) -> None:
    server = FakeServer(synthetic=True)
    screen = io.StringIO()

    async def shown() -> None:
        async with server.connect() as client:
            with LiveTable(Console(file=screen, force_terminal=True, width=140)) as view:
                drive = Drive(plan_for(max_trials=2), view, tmp_path)
                await play(drive, client, tmp_path)
                assert drive.open_study.observations()
                view.started(Proposal({"dropout": 0.3}), 2)
                view.progress(3.0, 120.0)
                view._live.refresh()

    anyio.run(shown)
    text = screen.getvalue()
    assert "sasrec on demo (5,000 users, 500 items, 40,000 events)" in text
    assert "The dataset is synthetic" in text
    assert "learning_rate 0.003" in text
    assert "epoch 3 of at most 120" in text


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (["dropout=0.2"], {"dropout": 0.2}),
        (["learning_rate=1e-3", "num_blocks=1"], {"learning_rate": 0.001, "num_blocks": 1}),
        (["loss=full_softmax", "tie_embeddings=true"], {"loss": "full_softmax", "tie_embeddings": True}),
        (["hidden_dim=[32, 64]"], {"hidden_dim": [32, 64]}),
        (["learning_rate={low: 1e-4, high: 1e-2}"], {"learning_rate": {"low": 0.0001, "high": 0.01}}),
    ],
)
def test_fixed_fields_are_typed_by_yaml(settings: list[str], fields: dict[str, Any]) -> None:
    assert fixed_fields(settings) == fields


@pytest.mark.parametrize("setting", ["dropout", "=3", "dropout=", "dropout={"])
def test_what_is_no_field_and_value_is_refused(setting: str) -> None:
    with pytest.raises(PlanError, match="--fix"):
        fixed_fields([setting])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--backbone", "gru"], ["--policy", "psychic"], ["--trials", "0"], ["--fix", "dropout"], ["--policy", "llm"],
        ["--model", "gpt-x"], ["--token-file", "t"], ["--nonsense"], ["--filter-seen", "maybe"],
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["drive", *arguments]) == 2
    assert capsys.readouterr().out == ""


def test_a_missing_server_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["drive", "--url", "http://127.0.0.1:9/mcp", "--home", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("virtualmle: http://127.0.0.1:9/mcp does not answer as an MCP server: ")
    assert len(said.err.splitlines()) == 1


def test_the_command_in_the_report_is_the_one_that_was_given() -> None:
    plan = plan_for(
        max_trials=3,
        seed=2,
        space={"dropout": 0.2, "loss": "full_softmax"},
        budget_seconds=90.0,
        filter_seen="no",
        withhold=WITHHOLD,
    )
    assert plan.command() == (
        "virtualmle drive --dataset demo --backbone sasrec --policy playbook --trials 3 --seed 2 --preset strong "
        "--budget-seconds 90 --fix dropout=0.2 --fix loss=full_softmax --filter-seen no"
    )
    words = ["dropout=0.2", "loss=full_softmax"]
    assert fixed_fields(words) == plan.request.space


def test_the_first_token_of_a_file_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# ours\n\nabc laptop tune\ndef\n")
    assert read_token(file) == "abc"
    file.write_text("\n")
    with pytest.raises(RemoteError, match="holds no token"):
        read_token(file)
    with pytest.raises(RemoteError, match="cannot be read: No such file"):
        read_token(tmp_path / "none")


@pytest.mark.anyio
async def test_a_refused_token_says_so(tmp_path: Path) -> None:
    from tests.support.fake_endpoint import serving

    with (
        serving([(401, {"error": "no"})] * 3) as endpoint,
        pytest.raises(RemoteError, match=r"wants a bearer token \(401\): give it with --token-file"),
    ):
        async with connect_url(f"{endpoint.url}/mcp", None):
            pass
    file = tmp_path / "tokens"
    file.write_text("abc\n")
    with (
        serving([(401, {"error": "no"})] * 3) as endpoint,
        pytest.raises(RemoteError, match=r"does not admit the token of .*tokens \(401\)"),
    ):
        async with connect_url(f"{endpoint.url}/mcp", file):
            pass
    assert endpoint.headers[0]["authorization"] == "Bearer abc"


def test_the_command_line_loads_no_heavy_library() -> None:
    heavy = ["optuna", "anthropic", "openai", "torch", "mcp", "matplotlib"]
    code = f"import sys, server.cli.drive; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.anyio
async def test_the_real_server_is_driven_the_same_way(tmp_path: Path) -> None:
    def train(trial: TrialSpec) -> Any:
        return curve(trial, best=float(by_learning_rate(trial.config, trial.seed)))

    view = LiveTable(Console(file=io.StringIO()))
    drive = Drive(plan_for(max_trials=4), view, tmp_path / "report")
    async with (
        open_runtime(Settings(home=tmp_path / "home"), StubExecutor(train)) as runtime,
        Client(create_app(runtime)) as client,
    ):
        await play(drive, client, tmp_path)
        assert drive.failure is None
        assert drive.open_study.finish is not None
        configs = drive.open_study.configs
        assert {
            trial.trial_id: trial.config for trial in runtime.memory.trials(drive.open_study.study.study_id)
        } == configs
    assert len({answer.number for answer in drive.open_study.trials.values()}) == 4
    assert {item.level for item in drive.written} == {"reflection", "heuristic", "summary"}


@pytest.mark.anyio
@pytest.mark.parametrize("policy", ["random", "playbook", "gp"])
async def test_trainings_go_on_side_by_side_and_none_is_proposed_twice(policy: PolicyName, tmp_path: Path) -> None:
    def train(trial: TrialSpec) -> Any:
        return curve(trial, best=float(by_learning_rate(trial.config, trial.seed)))

    stub = StubExecutor(train)
    settings = Settings(home=tmp_path / "home", slots=3)
    fixed = {"num_blocks": 2}
    drive = Drive(
        plan_for(policy=policy, max_trials=9, parallel=3, space=fixed), LiveTable(Console(file=io.StringIO())), tmp_path
    )
    async with open_runtime(settings, stub) as runtime, Client(create_app(runtime)) as client:
        together = 0

        async def watch() -> None:
            nonlocal together
            while not drive.ended:
                together = max(together, len(drive.under_way))
                if together < 3 and drive.under_way:
                    stub.gate.clear()  # held until the others have been proposed, too
                else:
                    stub.gate.set()
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await play(drive, client, tmp_path)
        assert drive.failure is None
        trials = runtime.memory.trials(drive.open_study.study.study_id)
    assert together == 3
    assert drive.under_way == []
    assert len({trial.number for trial in trials}) == 9
    assert len({(trial.config_hash, trial.seed) for trial in trials}) == len(trials)


@pytest.mark.anyio
async def test_one_refusal_ends_a_drive_whose_trainings_go_on_side_by_side(tmp_path: Path) -> None:
    drive = Drive(plan_for(policy="random", max_trials=9, parallel=3), LiveTable(Console(file=io.StringIO())), tmp_path)
    async with FakeServer(slow=True).connect() as client:
        gone = ServerGone("The server went away.")

        async def run(proposal: Proposal) -> Any:
            if len(drive.under_way) == 3:
                raise gone
            await anyio.sleep_forever()

        drive.study_client = StudyClient(client, lambda done, most: None, 45.0)
        await drive.study_client.start(drive.plan.study_arguments())
        await drive.study_client.run(Proposal({}))
        drive.study_client.run = run
        with pytest.raises(ServerGone):
            await play_policy(drive, load("random"))


@pytest.mark.anyio
async def test_a_study_of_gp_learns_from_the_trainings_of_another_dataset(tmp_path: Path) -> None:
    def train(trial: TrialSpec) -> Any:
        return curve(trial, best=float(by_learning_rate(trial.config, trial.seed)))

    lines = "\n".join(f"{user} " + " ".join(str((user + step) % 9) for step in range(6)) for user in range(60))
    (tmp_path / "log.txt").write_text(lines)
    settings = Settings(home=tmp_path / "home")
    add(settings.datasets_dir, "log", tmp_path / "log.txt")
    async with open_runtime(settings, StubExecutor(train)) as runtime:
        for plan in (
            plan_for(max_trials=4),
            plan_for(dataset="log", policy="gp", max_trials=3),
            plan_for(dataset="log", policy="gp", max_trials=3, memory="off"),
        ):
            drive = Drive(plan, LiveTable(Console(file=io.StringIO())), tmp_path / plan.memory / plan.request.dataset)
            async with Client(create_app(runtime)) as client:
                await play(drive, client, tmp_path)
            assert drive.failure is None
            told = [answer.hypothesis or "" for answer in drive.open_study.trials.values()]
            learned = any("and those of 1 similar dataset" in hypothesis for hypothesis in told)
            assert learned == (plan.request.dataset == "log" and plan.memory == "on")


def test_what_is_withheld_is_asked_of_the_server() -> None:
    assert plan_for(withhold=0.2).study_arguments()["withhold"] == 0.2
    assert "--withhold 0.2" in plan_for(withhold=0.2).command()


@pytest.mark.parametrize("memory", ["off", "frozen", "permuted", "flipped"])
def test_where_memory_is_not_whole_nothing_is_withheld_whatever_the_home_is_set_to(memory: MemoryMode) -> None:
    assert plan_for(withhold=0.2, memory=memory).study_arguments()["withhold"] == 0.0


def test_guardrails_reach_the_study_and_the_command_that_gives_it_again() -> None:
    plan = plan_for(guardrails=limits_of(["coverage@10>=0.2", "ms_per_1000_users<=50", "coverage@10<=0.9"]))
    wanted = {"coverage@10": {"min": 0.2, "max": 0.9}, "ms_per_1000_users": {"max": 50.0}}
    assert plan.study_arguments()["guardrails"] == wanted
    assert "--guardrail 'coverage@10>=0.2' --guardrail 'coverage@10<=0.9'" in plan.command()
    assert "guardrails" not in plan_for().study_arguments()


@pytest.mark.parametrize("setting", ["coverage@10", "coverage@10=0.2", ">=x", "coverage@10>=much"])
def test_a_guardrail_that_cannot_be_read_says_how_it_is_written(setting: str) -> None:
    with pytest.raises(PlanError, match="--guardrail wants NAME>=VALUE or NAME<=VALUE"):
        limits_of([setting])


@pytest.mark.parametrize("policy", ["playbook", "random", "tpe"])
def test_what_won_on_the_older_version_is_tried_right_after_the_default(policy: PolicyName, tmp_path: Path) -> None:
    server = FakeServer()
    server.previous = Previous(study_id="s-0", changes={"learning_rate": 0.002})
    report = driven(server, tmp_path, max_trials=4, policy=policy)
    first = next(trial for trial in report["trials"] if trial["number"] == 1)
    assert first["changes"] == {"learning_rate": 0.002}
    assert first["hypothesis"] == "what won on the older version of this dataset (study s-0)"
    assert len({trial["number"] for trial in report["trials"]}) == 4


def test_a_drive_of_one_trial_trains_the_default_alone(tmp_path: Path) -> None:
    server = FakeServer()
    server.previous = Previous(study_id="s-0", changes={"learning_rate": 0.002})
    assert len(driven(server, tmp_path, max_trials=1)["trials"]) == 1


@pytest.mark.anyio
async def test_a_drive_that_was_interrupted_is_resumed_with_its_own_options(tmp_path: Path) -> None:
    def train(trial: TrialSpec) -> Any:
        return curve(trial, best=float(by_learning_rate(trial.config, trial.seed)))

    async with open_runtime(Settings(home=tmp_path / "home"), StubExecutor(train)) as runtime:
        plans = [plan_for(max_trials=6, seed=3, space={"num_blocks": 2}, policy="random"), plan_for(max_trials=2)]
        async with Client(create_app(runtime)) as client:
            whole = Drive(plans[0], LiveTable(Console(file=io.StringIO())), tmp_path / "whole")
            await play(whole, client, tmp_path)
            cut = Drive(plans[0], LiveTable(Console(file=io.StringIO())), tmp_path / "cut")
            cut.study_client = StudyClient(client, lambda done, most: None, 45.0)
            study = (await cut.study_client.start(plans[0].study_arguments())).study_id
            await cut.study_client.run(Proposal({}))
            asked = plan_for(resume=Resume(study))
            again = Drive(asked, LiveTable(Console(file=io.StringIO())), tmp_path / "again")
            await play(again, client, tmp_path)
            assert again.failure is None
            assert (again.plan.request.seed, again.plan.max_trials, again.plan.request.space) == (
                3,
                6,
                {"num_blocks": 2},
            )
            assert again.plan.policy == "random"
            assert again.plan.command() == whole.plan.command()
            assert again.open_study.finish is not None
            assert len({trial.number for trial in again.open_study.trials.values()}) == 6
            done = Drive(asked, LiveTable(Console(file=io.StringIO())), tmp_path / "done")
            await play(done, client, tmp_path)
            assert done.failure is not None
            assert "is finished, and its test revealed" in done.failure
