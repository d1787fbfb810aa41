"""The end of a study: fresh seeds of the choice and of the default, one look at the test, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from memory.records import Trial
from server.executors.base import Exit
from server.executors.testing.stub import Answer, StubExecutor, curve
from server.owner.assembly import open_runtime
from server.settings import Settings
from tests.support.tool_client import ToolClient, by_dropout, tool_client
from tests.support.trials import until
from trainers.contract.metrics import METRICS
from trainers.contract.wire import EvaluationSpec, Revealed, TrialSpec

pytestmark = pytest.mark.anyio
LESS = {"dropout": 0.1}
FRESH = "a fresh seed for the end of the study, drawn after the choice was made"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Look:
    """The evaluations of a home. A trained configuration with less dropout scores `less` on the test, others `more`."""

    def __init__(self, less: float, more: float, **values: Any) -> None:
        self.less, self.more, self.values = less, more, values
        self.configs: dict[str, TrialSpec] = {}
        self.requests: list[EvaluationSpec] = []

    def train(self, trial: TrialSpec) -> Answer:
        self.configs[trial.trial_id] = trial
        return by_dropout(trial)

    def score(self, trial_id: str) -> float:
        trial = self.configs[trial_id]
        return (self.less if trial.config["dropout"] == 0.1 else self.more) * (1 + 0.001 * trial.seed)

    def __call__(self, request: EvaluationSpec) -> Revealed:
        self.requests.append(request)
        names = [checkpoint.trial_id for checkpoint in request.checkpoints]
        trials = {name: dict.fromkeys(map(str, METRICS), self.score(name)) for name in names}
        return Revealed(status="ok", trials=trials, **self.values)


async def tuned(at: ToolClient, **asked: Any) -> str:
    """A study that has trained its default and a better configuration once each."""
    study_id = (await at.call("start_study", dataset="demo", **asked))["study_id"]
    await at.call("run_trial", study_id=study_id)
    await at.call("run_trial", study_id=study_id, changes=LESS)
    return study_id


async def finished(at: ToolClient, study_id: str) -> dict[str, Any]:
    return await at.call("finish_study", study_id=study_id, wait_seconds=60)


def fresh(at: ToolClient, study_id: str) -> list[Trial]:
    return [trial for trial in at.runtime.memory.trials(study_id) if trial.hypothesis == FRESH]


def looks(at: ToolClient) -> int:
    with at.runtime.memory._connection.read() as cursor:  # pyright: ignore[reportPrivateUsage]
        return cursor.rows("SELECT count(*) AS looks FROM looks")[0]["looks"]


async def test_choice_and_default_are_tested_on_fresh_seeds_in_one_evaluation(tmp_path: Path) -> None:
    look = Look(0.06, 0.05)
    async with tool_client(tmp_path, look.train, reveal=look) as at:
        study_id = await tuned(at, max_trials=2)
        ended = await finished(at, study_id)
        trials = fresh(at, study_id)
        assert [(trial.number, trial.seed) for trial in trials] == [(1, 1), (1, 2), (0, 1), (0, 2)]
        assert (ended["trainings"], len(look.requests), looks(at)) == (6, 1, 1)
        assert ended["chosen"]["tested"] == [trial.trial_id for trial in trials[:2]]
        assert ended["default"]["tested"] == [trial.trial_id for trial in trials[2:]]
        assert ended["chosen"]["test"]["ndcg@10"] == pytest.approx(0.06 * 1.0015, abs=1e-5)
        assert ended["default"]["test"]["ndcg@10"] == pytest.approx(0.05 * 1.0015, abs=1e-5)
        assert ended["test_delta"] == pytest.approx(0.2)
        assert ended["checkpoint"].endswith(f"{trials[1].trial_id}/checkpoint.safetensors")  # the best validation
        assert "Tested on seeds 1 and 2 of either side, drawn after the choice." in ended["words"]
        users = at.runtime.memory.study(study_id).facts.users
        assert f"Measured on {users:,} users, tested on {users:,}." in ended["words"]
        assert await finished(at, study_id) == ended
        assert len(look.requests) == 1


@pytest.mark.parametrize(
    ("less", "more", "result"),
    [(0.15, 0.05, "beats the default"), (0.05, 0.15, "is worse than the default"), (0.05, 0.05, "is not told apart")],
)
async def test_the_choice_stands_whatever_its_fresh_seeds_say(
    less: float, more: float, result: str, tmp_path: Path
) -> None:
    look = Look(less, more)
    async with tool_client(tmp_path, look.train, reveal=look) as at:
        study_id = await tuned(at)
        ended = await finished(at, study_id)
        assert ended["chosen"]["changes"] == LESS
        assert f"The chosen configuration {result}" in ended["words"]
        stands = "The choice stands although its fresh seeds lost: it was made before they were drawn."
        assert (stands in ended["words"]) == (less < more)
        assert (await at.call("get_study", study_id=study_id))["best"]["number"] == 1


async def test_fresh_seeds_that_validate_badly_do_not_change_the_choice(tmp_path: Path) -> None:
    def lucky(trial: TrialSpec) -> Answer:
        chosen = trial.config["dropout"] == 0.1
        return curve(trial, best=0.2 if chosen and trial.seed == 0 else 0.09 if chosen else 0.1)

    async with tool_client(tmp_path, lucky) as at:
        study_id = await tuned(at)
        ended = await finished(at, study_id)
        assert ended["chosen"]["changes"] == LESS
        assert (await at.call("get_study", study_id=study_id))["best"]["number"] == 1


async def test_while_fresh_seeds_are_trained_clients_are_refused(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = await tuned(at)
        at.executor.gate.clear()
        assert (await at.call("finish_study", study_id=study_id, wait_seconds=0))["status"] == "running"
        await until(lambda: len(fresh(at, study_id)) == 2)
        shown = await at.call("get_study", study_id=study_id)
        assert (shown["status"], len(shown["running"])) == ("closing", 2)
        refusal = await at.refused("run_trial", study_id=study_id, changes={"dropout": 0.3})
        assert "its choice is made, and only its fresh seeds are trained" in refusal
        assert looks(at) == 0
        at.executor.gate.set()
        assert (await finished(at, study_id))["trainings"] == 6


async def test_an_owner_that_starts_trains_only_what_is_missing_and_looks_once(tmp_path: Path) -> None:
    look = Look(0.06, 0.05)
    async with tool_client(tmp_path, look.train, reveal=look) as at:
        study_id = await tuned(at)

        def hold_second(trial: TrialSpec) -> Answer:
            if trial.config["dropout"] == 0.1 and trial.seed == 2:
                at.executor.gate.clear()
            return look.train(trial)

        at.executor.train = hold_second
        await at.call("finish_study", study_id=study_id, wait_seconds=0)
        await until(lambda: not at.executor.gate.is_set())
        await until(lambda: any(trial.status == "running" for trial in fresh(at, study_id)))
        before = {trial.trial_id: trial.status for trial in fresh(at, study_id)}
        assert looks(at) == 0
    executor = StubExecutor(look.train, reveal=look)
    async with open_runtime(Settings(home=tmp_path), executor) as runtime:
        await until(lambda: runtime.memory.study(study_id).finished)
        trials = [trial for trial in runtime.memory.trials(study_id) if trial.hypothesis == FRESH]
        assert [(trial.number, trial.seed, trial.status) for trial in trials] == [
            (1, 1, "ok"), (1, 2, "ok"), (0, 1, "ok"), (0, 2, "ok")
        ]  # fmt: skip
        assert [trial.trial_id for trial in trials[:2]] == list(before)
        worked_on = [executor.started.get_nowait() for _ in range(executor.started.qsize())]
        again = [trial.trial_id for trial in trials if before.get(trial.trial_id) != "ok"]
        assert worked_on == [*again, f"reveal-{study_id}"]
        assert (len(look.requests), len(look.requests[0].checkpoints)) == (1, 6)


async def test_an_evaluation_that_was_cut_off_is_read_again_without_training_and_is_one_look(tmp_path: Path) -> None:
    look = Look(0.06, 0.05)
    async with tool_client(tmp_path, look.train, reveal=look) as at:
        study_id = await tuned(at)

        def hold(request: EvaluationSpec) -> Revealed:
            at.executor.gate.clear()
            return look(request)

        at.executor.reveal = hold
        await at.call("finish_study", study_id=study_id, wait_seconds=0)
        await until(lambda: look.requests)
        assert looks(at) == 1
    executor = StubExecutor(look.train, reveal=look)
    async with open_runtime(Settings(home=tmp_path), executor) as runtime:
        await until(lambda: runtime.memory.study(study_id).finished)
        assert [executor.started.get_nowait() for _ in range(executor.started.qsize())] == [f"reveal-{study_id}"]
        reveal = runtime.memory.reveals.of_study(study_id)
        assert reveal is not None
        assert reveal.ordinal == 1
        assert look.requests[0] == look.requests[1]
        assert [name for name in (*reveal.chosen, *reveal.default) if look.configs[name].seed == 0] == []


def failing(fails: Callable[[TrialSpec], bool]) -> Callable[[TrialSpec], Answer]:
    return lambda trial: Answer(exit=Exit(cause="crashed", message="no luck")) if fails(trial) else by_dropout(trial)


async def test_a_fresh_seed_that_fails_is_left_out_and_said(tmp_path: Path) -> None:
    async with tool_client(tmp_path, failing(lambda trial: trial.config["dropout"] == 0.1 and trial.seed == 2)) as at:
        ended = await finished(at, await tuned(at))
        assert (len(ended["chosen"]["tested"]), len(ended["default"]["tested"])) == (1, 2)
        assert (
            "Tested on seed 1 of the choice and seeds 1 and 2 of the default, drawn after the choice." in ended["words"]
        )
        assert "Fresh seed 2 of the choice ended crashed and is left out." in ended["words"]


async def test_a_side_without_a_fresh_seed_falls_back_to_all_seeds(tmp_path: Path) -> None:
    async with tool_client(tmp_path, failing(lambda trial: trial.seed > 0 and trial.config["dropout"] == 0.1)) as at:
        ended = await finished(at, await tuned(at))
        assert (len(ended["chosen"]["tested"]), len(ended["default"]["tested"])) == (1, 3)
        flattered = "The seeds that chose it also test it, which flatters it: no fresh seed of one side scored."
        assert flattered in ended["words"]


@pytest.mark.parametrize(
    ("asked", "trained", "words"),
    [
        ({"confirm_seeds": 0}, 0, "which flatters it: no fresh seeds were asked for (confirm_seeds=0)."),
        ({"confirm_seeds": 1}, 2, "Tested on seed 1 of either side, drawn after the choice."),
        ({"budget_seconds": 8.0}, 0, "which flatters it: the budget had no room for fresh seeds."),
        ({"budget_seconds": 17.5}, 2, "The budget had room for 1 of 2 fresh seeds a side."),
    ],
)
async def test_fresh_seeds_are_asked_for_and_have_to_fit_the_budget(
    asked: dict[str, Any], trained: int, words: str, tmp_path: Path
) -> None:
    async with tool_client(tmp_path) as at:  # a training takes 4.5 s, by what it says
        study_id = await tuned(at, **asked)
        assert words in (await finished(at, study_id))["words"]
        assert len(fresh(at, study_id)) == trained


async def test_a_default_without_a_score_is_trained_before_the_end(tmp_path: Path) -> None:
    look = Look(0.06, 0.05)
    async with tool_client(tmp_path, look.train, reveal=look) as at:
        study_id = (await at.call("start_study", dataset="demo", confirm_seeds=0))["study_id"]
        at.executor.gate.clear()
        trial_id = (await at.call("run_trial", study_id=study_id, wait_seconds=0))["trial_id"]
        await at.call("cancel_trial", trial_id=trial_id)
        at.executor.gate.set()
        await at.call("run_trial", study_id=study_id, changes=LESS)
        ended = await finished(at, study_id)
        assert [(trial.number, trial.seed) for trial in fresh(at, study_id)] == [(0, 1)]
        assert ended["test_delta"] == pytest.approx(0.06 / 0.05 / 1.001 - 1, abs=1e-4)
        assert looks(at) == 1


async def test_without_a_default_to_compare_with_no_look_is_spent(tmp_path: Path) -> None:
    look = Look(0.06, 0.05)
    async with tool_client(tmp_path, failing(lambda trial: trial.config["dropout"] != 0.1), reveal=look) as at:
        study_id = await tuned(at)
        ended = await finished(at, study_id)
        assert (ended["status"], looks(at), look.requests) == ("finished", 0, [])
        assert ended["words"].startswith("The default configuration has no score, so the choice could be compared")
        assert ended["chosen"]["changes"] == LESS
        assert "test_reveal" not in ended


async def test_a_default_that_was_chosen_is_trained_no_more(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        await at.call("run_trial", study_id=study_id)
        await at.call("run_trial", study_id=study_id, changes={"dropout": 0.8})
        ended = await finished(at, study_id)
        assert (ended["trainings"], ended["test_delta"]) == (2, 0.0)
        assert "The default configuration is the best found" in ended["words"]


async def test_a_baseline_that_wins_is_named_first_on_validation_and_on_the_test(tmp_path: Path) -> None:
    scores = {"popularity": 0.01, "last_item_transition": 0.02, "item_knn": 0.07}
    look = Look(0.06, 0.05, baselines={name: dict.fromkeys(METRICS, score) for name, score in scores.items()})

    def poor(trial: TrialSpec) -> Answer:
        look.configs[trial.trial_id] = trial
        return curve(trial, best=0.006 if trial.config["dropout"] == 0.1 else 0.002)

    async with tool_client(tmp_path, poor, reveal=look) as at:
        study_id = await tuned(at)
        validation = (await at.call("start_study", dataset="demo"))["brief"]["baselines"]
        ended = await finished(at, study_id)
        assert ended["baselines"] == scores
        names = [name for name in scores if validation[name]["ndcg@10"] > 0.006]
        assert names[-1] == "item_knn"
        assert ended["words"].startswith(f"{names[0]} beats the chosen configuration on validation (")
        won = f"item_knn beats the chosen configuration on validation ({validation['item_knn']['ndcg@10']:.4f} against"
        assert won in ended["words"]
        assert "0.0060) and on the test (0.0700 against 0.0601)." in ended["words"]
        assert ended["words"].count("on the test (") == 1


async def test_the_users_of_the_test_are_in_the_interval_and_their_ranks_do_not_stay(tmp_path: Path) -> None:
    look = Look(0.06, 0.05, users=40)

    def ranks(request: EvaluationSpec) -> dict[str, npt.NDArray[np.uint8]]:
        found: dict[str, npt.NDArray[np.uint8]] = {}
        for checkpoint in request.checkpoints:
            places = np.full(40, 255, np.uint8)
            places[: 8 if look.configs[checkpoint.trial_id].config["dropout"] == 0.1 else 6] = 1
            found[checkpoint.trial_id] = places
        return found

    async with tool_client(tmp_path, look.train, reveal=look, ranks=ranks) as at:
        study_id = await tuned(at)
        ended = await finished(at, study_id)
        reveal = at.runtime.memory.reveals.of_study(study_id)
        assert reveal is not None
        # Values over their mean: 5 for eight users against 40 / 6 for six of them.
        differences = np.array([5 - 40 / 6] * 6 + [5.0] * 2 + [0.0] * 32)
        assert reveal.user_variance == pytest.approx(float(np.var(differences, ddof=1)) / 40)
        assert "tested on 40." in ended["words"]
        assert "The interval counts seeds alone" not in ended["words"]
        assert not (tmp_path / "trials" / f"reveal-{study_id}" / "test_ranks.safetensors").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"shape": 39}, {"dtype": np.int64}, {"least": 0},
    ],
)  # fmt: skip
async def test_ranks_that_do_not_fit_are_not_believed_and_the_words_say_what_is_unknown(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    look = Look(0.06, 0.05, users=40)

    def ranks(request: EvaluationSpec) -> dict[str, Any]:
        places = np.full(wrong.get("shape", 40), wrong.get("least", 1), wrong.get("dtype", np.uint8))
        return {one.trial_id: places for one in request.checkpoints} if wrong else {}

    async with tool_client(tmp_path, look.train, reveal=look, ranks=ranks) as at:
        study_id = await tuned(at)
        ended = await finished(at, study_id)
        reveal = at.runtime.memory.reveals.of_study(study_id)
        assert reveal is not None
        assert reveal.user_variance is None
        assert "The interval counts seeds alone" in ended["words"]


async def test_an_evaluation_that_answers_for_too_few_is_refused(tmp_path: Path) -> None:
    def answers_one(request: EvaluationSpec) -> Revealed:
        return Revealed(status="ok", trials={request.checkpoints[0].trial_id: {"ndcg@10": 0.1}})

    async with tool_client(tmp_path, reveal=answers_one) as at:
        study_id = await tuned(at, confirm_seeds=0)
        refusal = await at.refused("finish_study", study_id=study_id, wait_seconds=60)
        assert "answered nothing for t-" in refusal


async def test_more_than_ten_fresh_seeds_are_refused(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        assert "confirm_seeds" in await at.refused("start_study", dataset="demo", confirm_seeds=11)
        assert "confirm_seeds" in await at.refused("start_study", dataset="demo", confirm_seeds=-1)
