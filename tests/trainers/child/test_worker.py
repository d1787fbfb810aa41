"""The trainers' own worker: what it loads beforehand, and that a forked training is the training of a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from server.executors.base import Slot
from server.executors.process.executor import ProcessExecutor
from server.scheduler.run_directory import prepare_evaluation, read_epochs, read_result, read_revealed
from tests.support.handmade import trial
from tests.support.trials import SLOT, until, workers_of
from trainers.contract.wire import CheckpointPath, Epoch, EvaluationSpec, TrialResult
from trainers.data import Dataset

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")]


def prepared(folder: Path, dataset: Dataset, **config: bool | int | float | str) -> Path:
    folder.mkdir(parents=True)
    spec = trial("sasrec", 0, **config).model_copy(
        update={"dataset_hash": dataset.content_hash, "trial_id": folder.name}
    )
    (folder / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    return folder


def timeless(epochs: tuple[Epoch, ...]) -> list[Epoch]:
    return [epoch.model_copy(update={"seconds": 0.0, "eval_seconds": 0.0}) for epoch in epochs]


def result_of(directory: Path) -> TrialResult:
    result = read_result(directory, directory.name)
    assert result is not None
    assert result.status in ("ok", "cancelled"), (directory / "trial.log").read_text()
    return result


async def test_cold_forked_and_kept_processes_train_the_same(tmp_path: Path, walkers: Dataset) -> None:
    datasets, slots = walkers.path.parent, {"cold": SLOT, "warm": SLOT, "alone": Slot(threads=1, gpu_ids=(0,))}
    directories = {way: prepared(tmp_path / f"t-{way}", walkers) for way in slots}
    for way, slot in slots.items():
        async with ProcessExecutor(datasets, tmp_path, warm=way != "cold") as executor:
            (exit,) = await executor.run([directories[way]], slot)
            assert exit.cause == "result"
            if way == "warm":
                ask = EvaluationSpec(
                    dataset_hash=walkers.content_hash,
                    checkpoints=(CheckpointPath(trial_id="t-warm", path="../t-warm/checkpoint.safetensors"),),
                )
                prepare_evaluation(tmp_path / "reveal", ask)
                await executor.run([tmp_path / "reveal"], slot, task="evaluate")
                (worker,) = workers_of(executor)._all
                process = psutil.Process(worker.pid)
                assert process.num_threads() == 1
                assert any("libtorch" in mapped.path for mapped in process.memory_maps())
                children = [child.pid for child in process.children()]
                assert children == []
    curves = {way: timeless(read_epochs(directory).epochs) for way, directory in directories.items()}
    assert curves["cold"] == curves["warm"] == curves["alone"]
    assert len({json.dumps(result_of(directory).validation) for directory in directories.values()}) == 1
    assert read_revealed(tmp_path / "reveal").status == "ok"
    assert "Warning" not in (directories["warm"] / "trial.log").read_text()


async def test_a_cancelled_fork_keeps_its_best_epoch(tmp_path: Path, walkers: Dataset) -> None:
    directory = prepared(tmp_path / "t-1", walkers, max_epochs=500, patience=50, hidden_dim=64, num_blocks=2)
    async with ProcessExecutor(walkers.path.parent, tmp_path, obey_seconds=60.0) as executor:
        work = asyncio.create_task(executor.run([directory], SLOT))
        await until(lambda: read_epochs(directory).epochs)
        work.cancel()
        await asyncio.wait({work})
    result = result_of(directory)
    assert (result.status, result.epochs) == ("cancelled", len(read_epochs(directory).epochs))
    assert (directory / "checkpoint.safetensors").exists()


async def test_a_directory_without_a_spec_is_told_in_one_line(tmp_path: Path, walkers: Dataset) -> None:
    directory = tmp_path / "t-1"
    directory.mkdir()
    async with ProcessExecutor(walkers.path.parent, tmp_path) as executor:
        (exit,) = await executor.run([directory], SLOT)
    assert exit.cause == "crashed"
    assert exit.message.startswith("trainers: FileNotFoundError: ")


async def test_the_worker_says_what_it_does_not_know(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "trainers", "worker", stderr=asyncio.subprocess.PIPE, env=environment
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"--datasets" in said
