"""server.drive.plan: the command line of a plan, read by the command itself."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli.drive import app
from server.drive import run
from server.drive.plan import ModelPlan, Plan
from tests.support.plans import plan_for
from tests.support.recorded_tables import recorded_tables

WHOLE = plan_for(
    dataset="clicks 2026",
    backbone="hstu",
    policy="hybrid",
    preset="paper",
    space={"dropout": 0.25, "hidden_dim": [32, 64], "learning_rate": {"low": 5e-4, "high": 5e-3}},
    filter_seen="no",
    max_trials=31,
    budget_seconds=86_399.123456789,
    trial_seconds=1_234_567.0,
    gpu_seconds=3_600.000001,
    seed=2**31 - 1,
    early_stop="off",
    guardrails={"coverage@10": {"min": 0.1234567, "max": 0.9}, "parameters": {"max": 12_345_678.0}},
    withhold=0.12345678,
    url="https://host.example/mcp?a=1&b=2",
    memory="permuted",
    reflection=False,
    parallel=3,
)
MODEL = ModelPlan(
    "gpt-5 mini", "openai", base_url="https://host.example/v1", key_file=Path("keys/my key"), max_turns=7,
    max_tokens=1_234_567, max_cost=0.1234567, anonymous=True,
)  # fmt: skip


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Plan]:
    """Reads a command line with the command that it names; returns the plan that would be driven."""
    monkeypatch.setenv("VIRTUALMLE_HOME", str(tmp_path))

    def plan_of_words(command: str) -> Plan:
        driven: list[Plan] = []

        def keep(plan: Plan, *_: object) -> int:
            driven.append(plan)
            return 0

        monkeypatch.setattr(run, "run_drive", keep)
        program, name, *words = shlex.split(command)
        ended = CliRunner().invoke(app, words)
        assert (program, name, ended.exit_code) == ("virtualmle", "drive", 0), ended.output
        (plan,) = driven
        return plan

    return plan_of_words


def test_the_command_of_a_plan_gives_an_equal_plan(read: Callable[[str], Plan]) -> None:
    assert read(WHOLE.command()) == WHOLE


def test_so_does_the_command_of_a_plan_with_nothing_but_defaults(read: Callable[[str], Plan]) -> None:
    plan = read("virtualmle drive")
    assert read(plan.command()) == plan


@pytest.mark.parametrize("name", ["budget_seconds", "trial_seconds", "gpu_seconds"])
@pytest.mark.parametrize("seconds", [1.0, 1.1, 90.0, 1_234_567.0, 86_399.123456789, 1e9])
def test_seconds_are_told_exactly(name: str, seconds: float, read: Callable[[str], Plan]) -> None:
    plan = plan_for(**{name: seconds}, withhold=0.1)
    assert read(plan.command()) == plan


def test_whole_seconds_are_told_without_a_point() -> None:
    assert "--budget-seconds 1234567 " in plan_for(budget_seconds=1_234_567.0).command()


def test_the_command_names_the_model_with_its_limits(tmp_path: Path, read: Callable[[str], Plan]) -> None:
    prices = tmp_path / "my prices.yaml"
    prices.write_text("gpt-5: {read: 1.0, written: 2.0}\n")
    plan = replace(plan_for(policy="llm", withhold=0.1), model=replace(MODEL, prices=prices))
    assert read(plan.command()) == plan


def test_the_command_names_the_tables_that_are_replayed(tmp_path: Path, read: Callable[[str], Plan]) -> None:
    tables = recorded_tables(tmp_path / "my tables")
    plan = replace(plan_for(dataset="log", withhold=0.1), replay=tables, home=tmp_path / "home")
    assert read(plan.command()) == plan
    assert f"--replay '{tables}'" in plan.resume_command("s-1")


def test_the_command_names_the_transcript_that_is_replayed(read: Callable[[str], Plan]) -> None:
    replay = ModelPlan("replay", "replay", replay=Path("my transcript.jsonl"))
    plan = replace(plan_for(policy="llm", withhold=0.1), model=replay)
    assert read(plan.command()) == plan
