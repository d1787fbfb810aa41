"""Weights of equal fingerprints are trained once: what the owner asks for, what the child makes of it, what counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from memory.records import Study, Trial
from memory.store import Memory
from server.executors.testing.stub import Answer, StubExecutor, curve
from server.scheduler.supervisor import Supervisor
from server.settings import Settings
from server.study import admission, standings, verdicts
from server.study.diagnosis import diagnose
from server.study.history import StudyHistory
from server.study.requests import TrialRequest
from server.views.trial import read_trial_answer
from tests.support.examples import study, trial
from tests.support.handmade import trial as handmade
from trainers.child import trial as trials
from trainers.contract.fields import space_of
from trainers.contract.fingerprint import fingerprint
from trainers.contract.space import Config, Field, Space
from trainers.contract.specs import SPECS
from trainers.contract.wire import TrialResult, TrialSpec
from trainers.data import Dataset

SASREC = space_of(SPECS["sasrec"])


def hashed(space: Space = SASREC, changes: Config | None = None, **values: Any) -> str:
    given: dict[str, Any] = {"seed": 0, "dataset_hash": "abc", "metric": "ndcg@10", "filter_rule": "yes"}
    return fingerprint(space, {**space.default(), **(changes or {})}, **{**given, **values})


@pytest.mark.parametrize(
    "different",
    [{"changes": {"dropout": 0.1}}, {"seed": 1}, {"dataset_hash": "d"}, {"metric": "mrr@10"}, {"filter_rule": "no"}],
)
def test_what_decides_the_weights_or_their_epoch_is_in_the_fingerprint(different: dict[str, Any]) -> None:
    assert hashed(**different) != hashed()


def test_what_has_no_effect_or_only_scores_is_not_in_the_fingerprint() -> None:
    scoring = Field(name="popularity", kind="float", default=0.1, group="scoring", low=0, high=1)
    wider = SASREC.model_copy(update={"fields": (*SASREC.fields, scoring)})
    assert hashed(changes={"num_negatives": 7}) == hashed()  # the loss is the full softmax
    assert hashed(wider) == hashed(wider, {"popularity": 0.5}) == hashed()
    assert hashed(SASREC.restrict({"dropout": [0.5, 0.6]})) == hashed()


# The child's side


def prepare(folder: Path, dataset: Dataset, weights_of: str | None = None, **config: Any) -> None:
    folder.mkdir()
    changed = {"dataset_hash": dataset.content_hash, "trial_id": folder.name, "weights_of": weights_of}
    (folder / "spec.json").write_text(handmade(**config).model_copy(update=changed).model_dump_json())


def ran(folder: Path, dataset: Dataset) -> TrialResult:
    trials.run(folder, dataset.path.parent)
    return TrialResult.model_validate_json((folder / "result.json").read_bytes())


@pytest.fixture
def first(tmp_path: Path, walkers: Dataset) -> TrialResult:
    """The result of a finished training in t-1."""
    prepare(tmp_path / "t-1", walkers)
    return ran(tmp_path / "t-1", walkers)


def test_a_reused_training_costs_one_evaluation_and_leaves_the_files_of_a_training(
    first: TrialResult, tmp_path: Path, walkers: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "train", lambda *_: pytest.fail("it trained"))
    source, folder = tmp_path / "t-1", tmp_path / "t-2"
    prepare(folder, walkers, "t-1")
    result = ran(folder, walkers)
    changed = {"trial_id", "seconds", "eval_seconds", "peak_memory_mb", "predicted_memory_mb", "weights_of"}
    took = result.measures.pop("ms_per_1000_users"), first.measures.pop("ms_per_1000_users")
    assert min(took) > 0
    assert result.model_dump(exclude=changed) == first.model_dump(exclude=changed)
    assert (result.trial_id, result.seconds, result.weights_of) == ("t-2", 0.0, "t-1")
    assert result.eval_seconds > 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in source.iterdir())
    assert (folder / "epochs.jsonl").read_bytes() == (source / "epochs.jsonl").read_bytes()
    for name in ("checkpoint.safetensors", "validation_ranks.safetensors"):
        found, expected = load_file(folder / name), load_file(source / name)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in found)


def test_reused_weights_can_be_reused(first: TrialResult, tmp_path: Path, walkers: Dataset) -> None:
    for name, source in (("t-2", "t-1"), ("t-3", "t-2")):
        prepare(tmp_path / name, walkers, source)
        assert ran(tmp_path / name, walkers).weights_of == source


def test_a_trial_that_only_scores_otherwise_takes_the_weights_and_is_ranked_anew(
    first: TrialResult, tmp_path: Path, walkers: Dataset
) -> None:
    prepare(tmp_path / "t-2", walkers, "t-1", transition_alpha=2.0, score_normalization="none")
    result = ran(tmp_path / "t-2", walkers)
    assert (result.weights_of, result.best_epoch) == ("t-1", first.best_epoch)
    assert result.validation != first.validation
    weights = [load_file(tmp_path / name / "checkpoint.safetensors") for name in ("t-1", "t-2")]
    assert all(np.array_equal(weights[0][key], weights[1][key]) for key in weights[0])
    one, other = (load_file(tmp_path / name / "validation_ranks.safetensors")["ranks"] for name in ("t-1", "t-2"))
    assert not np.array_equal(one, other)
    prepare(tmp_path / "t-3", walkers, "t-2")  # and back: what was scored otherwise has the same weights
    assert ran(tmp_path / "t-3", walkers).validation == first.validation


def test_a_checkpoint_of_reused_weights_says_whose_it_is(first: TrialResult, tmp_path: Path, walkers: Dataset) -> None:
    """num_negatives has no effect here; a field that only scores is as free to differ."""
    prepare(tmp_path / "t-2", walkers, "t-1", num_negatives=7)
    assert ran(tmp_path / "t-2", walkers).weights_of == "t-1"
    with safe_open(tmp_path / "t-2" / "checkpoint.safetensors", "np") as file:
        assert '"num_negatives": 7' in file.metadata()["config"]


def cut(name: str) -> Callable[[Path], object]:
    def half(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return half


def rewritten(**values: object) -> Callable[[Path], object]:
    def rewrite(folder: Path) -> None:
        path = folder / "result.json"
        result = TrialResult.model_validate_json(path.read_bytes())
        path.write_text(result.model_copy(update=values).model_dump_json())

    return rewrite


def without_an_epoch(folder: Path) -> None:
    lines = (folder / "epochs.jsonl").read_text().splitlines(keepends=True)
    (folder / "epochs.jsonl").write_text("".join(lines[:-1]))


BROKEN: dict[str, Callable[[Path], object]] = {
    "gone": lambda folder: folder.rename(folder.with_name("t-elsewhere")),
    "without its checkpoint": lambda folder: (folder / "checkpoint.safetensors").unlink(),
    "checkpoint cut in half": cut("checkpoint.safetensors"),
    "spec cut in half": cut("spec.json"),
    "result cut in half": cut("result.json"),
    "curve cut in half": cut("epochs.jsonl"),
    "an epoch short": without_an_epoch,
    "timed out": rewritten(status="timed_out"),
    "of another trainer": rewritten(trainer_version="0"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_source_that_is_not_whole_is_told_in_one_line_and_it_trains(
    broken: str, first: TrialResult, tmp_path: Path, walkers: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    BROKEN[broken](tmp_path / "t-1")
    check_that_it_trains(tmp_path, walkers, caplog)


@pytest.mark.parametrize("config", [{"seed": 1}, {"dropout": 0.25}])
def test_a_source_of_another_fingerprint_is_told_in_one_line_and_it_trains(
    config: dict[str, Any], first: TrialResult, tmp_path: Path, walkers: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    check_that_it_trains(tmp_path, walkers, caplog, **config)
    assert "another training fingerprint" in caplog.text


@pytest.mark.parametrize("name", ["../t-1", "..", "t-2", ""])
def test_only_another_trial_is_a_source(
    name: str, first: TrialResult, tmp_path: Path, walkers: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    check_that_it_trains(tmp_path, walkers, caplog, name)
    assert "is not another trial" in caplog.text


def check_that_it_trains(
    tmp_path: Path, walkers: Dataset, caplog: pytest.LogCaptureFixture, source: str = "t-1", **config: Any
) -> None:
    caplog.set_level("INFO", logger="trainers")
    prepare(tmp_path / "t-2", walkers, source, **config)
    caplog.clear()
    result = ran(tmp_path / "t-2", walkers)
    said = [record.getMessage() for record in caplog.records if "cannot be reused" in record.getMessage()]
    assert (result.status, result.weights_of, result.epochs) == ("ok", None, 3)
    assert result.seconds > 0
    assert len(said) == 1
    assert "\n" not in said[0]


# The owner's side

pytestmark = pytest.mark.anyio


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    found = Memory.open(tmp_path / "memory.duckdb")
    yield found
    found.close()


class Trainings(StubExecutor):
    """Leaves a checkpoint and says whose weights it took; by trial id, what each was asked for is in `asked`."""

    def __init__(self, home: Path, **result: object) -> None:
        super().__init__(self._answer)
        self.asked: dict[str, TrialSpec] = {}
        self._home = home
        self._result: dict[str, object] = result

    def _answer(self, trial: TrialSpec) -> Answer:
        self.asked[trial.trial_id] = trial
        (self._home / "trials" / trial.trial_id / "checkpoint.safetensors").touch()
        answer = curve(trial, best=(trial.seed + 1) / 16)
        assert answer.result is not None
        changed = {"weights_of": trial.weights_of, **self._result}
        return answer.model_copy(update={"result": answer.result.model_copy(update=changed)})


class House:
    """An owner with two studies of one dataset."""

    def __init__(self, memory: Memory, executor: Trainings, supervisor: Supervisor) -> None:
        self.memory = memory
        self.executor = executor
        self.supervisor = supervisor

    async def train(self, study_id: str = "s-1", seed: int = 0, changes: Config | None = None) -> Trial:
        asked, known = self.memory.study(study_id), self.memory.trials(study_id)
        parent = known[0].trial_id if known else None
        request = TrialRequest(study_id=study_id, changes=changes, parent=parent, seed=seed)
        new = admission.plan_trial(StudyHistory(asked, known), request)
        queued = self.memory.start_trial(new)
        await self.supervisor.enqueue(queued, asked)
        await self.supervisor.wait(queued.trial_id, 60)
        return self.memory.trial(queued.trial_id)


@pytest.fixture
async def house(memory: Memory, tmp_path: Path) -> Any:
    async with AsyncExitStack() as stack:
        executor = await stack.enter_async_context(Trainings(tmp_path))
        settings = Settings(home=tmp_path, threads=1)
        supervisor = Supervisor(memory, executor, settings, poll_seconds=0.005)
        memory.add_study(study())
        memory.add_study(study(study_id="s-2", max_trials=5))
        yield House(memory, executor, await stack.enter_async_context(supervisor))


async def test_a_second_study_takes_the_weights_of_the_first(house: House) -> None:
    trained, again, other = await house.train(), await house.train("s-2"), await house.train("s-2", seed=1)
    asked = house.executor.asked
    assert [asked[one.trial_id].weights_of for one in (trained, again, other)] == [None, trained.trial_id, None]
    assert (again.weights_of, again.fingerprint) == (trained.trial_id, trained.fingerprint)
    assert (
        asked[again.trial_id].model_copy(update={"trial_id": trained.trial_id, "weights_of": None})
        == (asked[trained.trial_id])
    )


async def test_it_is_said_in_words_and_counts_in_the_books(house: House) -> None:
    trained, again = await house.train(), await house.train("s-2")
    answer = read_trial_answer(house.memory, again)
    assert answer.diagnosis[-1] == f"reused: weights of {trained.trial_id}, evaluated again; nothing was trained"
    assert (answer.trainings, answer.trials_left) == (1, 4)
    assert not any("reused" in finding for finding in read_trial_answer(house.memory, trained).diagnosis)


async def test_a_diagnosis_without_a_curve_says_so_too() -> None:
    copied = trial(0, 0.1, weights_of="t-1")
    assert diagnose(copied, [], "ndcg@10", 0.03, {}) == ["reused: weights of t-1, evaluated again; nothing was trained"]


async def test_the_training_itself_is_preferred_and_a_copy_serves_where_it_is_gone(
    house: House, tmp_path: Path
) -> None:
    house.memory.add_study(study(study_id="s-3"))
    house.memory.add_study(study(study_id="s-4"))
    trained, copy, third = await house.train(), await house.train("s-2"), await house.train("s-3")
    assert third.weights_of == trained.trial_id
    (tmp_path / "trials" / trained.trial_id / "checkpoint.safetensors").unlink()
    assert (await house.train("s-4")).weights_of == copy.trial_id


@pytest.mark.parametrize("status", ["timed_out", "stopped", "cancelled", "diverged"])
async def test_only_a_training_that_ended_as_planned_is_reused(house: House, status: str) -> None:
    house.executor._result = {"status": status}
    await house.train()
    again = await house.train("s-2")
    assert house.executor.asked[again.trial_id].weights_of is None


async def test_another_metric_or_dataset_is_another_training(house: House) -> None:
    house.memory.add_study(study(study_id="s-3", metric="recall@10"))
    house.memory.add_study(study(study_id="s-4", dataset_hash="def"))
    house.memory.add_study(study(study_id="s-5", filter_seen="yes"))  # what auto means for this dataset
    trained = await house.train()
    others = [await house.train(study_id) for study_id in ("s-3", "s-4", "s-5")]
    assert [one.weights_of for one in others] == [None, None, trained.trial_id]


async def test_a_memory_that_cannot_be_asked_only_costs_a_training(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memory.errors import MemoryFault

    def refuse(fingerprint: str) -> list[str]:
        raise MemoryFault("The disk is full.")

    monkeypatch.setattr(house.memory, "trained", refuse)
    await house.train()
    assert (await house.train("s-2")).status == "ok"


async def test_two_of_one_fingerprint_in_the_queue_train_once(house: House) -> None:
    """The second is asked for while the first still runs: what is there counts when it starts."""
    house.executor.gate.clear()
    works = [asyncio.create_task(house.train(study_id)) for study_id in ("s-1", "s-2")]
    await house.executor.started.get()
    house.executor.gate.set()
    first, second = await asyncio.gather(*works)
    assert (first.weights_of, second.weights_of) == (None, first.trial_id)


# What counts as evidence of noise


def later(memory: Memory) -> Study:
    memory.add_study(study(study_id="s-later", created_at=datetime(2026, 2, 1, tzinfo=UTC)))
    return memory.study("s-later")


async def test_a_reused_training_is_no_second_evidence_of_noise(house: House) -> None:
    for study_id in ("s-1", "s-2"):
        for seed in range(3):
            await house.train(study_id, seed)
    memory = house.memory
    assert memory.replicates("sasrec", "ndcg@10", later(memory).created_at) == [(5000, (1 / 16, 2 / 16, 3 / 16))]
    own = {one: verdicts.noise_of(memory.study(one), memory.trials(one)) for one in ("s-1", "s-2", "s-later")}
    assert own["s-1"] != own["s-2"]  # its seeds count
    assert own["s-2"] == own["s-later"]  # the prior: its trainings are counted in s-1
    (standing,) = standings.ranked(memory.study("s-2"), memory.trials("s-2"))
    assert len(standing.scores) == 3  # yet its mean is of three seeds


async def test_seeds_that_studies_trained_apart_are_evidence_together(house: House) -> None:
    await house.train("s-1", 0)
    await house.train("s-2", 0)
    await house.train("s-2", 1)
    memory = house.memory
    assert memory.replicates("sasrec", "ndcg@10", later(memory).created_at) == [(5000, (1 / 16, 2 / 16))]
