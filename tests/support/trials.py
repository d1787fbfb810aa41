"""Run directories and studies for tests of executors and the supervisor."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
from mcp import Client

from memory.records import NewTrial, Study, Trial
from memory.store import Memory
from server.executors.base import Slot
from server.executors.process.executor import ProcessExecutor
from server.executors.process.pool import Workers
from server.executors.testing.stub import curve
from server.owner.assembly import open_runtime
from server.portability.export import RecommendRequest, recommend
from server.scheduler.run_directory import read_result
from server.settings import Settings
from server.tools.app import create_app
from tests.support.examples import study
from trainers.contract.wire import TrialResult, TrialSpec
from trainers.data import find
from trainers.data.store import load_ids

FAKE = (sys.executable, "-P", str(Path(__file__).with_name("fake_trainer.py")))
SLOT = Slot(threads=1)
SMALL = {"max_epochs": 1, "hidden_dim": 16}


def spec(trial_id: str, behaviour: str = "well") -> TrialSpec:
    return TrialSpec(
        trial_id=trial_id, backbone="sasrec", config={"behaviour": behaviour}, seed=0, dataset_hash="abc", threads=1
    )


def prepared(trials: Path, trial_id: str, behaviour: str = "well") -> Path:
    """A run directory as the supervisor prepares it."""
    directory = trials / trial_id
    directory.mkdir(parents=True)
    (directory / "spec.json").write_text(spec(trial_id, behaviour).model_dump_json())
    return directory


def process_executor(home: Path, **values: Any) -> ProcessExecutor:
    """The process executor over the fake trainer, without its patience; a process for each training unless `warm`."""
    given: dict[str, Any] = {"command": FAKE, "sample_seconds": 0.02, "obey_seconds": 5.0, "warm": False}
    return ProcessExecutor(home / "datasets", home, **{**given, **values})


def warm_executor(home: Path, **values: Any) -> ProcessExecutor:
    """The same with a worker that forks the children."""
    return process_executor(home, warm=True, **values)


async def until(condition: Callable[[], object]) -> None:
    """Returns when `condition` holds; the test's own time limit ends it otherwise."""
    while not condition():  # noqa: ASYNC110 - what happens in another process sets no event
        await anyio.sleep(0.005)


def workers_of(executor: ProcessExecutor) -> Workers:
    """The workers of one that has them."""
    assert executor._workers is not None
    return executor._workers


def result_of(directory: Path) -> TrialResult:
    """The result that a trial has left in its run directory."""
    result = read_result(directory, directory.name)
    assert result is not None, directory
    return result


def said(path: Path) -> Callable[[], bool]:
    """Whether the file is there and not empty."""
    return lambda: path.exists() and path.read_text() != ""


def gone(pid: int) -> bool:
    """Whether the process has ended, reaped or not; one that exits has no memory, and runs no more, before it is so."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or not process.memory_info().vms
    except psutil.NoSuchProcess:
        return True


def add_trial(memory: Memory, behaviour: str = "well", seed: int = 0, **values: Any) -> tuple[Trial, Study]:
    """A queued trial in the study s-1, which is made on the way."""
    if not memory.studies():
        memory.add_study(study(**values))
    made = memory.study("s-1")
    config = {**made.space.default(), "behaviour": behaviour}
    new = NewTrial(study_id="s-1", parent=None, changes={}, config=config, config_hash=behaviour, seed=seed)
    return memory.start_trial(new), made


def left_behind(home: Path, *, attempts: int = 1, status: str | None = None, epochs: int = 0, **study: Any) -> Trial:
    """A trial as a killed owner leaves it: `attempts` noted, with so many epochs and a result of that status."""
    home.mkdir(exist_ok=True)
    memory = Memory.open(home / "memory.duckdb")
    trial, _ = add_trial(memory, **study)
    for number in range(attempts):
        memory.start_attempt(trial.trial_id, 4_000_000 + number, 1.5)
    memory.close()
    directory = home / "trials" / trial.trial_id
    directory.mkdir(parents=True)
    spec = TrialSpec(trial_id=trial.trial_id, backbone="sasrec", config={}, seed=0, dataset_hash="abc", threads=1)
    answer = curve(spec, epochs=max(epochs, 1))
    (directory / "epochs.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in answer.epochs[:epochs]))
    if status is not None:
        result = TrialResult.model_validate({**dict(answer.result or {}), "status": status})
        (directory / "result.json").write_text(result.model_dump_json())
    return trial


async def tuned(client: Client) -> dict[str, Any]:
    """One whole study of two trials on demo, to the sealed test."""
    started = await client.call_tool("start_study", {"dataset": "demo", "max_trials": 2, "space": SMALL})
    study = (started.structured_content or {})["study_id"]
    for changes in ({}, {"dropout": 0.2}):
        answer = await client.call_tool("run_trial", {"study_id": study, "changes": changes, "wait_seconds": 100})
        facts = answer.structured_content or {}
        assert facts["status"] == "ok", facts
    ended = await client.call_tool("finish_study", {"study_id": study, "wait_seconds": 100})
    assert not ended.is_error, ended.content
    return ended.structured_content or {}


async def whole_loop(settings: Settings) -> int:
    """A study as `tuned`, whose model then recommends: how many items."""
    async with open_runtime(settings) as runtime, Client(create_app(runtime)) as client:
        study = (await tuned(client))["study_id"]
        history = tuple(load_ids(find(settings.datasets_dir, "demo").path)[:2])
        return len((await recommend(runtime, RecommendRequest(study_id=study, history=history, k=3))).items)
