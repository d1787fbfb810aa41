"""Early stopping through the house: from start_study to the child, and what everybody makes of a stopped trial."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest
from mcp import Client

from memory.records import NewTrial
from memory.statistics.noise import Sigma, prior
from memory.store import Memory
from memory.tables.connection import Connection
from memory.tables.migrations import migrate, shipped
from server.answers import TrialAnswer
from server.drive.report.live import cells
from server.drive.run import run_drive
from server.drive.stored_plan import plan_of
from server.executors.testing.stub import Answer, StubExecutor, curve
from server.owner.assembly import open_runtime
from server.policies import load
from server.policies.base import Observation, PolicyContext
from server.policies.inputs import observe
from server.policies.playbook import given_up
from server.policies.racing import usual_seconds
from server.policies.single_changes import effects
from server.policies.tpe import TPE
from server.runtime import Runtime
from server.scheduler.run_directory import read_result
from server.settings import Settings
from server.study import verdicts
from server.study.early_stop import RULE
from server.study.early_stop_of_study import stop_below
from server.tools.app import create_app
from tests.support.examples import study, trial
from tests.support.fake_server import METRIC, FakeServer
from tests.support.plans import plan_for
from tests.support.texts import text_in
from trainers.contract.fields import space_of
from trainers.contract.specs import SPECS
from trainers.contract.wire import Epoch, Outcome, TrialResult, TrialSpec
from trainers.data import Dataset

SPACE = space_of(SPECS["sasrec"])
EPOCHS = 8


def obedient(spec: TrialSpec) -> Answer:
    """A child that obeys stop_below: 8 epochs, and all but the highest dropout score alike."""
    found = curve(spec, best=0.01 if float(spec.config["dropout"]) > 0.7 else 0.1, epochs=EPOCHS)
    asked = spec.stop_below or (0.0,) * EPOCHS
    ended = next((e for e in found.epochs[:-1] if e.validation[METRIC] < asked[e.epoch - 1]), None)
    if ended is None or found.result is None:
        return found
    stopped = {"status": "stopped", "validation": ended.validation, "best_epoch": ended.epoch, "epochs": ended.epoch}
    return Answer(epochs=found.epochs[: ended.epoch], result=found.result.model_copy(update=stopped))


class Desk:
    """A client of one runtime whose calls succeed."""

    def __init__(self, client: Client, runtime: Runtime) -> None:
        self.client, self.runtime = client, runtime

    async def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        answer = await self.client.call_tool(name, arguments)
        assert not answer.is_error, answer.content
        assert answer.structured_content is not None
        return answer.structured_content

    async def crowded(self, **arguments: Any) -> str:
        """A study in which as many configurations as the rule needs were trained to their end."""
        study_id = (await self.call("start_study", dataset="demo", **arguments))["study_id"]
        for dropout in (0.5, 0.1, 0.2, 0.3)[: RULE.needed]:
            answer = await self.call("run_trial", study_id=study_id, changes={"dropout": dropout})
            assert answer["status"] == "ok"
        return study_id

    def spec(self, trial_id: str) -> TrialSpec:
        folder = self.runtime.settings.trials_dir / trial_id
        return TrialSpec.model_validate_json((folder / "spec.json").read_bytes())


@asynccontextmanager
async def desk(home: Path) -> AsyncIterator[Desk]:
    async with (
        open_runtime(Settings(home=home), StubExecutor(obedient)) as runtime,
        Client(create_app(runtime)) as client,
    ):
        yield Desk(client, runtime)


@pytest.mark.anyio
async def test_a_hopeless_trial_is_stopped_and_says_so(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        study_id = await at.crowded()
        answer = await at.call("run_trial", study_id=study_id, changes={"dropout": 0.8})
        assert (answer["status"], answer.get("verdict"), answer["epochs"]) == ("stopped", None, RULE.grace + 1)
        assert answer["verdict_words"].startswith("Not measured: it was ended early")
        assert answer["message"].startswith("stopped early at epoch 4: ndcg@10 was 0.0050 at best, below the 0.0")
        assert answer["diagnosis"] == [
            "stopped: not measured, because the early-stopping rule ended it at epoch 4; slow is not hopeless: "
            f"run_trial(replicate_of={answer['trial_id']!r}) trains it to its end"
        ]
        assert f"replicate_of='{answer['trial_id']}') trains it to its end" in answer["next"]
        assert answer["delta"] == {}
        spec = at.spec(answer["trial_id"])
        assert len(spec.stop_below) == spec.config["max_epochs"]
        assert spec.stop_below[: RULE.grace] == (0.0,) * RULE.grace
        assert all(spec.stop_below[RULE.grace :])


@pytest.mark.anyio
async def test_a_stopped_trial_is_never_incumbent_and_its_books_are_kept(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        study_id = await at.crowded()
        stopped = await at.call("run_trial", study_id=study_id, changes={"dropout": 0.8})
        assert stopped["trial_id"] not in stopped["incumbent"]["trial_ids"]
        following = await at.call("run_trial", study_id=study_id, changes={"num_blocks": 1})
        assert following["parent"] != stopped["trial_id"]
        (line,) = (await at.call("read_memory"))["studies"]
        assert (line["early_stop"], line["trainings"]) == ("auto", 6)
        items = (await at.call("read_memory", study_id=study_id, level="trial"))["items"]
        kept = next(item for item in items if item["id"] == stopped["trial_id"])
        assert "verdict" not in kept
        assert "stopped early at epoch 4" in kept["text"]
        prompt = text_in((await at.client.get_prompt("distill", {"study_id": study_id})).messages[0].content)
        assert "stopped early at epoch 4" in prompt
        assert "0.005 worse" not in prompt


@pytest.mark.anyio
async def test_the_default_and_further_seeds_are_trained_to_their_end(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        study_id = await at.crowded()
        stopped = await at.call("run_trial", study_id=study_id, changes={"dropout": 0.8})
        for arguments in (
            {"replicate_of": stopped["trial_id"]},
            {"parent": stopped["trial_id"], "changes": {}, "seed": 7},
            {"changes": {"dropout": 0.5}, "seed": 9},
        ):
            answer = await at.call("run_trial", study_id=study_id, **arguments)
            assert (answer["status"], at.spec(answer["trial_id"]).stop_below) == ("ok", ())
        again = await at.call("run_trial", study_id=study_id, changes={"dropout": 0.8})
        assert (again["trial_id"], again["duplicate"]) == (stopped["trial_id"], True)


@pytest.mark.anyio
async def test_off_trains_everything_to_its_end(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        study_id = await at.crowded(early_stop="off")
        answer = await at.call("run_trial", study_id=study_id, changes={"dropout": 0.8})
        assert (answer["status"], at.spec(answer["trial_id"]).stop_below) == ("ok", ())
        assert (await at.call("start_study", dataset="demo", early_stop="off"))["brief"]["early_stop"] == "off"
        assert (await at.call("start_study", dataset="demo"))["brief"]["early_stop"] == "auto"


@pytest.mark.anyio
async def test_one_trial_may_lift_the_rule_also_after_it_was_stopped(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        study_id = await at.crowded()
        fresh = await at.call("run_trial", study_id=study_id, changes={"dropout": 0.75}, early_stop="off")
        assert (fresh["status"], fresh["epochs"], at.spec(fresh["trial_id"]).stop_below) == ("ok", EPOCHS, ())
        stopped = await at.call("run_trial", study_id=study_id, changes={"dropout": 0.8})
        lifted = await at.call("run_trial", study_id=study_id, changes={"dropout": 0.8}, early_stop="off")
        assert (stopped["status"], lifted["status"], lifted["epochs"]) == ("stopped", "ok", EPOCHS)
        assert (lifted["number"], lifted["seed"], lifted["duplicate"]) == (stopped["number"], stopped["seed"], False)
        again = await at.call("run_trial", study_id=study_id, changes={"dropout": 0.8}, early_stop="off")
        assert (again["trial_id"], again["duplicate"]) == (lifted["trial_id"], True)


@pytest.mark.anyio
async def test_too_few_trainings_stop_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        for dropout in (0.5, 0.1, 0.8):
            answer = await at.call("run_trial", study_id=study_id, changes={"dropout": dropout})
            assert (answer["status"], at.spec(answer["trial_id"]).stop_below) == ("ok", ())


@pytest.mark.anyio
async def test_a_real_training_without_a_chance_is_stopped(tmp_path: Path, walkers: Dataset) -> None:
    """Users who walk a circle are learnt within a few epochs; at a rate of 1e-5 nothing is."""
    shutil.copytree(walkers.path.parent, tmp_path / "datasets")
    small = {"hidden_dim": 32, "num_blocks": 1, "dropout": 0.1, "max_epochs": 8, "batch_size": 32}
    space = {**small, "learning_rate": {"low": 1e-5, "high": 1e-2}}
    async with open_runtime(Settings(home=tmp_path)) as runtime, Client(create_app(runtime)) as client:
        at = Desk(client, runtime)
        study_id = (await at.call("start_study", dataset="walkers", space=space))["study_id"]
        for rate in (0.001, 0.003, 0.005, 0.002):
            given = {"learning_rate": rate}
            answer = await at.call("run_trial", study_id=study_id, changes=given, wait_seconds=200)
            assert answer["status"] == "ok"
        hopeless = await at.call("run_trial", study_id=study_id, changes={"learning_rate": 1e-5}, wait_seconds=200)
        assert (hopeless["status"], hopeless.get("verdict")) == ("stopped", None)
        assert RULE.grace < hopeless["epochs"] < 8
        asked = at.spec(hopeless["trial_id"]).stop_below
        assert 0 < hopeless["metrics"][METRIC] < asked[hopeless["epochs"] - 1]
        result = read_result(runtime.settings.trials_dir / hopeless["trial_id"], hopeless["trial_id"])
        assert result is not None
        assert result.message in hopeless["message"]
        finished = await at.call("finish_study", study_id=study_id, wait_seconds=200)
        assert hopeless["trial_id"] not in finished["chosen"]["trial_ids"]


# What memory keeps


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    found = Memory.open(tmp_path / "memory.duckdb")
    yield found
    found.close()


def test_a_study_remembers_whether_it_stops(memory: Memory) -> None:
    memory.add_study(study(study_id="s-1", early_stop="auto"))
    memory.add_study(study(study_id="s-2"))
    assert [memory.study(name).early_stop for name in ("s-1", "s-2")] == ["auto", "off"]
    assert plan_of(memory.study("s-1")).request.early_stop == "auto"


def test_a_study_from_before_there_was_a_choice_does_not_stop(tmp_path: Path) -> None:
    path = tmp_path / "memory.duckdb"
    opened = Connection(path)
    migrate(opened, [step for step in shipped() if step.version < 3])
    opened.close()
    values = study().model_dump(
        exclude={
            "facts",
            "space",
            "closing",
            "finished",
            "early_stop",
            "guardrails",
            "withhold",
            "gpu_seconds",
            "min_gain",
            "confirm_seeds",
            "created_at",
        }
    )
    values |= {"facts": study().facts.model_dump_json(), "space": study().space.model_dump_json()}
    with duckdb.connect(str(path)) as database:
        names, marks = ", ".join(values), ", ".join(f"${name}" for name in values)
        database.execute(f"INSERT INTO studies ({names}, created_at) VALUES ({marks}, '2026-01-01')", values)
    found = Memory.open(path)
    assert found.study("s-1").early_stop == "off"
    found.close()


def trained(
    memory: Memory, dropout: float, best: float, status: Outcome = "ok", weights_of: str | None = None, **more: Any
) -> str:
    """A trial of the study s-1 with six epochs, the last the best."""
    made = memory.study("s-1")
    config = made.space.apply(made.space.default(), {"dropout": dropout, **more})
    new = NewTrial(
        study_id="s-1", parent=None, changes={"dropout": dropout}, config=config,
        config_hash=made.space.hash(config), seed=0,
    )  # fmt: skip
    name = memory.start_trial(new).trial_id
    memory.add_epochs(
        name,
        [Epoch(epoch=n, loss=1, validation={METRIC: best * n / 6}, seconds=1, eval_seconds=1) for n in range(1, 7)],
    )
    memory.finish_trial(
        TrialResult(trial_id=name, status=status, validation={METRIC: best}, epochs=6, weights_of=weights_of)
    )
    return name


def test_only_trainings_that_say_something_count_and_shared_ones_once(memory: Memory) -> None:
    memory.add_study(study(early_stop="auto"))
    made, asking = memory.study("s-1"), trial(9, None, changes={"dropout": 0.8})
    first, *_ = [trained(memory, 0.1 * n, 0.1) for n in range(1, 5)]
    asked = stop_below(memory, made, asking)
    below = 2 * prior(5000).sigma + RULE.slack * (1 - 6 / (6 * RULE.lengths))
    assert asked[5] == pytest.approx(0.1 * (1 - below), rel=1e-4)
    trained(memory, 0.6, 0.9, status="diverged")
    trained(memory, 0.7, 0.9, status="cancelled")
    trained(memory, 0.75, 0.9, weights_of=first)
    assert stop_below(memory, made, asking) == asked
    trained(memory, 0.72, 0.5, status="timed_out")
    trained(memory, 0.73, 0.5, status="stopped")
    trained(memory, 0.74, 0.5)
    later = stop_below(memory, made, asking)
    assert later[5] == asked[5]  # the median of 0.1 four times and 0.5 three times
    trained(memory, 0.76, 0.5)
    trained(memory, 0.77, 0.5)
    later = stop_below(memory, made, asking)
    assert later[5] > later[6]  # what was ended counts up to its end
    assert stop_below(memory, study(), asking) == ()


def test_what_a_lower_limit_of_epochs_cut_off_is_not_drawn_out(memory: Memory) -> None:
    """The trial may train 120 epochs; others were cut off after 6 epochs, which is no end that it can be held to."""
    memory.add_study(study(early_stop="auto"))
    made, asking = memory.study("s-1"), trial(9, None, changes={"dropout": 0.8})
    for number in range(1, 5):
        trained(memory, 0.1 * number, 0.1, max_epochs=6)
    assert stop_below(memory, made, asking) == ()
    short = asking.model_copy(update={"config": {**asking.config, "max_epochs": 6}})
    assert len(stop_below(memory, made, short)) == 6


# What the protocol and the answers make of it


def stopped_trial(number: int = 1, reached: float = 0.09, **values: Any) -> Any:
    given = {"status": "stopped", "best_epoch": 5, "epochs": 5, "message": "stopped early at epoch 5: …", **values}
    return trial(number, reached, changes={"dropout": 0.1}, **given)


def test_a_stopped_trial_is_not_measured_and_never_leads_whatever_it_had_reached() -> None:
    first, second = trial(0, 0.05), stopped_trial(reached=0.09)
    judged = verdicts.verdict(study(), second, [first, second])
    assert (judged.comparison, judged.retest) == (None, ())
    best = verdicts.ranking_of(study(), [first, second]).leader
    assert best is not None
    assert best.trial_ids == ["t-0"]


def test_a_stopped_seed_is_no_replicate() -> None:
    seeds = [trial(0, 0.05), trial(0, 0.01, seed=1, status="stopped"), trial(0, 0.051, seed=2)]
    assert verdicts.noise_of(study(), seeds) == verdicts.noise_of(study(), [seeds[0], seeds[2]])


def test_a_policy_sees_what_was_reached_apart_from_scores() -> None:
    observed = observe(
        trial_answer_of(stopped_trial(), metrics={METRIC: 0.02}, status="stopped", epochs=5), SPACE.default(), METRIC
    )
    assert (observed.score, observed.reached, observed.epochs) == (None, 0.02, 5)


def trial_answer_of(one: Any, **values: Any) -> Any:
    given = {"study_id": "s-1", "trial_id": one.trial_id, "number": 1, "seed": 0, "changes": {}, "next": "…"}
    return TrialAnswer.model_validate({**given, **values})


# What policies make of it


def observed(number: int, score: float | None, dropout: float, **values: Any) -> Observation:
    config = SPACE.apply(SPACE.default(), {"dropout": dropout})
    given: dict[str, Any] = {"changes": {"dropout": dropout}, "parent": "t-0", "seconds": 30.0, "epochs": 20}
    status = "ok" if score is not None else "stopped"
    return Observation(f"t-{number}", number, config, 0, status, score, **{**given, **values})


DEFAULT = Observation("t-0", 0, SPACE.default(), 0, "ok", 0.05, seconds=30.0, epochs=20)
STOPPED = observed(1, None, 0.7, reached=0.049, seconds=3.0, epochs=4)


def test_tpe_is_told_of_a_pruned_trial_and_never_of_a_score() -> None:
    optuna_study = TPE().optuna_study(SPACE, [DEFAULT, STOPPED, observed(2, 0.04, 0.3)], 0)
    states = [one.state.name for one in optuna_study.trials]
    assert states == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert optuna_study.trials[1].intermediate_values == {4: 0.049}
    assert optuna_study.best_trial.number == 0


def test_tpe_moves_away_from_what_was_stopped() -> None:
    space = SPACE.restrict(
        {field.name: field.default for field in SPACE.fields if field.name != "dropout"}
        | {"dropout": {"low": 0.0, "high": 0.8}}
    )
    history = [DEFAULT] + [observed(n, 0.06 - 0.01 * n / 10, 0.05 * n) for n in range(1, 6)]
    history += [observed(n, None, 0.05 * n, reached=0.2) for n in range(10, 17)]
    asked = []
    for seed in range(8):
        proposal = load("tpe").propose(space, history, PolicyContext(METRIC, "sasrec"), Random(seed))
        assert proposal is not None
        asked.append(float(proposal.changes.get("dropout", 0.5)))
    assert sum(dropout < 0.45 for dropout in asked) >= 6


def test_the_playbook_gives_the_way_up_and_builds_on_the_default() -> None:
    history = [DEFAULT, STOPPED]
    assert given_up(history) == {("dropout", True)}
    assert usual_seconds(history) == 30.0
    proposal = load("playbook").propose(SPACE, history, PolicyContext(METRIC, "sasrec"), Random(0))
    assert proposal is not None
    assert (proposal.parent, proposal.replicate_of) == ("t-0", None)


def test_an_effect_of_a_stopped_trial_has_no_size() -> None:
    (found,) = effects([DEFAULT, STOPPED], Sigma(0.02, 6.0))
    assert (found.relative, found.status, found.believable) == (None, "stopped", False)


# What the drive shows


def hopeless_at_high_dropout(config: Any, seed: int) -> float | str:
    return "stopped" if float(config["dropout"]) != 0.5 else 0.05


def test_a_drive_reports_stopped_trainings(tmp_path: Path) -> None:
    server = FakeServer(hopeless_at_high_dropout)
    plan = plan_for(policy="random", max_trials=3, early_stop="off")
    assert run_drive(plan, server.connect, tmp_path, tmp_path, False) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["status"] for one in report["trials"]][1:] == ["stopped", "stopped"]
    page = (tmp_path / "report.md").read_text()
    assert "2 trainings stopped early (≥): far below earlier ones at that age, and never chosen." in page
    assert "--early-stop off" in page
    assert report["best"]["trial_ids"] == report["default"]["trial_ids"]


def test_a_lower_bound_is_shown_as_one() -> None:
    row = cells(trial_answer_of(stopped_trial(), metrics={METRIC: 0.02}, status="stopped", epochs=5), METRIC)
    assert (row[3], row[4]) == ("stopped", "≥ 0.0200")


def test_the_choice_reaches_the_study() -> None:
    assert "early_stop" not in plan_for().study_arguments()
    assert plan_for(early_stop="off").study_arguments()["early_stop"] == "off"
    assert "--early-stop" not in plan_for().command()
