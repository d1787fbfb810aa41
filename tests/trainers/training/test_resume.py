"""trainers.training.resume: an interrupted training goes on, and comes to the numbers of one that never was."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.handmade import trial, walks
from tests.support.weights import same, weights_of
from trainers.contract.presets import preset
from trainers.contract.wire import RESUME_FILE, Epoch, TrialResult, TrialSpec
from trainers.data import ensure
from trainers.training import resume
from trainers.training.resume import Keeper
from trainers.training.train import train

DATA = walks(users=80, num_items=30, longest=8)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("sasrec", {}),
    ("hstu", {"optimizer": "adamw", "weight_decay": 1e-4}),
    ("sasrec", {"learning_rate_schedule": "cosine", "warmup_epochs": 2, "attention_dropout": 0.2}),
    ("sasrec", {"loss": "sampled_softmax", "num_negatives": 8, "table_updates": "touched_rows"}),
]


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept after every epoch, however long the writing takes."""
    monkeypatch.setattr(resume, "SHARE", 1e9)


class Interrupted(RuntimeError):
    """The process is gone."""


def cut_after(epoch: int) -> Callable[[Epoch], None]:
    """Told of a later epoch, the process is gone: what was kept is the state after `epoch`."""

    def on_epoch(line: Epoch) -> None:
        if line.epoch > epoch:
            raise Interrupted

    return on_epoch


def told(epochs: list[Epoch]) -> list[tuple[int, float, dict[str, float]]]:
    """Without the clock."""
    return [(one.epoch, one.loss, one.validation) for one in epochs]


@pytest.mark.parametrize(("backbone", "config"), VARIANTS)
@pytest.mark.parametrize("epoch", [1, 4])
def test_the_numbers_are_those_of_a_training_that_was_not_interrupted(
    backbone: str, config: dict[str, Any], epoch: int, tmp_path: Path
) -> None:
    spec = trial(backbone, seed=3, max_epochs=7, patience=7, **config)
    outcome, whole = train(spec, DATA)
    with pytest.raises(Interrupted):
        train(spec, DATA, cut_after(epoch), keeper=Keeper(tmp_path, spec))
    lines: list[Epoch] = []
    again, state = train(spec, DATA, lines.append, keeper=Keeper(tmp_path, spec))
    assert again == outcome
    assert same(weights_of(state), weights_of(whole))
    assert told(lines) == told(state.history) == told(whole.history)
    assert whole.best is not None
    assert state.best is not None
    assert state.best.epoch == whole.best.epoch
    assert (state.best.ranks == whole.best.ranks).all()


def test_a_training_that_was_over_is_not_trained_on(tmp_path: Path) -> None:
    spec = trial(max_epochs=3)
    train(spec, DATA, keeper=Keeper(tmp_path, spec))
    outcome, state = train(spec, DATA, keeper=Keeper(tmp_path, spec))
    assert (outcome, len(state.history)) == ("ok", 3)


@pytest.mark.parametrize("other", [{"seed": 4}, {"dropout": 0.3}])
def test_the_state_of_another_trial_is_not_taken(other: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(trial(max_epochs=5), DATA, cut_after(2), keeper=Keeper(tmp_path, trial(max_epochs=5)))
    spec = trial(max_epochs=5, **other)
    _, fresh = train(spec, DATA)
    _, state = train(spec, DATA, keeper=Keeper(tmp_path, spec))
    assert told(state.history) == told(fresh.history)


@pytest.mark.parametrize("text", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"garbage" * 100])
def test_a_state_that_cannot_be_read_begins_anew(text: bytes, tmp_path: Path) -> None:
    spec = trial(max_epochs=2)
    (tmp_path / RESUME_FILE).write_bytes(text)
    _, state = train(spec, DATA, keeper=Keeper(tmp_path, spec))
    assert len(state.history) == 2


def test_a_disk_that_is_full_spoils_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "save_file", full)
    spec = trial(max_epochs=2)
    outcome, _ = train(spec, DATA, keeper=Keeper(tmp_path, spec))
    assert outcome == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_takes_long_to_write_is_not_kept_after_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "SHARE", 1e-9)
    writes: list[int] = []
    original = resume.save_file
    monkeypatch.setattr(resume, "save_file", lambda *given: (writes.append(1), original(*given)))
    spec = trial(max_epochs=5, patience=5)
    train(spec, DATA, keeper=Keeper(tmp_path, spec))
    assert len(writes) == 1


def command(directory: Path, datasets: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "trainers", "run", str(directory), "--datasets", str(datasets)]


def test_a_process_that_was_killed_is_gone_on_from_by_the_next(tmp_path: Path) -> None:
    data = ensure(tmp_path / "datasets", "demo")
    config = {**preset("strong", "sasrec", data.facts).model_dump(), "max_epochs": 4, "patience": 4}
    results: dict[str, TrialResult] = {}
    for name in ("whole", "cut"):
        directory = tmp_path / name
        directory.mkdir()
        spec = TrialSpec(
            trial_id="t-1", backbone="sasrec", config=config, seed=1, dataset_hash=data.content_hash, threads=1
        )
        (directory / "spec.json").write_text(spec.model_dump_json())
        if name == "cut":
            with subprocess.Popen(command(directory, tmp_path / "datasets"), stderr=subprocess.DEVNULL) as process:
                while not (directory / RESUME_FILE).exists() and process.poll() is None:
                    os.sched_yield()
                process.send_signal(signal.SIGKILL)
            assert not (directory / "result.json").exists()
        subprocess.run(command(directory, tmp_path / "datasets"), check=True, capture_output=True)
        results[name] = TrialResult.model_validate_json((directory / "result.json").read_bytes())
        assert not (directory / RESUME_FILE).exists()
    assert results["cut"].validation == results["whole"].validation
    assert results["cut"].epochs == results["whole"].epochs == 4
    lines = [json.loads(line) for line in (tmp_path / "cut" / "epochs.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
