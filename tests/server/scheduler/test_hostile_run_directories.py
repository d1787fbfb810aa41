"""Whatever a trainer leaves in its run directory, an owner starts, ends the trial in one line, and goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from memory.errors import MemoryFault
from server.cli.doctor import examine
from server.executors.testing.stub import StubExecutor
from server.owner.assembly import open_runtime
from server.scheduler import recovery
from server.scheduler.run_directory import (
    forget_state,
    has_checkpoint,
    increasing,
    log_end,
    prepare,
    read_epochs,
    read_process,
    read_ranks,
    read_result,
    read_revealed,
)
from server.settings import Settings
from tests.support.tool_client import tool_client
from tests.support.trials import left_behind, spec
from trainers.contract import regular_files
from trainers.contract.wire import Epoch

pytestmark = pytest.mark.anyio
FILES = (
    "spec.json", "result.json", "epochs.jsonl", "validation_ranks.safetensors", "checkpoint.safetensors", "trial.log",
    "attempt.json", "training.safetensors",
)  # fmt: skip
RESULT: dict[str, Any] = {
    "trial_id": "t-1",
    "status": "ok",
    "validation": {"ndcg@10": 0.1},
    "epochs": 3,
    "best_epoch": 2,
}
EPOCH: dict[str, Any] = {"epoch": 1, "loss": 1.0, "validation": {"ndcg@10": 0.1}, "seconds": 1.0, "eval_seconds": 0.5}
HUGE = 10**400
KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to the token": lambda path: path.symlink_to("../../owner.json"),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(4096)),
    "deep brackets": lambda path: path.write_text("[" * 100_000),
    "a number of 5,000 digits": lambda path: path.write_text('{"trial_id": "t", "epochs": ' + "9" * 5000 + "}"),
    "half an emoji": lambda path: path.write_text('{"trial_id": "\\ud83d", "status": "\\u0000"}'),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
async def test_an_owner_starts_whatever_a_file_of_a_run_directory_is(name: str, kind: str, tmp_path: Path) -> None:
    trial = left_behind(tmp_path, status="ok", epochs=2)
    (tmp_path / "owner.json").write_text("the private token")
    path = tmp_path / "trials" / trial.trial_id / name
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    async with open_runtime(Settings(home=tmp_path), StubExecutor()) as runtime:
        assert runtime.memory.trial(trial.trial_id).status in ("ok", "crashed", "interrupted")
        assert "private" not in log_end(path.parent)
        read_ranks(path.parent)
        has_checkpoint(path.parent)
        prepare(path.parent, spec(trial.trial_id))
        assert read_result(path.parent, trial.trial_id) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("best_epoch", 3_000_000_000), ("best_epoch", 0), ("best_epoch", -1), ("epochs", 2**31), ("epochs", -1),
        ("parameters", 2**63), ("parameters", -1), ("threads", 2**31), ("seconds", -1.0), ("seconds", float("inf")),
        ("peak_memory_mb", float("nan")), ("eval_seconds", HUGE), ("validation", {"m" * 65: 0.1}),
        ("measures", {f"m{n}": 0.1 for n in range(65)}), ("device", "d" * 65), ("versions", {"torch": "2" * 65}),
    ],
)  # fmt: skip
async def test_a_result_out_of_range_is_a_crash_that_names_the_field(name: str, value: Any, tmp_path: Path) -> None:
    trial = left_behind(tmp_path)
    content = json.dumps({**RESULT, "trial_id": trial.trial_id, name: value})
    (tmp_path / "trials" / trial.trial_id / "result.json").write_text(content)
    async with open_runtime(Settings(home=tmp_path), StubExecutor()) as runtime:
        found = runtime.memory.trial(trial.trial_id)
    assert found.status == "crashed"
    assert found.message.startswith(f"The trainer's result.json is no result: {name}")
    assert "\n" not in found.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", 3_000_000_000), ("epoch", 0), ("epoch", HUGE), ("loss", float("nan")), ("seconds", -1.0),
        ("eval_seconds", float("inf")), ("validation", {"ndcg@10": float("inf")}), ("validation", {"m" * 65: 0.1}),
    ],
)  # fmt: skip
def test_a_line_that_is_no_epoch_is_passed_over(name: str, value: Any, tmp_path: Path) -> None:
    lines = [EPOCH, {**EPOCH, "epoch": 2, name: value}, {**EPOCH, "epoch": 3}]
    (tmp_path / "epochs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [epoch.epoch for epoch in read_epochs(tmp_path).epochs] == [1, 3]


def test_a_line_without_an_end_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.scheduler.run_directory.MOST_TEXT", 100)
    (tmp_path / "epochs.jsonl").write_bytes(b"x" * 250 + b"\n" + json.dumps(EPOCH).encode()[:-1])
    tail, offsets = read_epochs(tmp_path), [0]
    while tail.offset != offsets[-1]:
        offsets.append(tail.offset)
        tail = read_epochs(tmp_path, tail.offset)
    assert (tail.epochs, offsets[:3]) == ((), [0, 100, 200])


def test_epochs_that_repeat_or_go_back_are_not_counted_twice() -> None:
    epochs = [Epoch.model_validate({**EPOCH, "epoch": number}) for number in (2, 2, 1, 4, 3, 5)]
    assert [epoch.epoch for epoch in increasing(epochs)] == [2, 4, 5]
    assert [epoch.epoch for epoch in increasing(epochs, last=4)] == [5]


def test_ranks_of_another_kind_are_no_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "validation_ranks.safetensors"
    for array in (np.ones((2, 2), np.uint8), np.ones(4, np.float32)):
        save_file({"ranks": array}, path)
        assert read_ranks(tmp_path) is None
    save_file({"ranks": np.array([1, 2], np.uint8)}, path)
    assert np.array_equal(read_ranks(tmp_path), [1, 2])  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr("server.scheduler.run_directory.MOST_ARRAYS", 8)
    assert read_ranks(tmp_path) is None


def test_a_process_that_cannot_be_one_is_none(tmp_path: Path) -> None:
    for pid, create_time in ((2**31, 1.0), (0, 1.0), (-1, 1.0), (1, float("inf")), (1, -1.0), (HUGE, 1.0)):
        (tmp_path / "attempt.json").write_text(json.dumps({"pid": pid, "create_time": create_time}))
        assert read_process(tmp_path) is None
    (tmp_path / "attempt.json").write_text('{"pid": 7, "create_time": 1.5}')
    assert read_process(tmp_path) is not None


def test_an_evaluation_that_left_a_pipe_has_failed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "revealed.json")
    assert read_revealed(tmp_path).status == "failed"


async def test_a_trial_that_memory_cannot_take_back_is_crashed_and_doctor_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, kept = left_behind(tmp_path, status="ok", epochs=1), left_behind(tmp_path, status="ok", epochs=1)

    def fails(memory: Any, trial: Any, directory: Path) -> None:
        if trial.trial_id == lost.trial_id:
            raise MemoryFault("Conversion Error: 3000000000 does not fit INT32")

    monkeypatch.setattr(recovery, "_complete_records", fails)
    async with open_runtime(Settings(home=tmp_path), StubExecutor()) as runtime:
        found = runtime.memory.trial(lost.trial_id)
        assert (found.status, runtime.memory.trial(kept.trial_id).status) == ("crashed", "ok")
        assert found.message == (
            "What the trial left cannot be stored: Conversion Error: 3000000000 does not fit INT32"
        )
    monkeypatch.setattr("server.cli.doctor._torch", lambda: iter(()))
    (finding,) = [finding for finding in examine(Settings(home=tmp_path)) if finding.what.startswith("trial ")]
    assert (finding.what, finding.grade, finding.found) == (f"trial {lost.trial_id}", "note", found.message)


async def test_the_log_of_a_trial_is_never_another_file(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study_id = (await at.call("start_study", dataset="demo"))["study_id"]
        trial_id = (await at.call("run_trial", study_id=study_id))["trial_id"]
        (tmp_path / "owner.json").write_text("the private token")
        log = tmp_path / "trials" / trial_id / "trial.log"
        log.unlink(missing_ok=True)
        log.symlink_to(tmp_path / "owner.json")
        read = await at.client.read_resource(f"virtualmle://trials/{trial_id}/log")
        assert "the private token" not in read.model_dump_json()


def test_limits_are_large_enough_for_what_trainers_write() -> None:
    assert 10_000 * len(json.dumps(EPOCH)) <= regular_files.MOST_TEXT
    assert regular_files.MOST_ARRAYS >= 8 * 20_000_000


def test_a_state_that_is_a_folder_is_forgotten_too(tmp_path: Path) -> None:
    (tmp_path / "training.safetensors" / "inside").mkdir(parents=True)
    forget_state(tmp_path)
    assert list(tmp_path.iterdir()) == []
