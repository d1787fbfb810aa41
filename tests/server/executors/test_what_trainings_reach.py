"""What a training is given of its dataset and its home, and what it can leave in the way of the owner."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from server.executors.base import ExecutorError, write_whole
from server.executors.docker.confinement import Confinement
from server.executors.environment import OWNER_MARK, child_environment, owner_mark
from server.executors.process.executor import TRAINERS
from tests.support.own_trainers import prepared as own_trainer
from tests.support.trials import SLOT, gone, prepared, process_executor, result_of, until
from trainers.contract.wire import (
    REQUEST_FILES,
    CheckpointPath,
    ChildTask,
    EvaluationSpec,
    ExportSpec,
    RecommendSpec,
)
from trainers.data import find

pytestmark = pytest.mark.anyio

TRAINING = {"dataset.json", "train.safetensors"}
REQUESTS: dict[str, tuple[ChildTask, EvaluationSpec | ExportSpec | RecommendSpec | None, set[str]]] = {
    "run": ("run", None, TRAINING),
    "evaluate": ("evaluate", EvaluationSpec(dataset_hash="", checkpoints=()), TRAINING | {"sealed/test.safetensors"}),
    "export": ("export", ExportSpec(trial_id="t-1", threads=1), TRAINING | {"items.parquet"}),
    "refit": (
        "export",
        ExportSpec(trial_id="t-1", threads=1, refit_epochs=2),
        TRAINING | {"items.parquet", "sealed/test.safetensors"},
    ),
    "recommend": ("recommend", RecommendSpec(trial_id="t-1", history=()), TRAINING | {"items.parquet"}),
}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_container_mounts_the_files_that_its_task_reads_and_no_others(request_name: str, tmp_path: Path) -> None:
    task, request, files = REQUESTS[request_name]
    trial, spec = own_trainer(tmp_path)
    (trial / "spec.json").write_text(spec.model_dump_json())
    directory = trial
    if request is not None:
        directory = tmp_path / "trials" / "x-1"
        directory.mkdir()
        if isinstance(request, EvaluationSpec):
            path = CheckpointPath(trial_id="t-1", path="../t-1/checkpoint.safetensors")
            request = EvaluationSpec(dataset_hash=spec.dataset_hash, checkpoints=(path,))
        (directory / REQUEST_FILES[task]).write_text(request.model_dump_json())
    folder = find(tmp_path / "datasets", "log").path
    for path in folder.rglob("*.*"):
        path.chmod(0o600)
    confinement = Confinement(tmp_path / "datasets", tmp_path, Path("/on/host"), ("trainers",), {})
    confinement.admit(directory, task)
    mounts = confinement.arguments(directory, SLOT, task)["mounts"]
    of_data = {mount["Target"]: mount for mount in mounts if "/datasets" in mount["Target"]}
    assert set(of_data) == {f"/virtualmle/datasets/log/{name}" for name in files}
    assert {mount["Source"] for mount in of_data.values()} == {f"/on/host/datasets/log/{name}" for name in files}
    assert all(mount["ReadOnly"] for mount in of_data.values())
    if os.getuid() == 0:
        assert {str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.stat().st_mode & 0o044} == files


def test_a_container_of_an_unknown_dataset_mounts_none(tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1")
    confinement = Confinement(tmp_path / "datasets", tmp_path, None, ("trainers",), {})
    mounts = confinement.arguments(directory, SLOT, "run")["mounts"]
    assert [mount["Target"] for mount in mounts] == ["/virtualmle/trials/t-1"]


def test_the_mark_by_which_an_owner_finds_a_trainer_does_not_name_the_home(tmp_path: Path) -> None:
    given = child_environment({}, SLOT, tmp_path, "run")
    assert given[OWNER_MARK] == owner_mark(tmp_path) != owner_mark(tmp_path / "other")
    assert str(tmp_path) not in given[OWNER_MARK]


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_a_trainer_of_your_own_that_is_cancelled_is_cancelled(warm: bool, tmp_path: Path) -> None:
    body = "    pass\nelse:\n    (folder / 'ready').touch()\n    signal.pause()\n"
    directory, spec = own_trainer(tmp_path, body)
    (directory / "spec.json").write_text(spec.model_dump_json())
    async with process_executor(tmp_path, command=TRAINERS, warm=warm) as executor:
        work = asyncio.create_task(executor.run([directory], SLOT))
        await until((directory / "ready").exists)
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
    result = result_of(directory)
    assert (result.status, result.message) == ("cancelled", "")


async def test_a_trainer_of_your_own_that_hides_its_marks_ends_with_its_child(tmp_path: Path) -> None:
    body = (
        "    pass\nelse:\n    import os\n    if os.environ.pop('VIRTUALMLE_RUN', None):\n"
        "        os.execve(sys.executable, [sys.executable, *sys.argv], {})\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    (folder / 'ready').write_text(str(os.getpid()))\n"
        "    while True: signal.pause()\n"
    )
    directory, spec = own_trainer(tmp_path, body)
    (directory / "spec.json").write_text(spec.model_dump_json())
    async with process_executor(tmp_path, command=TRAINERS, obey_seconds=0.1) as executor:
        work = asyncio.create_task(executor.run([directory], SLOT))
        await until(lambda: (directory / "ready").exists() and (directory / "ready").read_text())
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
    trainer = int((directory / "ready").read_text())
    await until(lambda: gone(trainer))


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_a_log_that_is_a_pipe_is_refused_and_not_waited_for(warm: bool, tmp_path: Path) -> None:
    directory = prepared(tmp_path / "trials", "t-1")
    os.mkfifo(directory / "trial.log")
    async with process_executor(tmp_path, warm=warm) as executor:
        with pytest.raises(ExecutorError, match="The training in t-1 cannot start"):
            await executor.run([directory], SLOT)


async def test_what_an_attempt_left_at_the_owner_s_temporary_name_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tmp")
    write_whole(tmp_path / "pipe", "content")
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "link.tmp").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "link", "content")
    assert [(tmp_path / name).read_text() for name in ("pipe", "link", "precious")] == ["content", "content", "kept"]
    assert not (tmp_path / "link").is_symlink()
