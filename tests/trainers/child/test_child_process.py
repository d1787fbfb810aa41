"""The child process on a real run directory: every ending becomes a status in result.json."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tests.support import padded
from tests.support.handmade import trial
from trainers import __main__ as command
from trainers.child import trial as trials
from trainers.child.reveal import reveal
from trainers.contract.metrics import filter_rule, metrics_of
from trainers.contract.specs import SASRecSpec
from trainers.contract.wire import Epoch, Revealed, TrialResult, TrialSpec
from trainers.data import Dataset, TimeSplit, add, load_test, load_training
from trainers.data.baselines import baseline_ranks
from trainers.models import checkpoint

ROOT = Path(__file__).parents[3]


def prepare(folder: Path, dataset: Dataset, seed: int = 0, **config: bool | int | float | str) -> TrialSpec:
    """A run directory for a trial on `dataset`."""
    folder.mkdir()
    spec = trial("sasrec", seed, **config).model_copy(
        update={"dataset_hash": dataset.content_hash, "trial_id": folder.name}
    )
    (folder / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    return spec


@contextmanager
def child(name: str, folder: Path, dataset: Dataset, *options: str) -> Iterator[subprocess.Popen[str]]:
    """python -m trainers NAME folder, killed if a test leaves it running."""
    arguments = [sys.executable, "-P", "-m", "trainers", name, str(folder), "--datasets", str(dataset.path.parent)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*arguments, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def result_of(folder: Path) -> TrialResult:
    return TrialResult.model_validate_json((folder / "result.json").read_bytes())


def epochs_of(folder: Path) -> list[Epoch]:
    return [Epoch.model_validate_json(line) for line in (folder / "epochs.jsonl").read_text("utf-8").splitlines()]


def in_process(folder: Path, dataset: Dataset) -> TrialResult:
    """What `run` reports, without the cost of a process: for failures that only a patched trainer can show."""
    trials.run(folder, dataset.path.parent)
    return result_of(folder)


def test_a_run_directory_is_trained_from_spec_to_result(tmp_path: Path, walkers: Dataset) -> None:
    folder = tmp_path / "t-whole"
    prepare(folder, walkers)
    with child("run", folder, walkers) as process:
        output, log = process.communicate()
    assert (process.returncode, output) == (0, ""), log
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.safetensors", "epochs.jsonl", "result.json", "spec.json", "validation_ranks.safetensors",
    ]  # fmt: skip
    result, epochs = result_of(folder), epochs_of(folder)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert (result.trial_id, result.status, result.message, result.epochs) == ("t-whole", "ok", "", 3)
    assert result.best_epoch is not None
    assert result.validation == epochs[result.best_epoch - 1].validation
    assert result.seconds == pytest.approx(sum(epoch.seconds for epoch in epochs))
    assert result.parameters == 60 * 16 + 10 * 16 + 3 * 32 + 16 * 48 + 48 + 3 * (16 * 16 + 16)
    assert result.peak_memory_mb
    assert result.peak_memory_mb > 50
    ranks = load_file(folder / "validation_ranks.safetensors")["ranks"]
    assert (ranks.dtype, ranks.shape) == (np.uint8, (500,))
    assert metrics_of(ranks) == pytest.approx(result.validation)


def test_sigterm_ends_it_as_cancelled_with_its_best_epoch(tmp_path: Path, walkers: Dataset) -> None:
    folder = tmp_path / "t-cancelled"
    prepare(folder, walkers, max_epochs=500, patience=50, hidden_dim=64, num_blocks=2)
    with child("run", folder, walkers) as process:
        assert process.stderr is not None
        assert "epoch 1:" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 0
    result = result_of(folder)
    assert result.status == "cancelled"
    assert result.epochs == len(epochs_of(folder)) < 500
    assert result.validation
    assert (folder / "checkpoint.safetensors").exists()


def test_a_deadline_ends_it_after_the_epoch_that_runs(tmp_path: Path, walkers: Dataset) -> None:
    folder = tmp_path / "t-late"
    prepare(folder, walkers)
    with child("run", folder, walkers, "--deadline-seconds", "0") as process:
        _, log = process.communicate()
    assert process.returncode == 0, log
    result = result_of(folder)
    assert (result.status, result.epochs, result.best_epoch) == ("timed_out", 1, 1)
    assert result.validation == epochs_of(folder)[0].validation


def test_a_second_attempt_does_not_inherit_the_epochs_of_the_first(tmp_path: Path, walkers: Dataset) -> None:
    folder = tmp_path / "t-again"
    prepare(folder, walkers)
    (folder / "epochs.jsonl").write_text('{"epoch": 1, "loss"', encoding="utf-8")
    assert in_process(folder, walkers).status == "ok"
    assert [epoch.epoch for epoch in epochs_of(folder)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (MemoryError(), "out_of_memory", "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory", "OutOfMemoryError: CUDA out of memory."),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
            "out_of_memory",
            "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes",
        ),
        (ZeroDivisionError("two\nlines"), "crashed", "ZeroDivisionError: two lines"),
    ],
)
def test_an_exception_becomes_a_status_and_one_line(
    error: Exception, status: str, message: str, tmp_path: Path, walkers: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(trials, "train", fail)
    prepare(tmp_path / "t-failed", walkers)
    result = in_process(tmp_path / "t-failed", walkers)
    assert (result.status, result.message) == (status, message)
    assert (result.validation, result.best_epoch, result.epochs) == ({}, None, 0)


def test_a_real_allocation_that_fails_is_out_of_memory(
    tmp_path: Path, walkers: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "train", lambda *arguments: torch.empty(2**60))
    prepare(tmp_path / "t-huge", walkers)
    assert in_process(tmp_path / "t-huge", walkers).status == "out_of_memory"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        SafetensorError("I/O error: Disk quota exceeded (os error 122)"),
    ],
)
def test_a_full_disk_is_one_line_and_no_verdict(
    error: Exception,
    tmp_path: Path,
    walkers: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def full(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "save", full)
    folder = tmp_path / "t-1"
    prepare(folder, walkers, max_epochs=1)
    assert command.main(["run", str(folder), "--datasets", str(walkers.path.parent)]) == 1
    assert str(error) in capfd.readouterr().err.splitlines()[-1]
    assert not (folder / "result.json").exists()
    assert (folder / "training.safetensors").exists()


def test_divergence_is_a_failed_result_that_says_in_which_epoch(
    tmp_path: Path, walkers: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.training import train as training

    original = training.train_epoch

    def break_weights(spec, state, rows, seed, epoch, cancelled):
        if epoch == 2:
            torch.nn.init.constant_(state.model.items.weight, torch.inf)
        return original(spec, state, rows, seed, epoch, cancelled)

    monkeypatch.setattr(training, "train_epoch", break_weights)
    folder = tmp_path / "t-diverged"
    prepare(folder, walkers)
    result = in_process(folder, walkers)
    assert (result.status, result.message) == ("diverged", "the loss is nan in epoch 2")
    assert (result.validation, result.best_epoch, result.epochs) == ({}, None, 1)
    assert len(epochs_of(folder)) == 1
    assert not (folder / "checkpoint.safetensors").exists()


def test_a_spec_that_cannot_be_trained_is_a_crash_with_the_reason(tmp_path: Path, walkers: Dataset) -> None:
    prepare(tmp_path / "t-rate", walkers, learning_rate=10)
    result = in_process(tmp_path / "t-rate", walkers)
    assert result.status == "crashed"
    assert result.message == (
        "SASRecSpec: learning_rate=10 is not allowed: learning_rate is 1e-05 to 0.01 (log scale)."
    )
    prepare(tmp_path / "t-heads", walkers, num_heads=3)
    assert "hidden_dim=16 is not a multiple of num_heads=3" in in_process(tmp_path / "t-heads", walkers).message


def test_an_unknown_dataset_is_a_crash_with_the_reason(tmp_path: Path, walkers: Dataset) -> None:
    prepare(tmp_path / "t-lost", walkers.model_copy(update={"content_hash": "nowhere"}))
    result = in_process(tmp_path / "t-lost", walkers)
    assert result.status == "crashed"
    assert "'nowhere'" in result.message


@pytest.mark.parametrize("text", ["{", '{"trial_id": "t-bad"}', None])
def test_without_a_readable_spec_there_is_one_line_and_exit_code_1(
    text: str | None, tmp_path: Path, walkers: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "spec.json").write_text(text, encoding="utf-8")
    assert command.main(["run", str(tmp_path), "--datasets", str(walkers.path.parent)]) == 1
    output, log = capfd.readouterr()
    assert output == ""
    assert log.startswith("trainers: ")
    assert log.count("\n") == 1
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("filter_seen", ["auto", "no"])
def test_evaluate_reveals_the_test_metrics_of_each_checkpoint(
    filter_seen: str, tmp_path: Path, walkers: Dataset
) -> None:
    specs = {name: prepare(tmp_path / name, walkers, seed=seed) for seed, name in enumerate(("t-one", "t-two"))}
    for name in specs:
        assert in_process(tmp_path / name, walkers).status == "ok"
    folder = tmp_path / "reveal"
    ask(folder, walkers, list(specs), filter_seen)
    with child("evaluate", folder, walkers) as process:
        _, log = process.communicate()
    assert process.returncode == 0, log
    revealed = Revealed.model_validate_json((folder / "revealed.json").read_bytes())
    assert (revealed.status, revealed.message) == ("ok", "")
    ranks = {name: by_definition(tmp_path / name, walkers, filter_seen) for name in specs}
    assert revealed.trials == {name: pytest.approx(metrics_of(places)) for name, places in ranks.items()}
    assert revealed.users == len(load_test(walkers.path).targets)
    left = load_file(folder / "test_ranks.safetensors")
    assert {name: (places.dtype, places.tolist()) for name, places in left.items()} == {
        name: (np.uint8, np.minimum(places, 255).tolist()) for name, places in ranks.items()
    }
    data, sealed = load_training(walkers.path), load_test(walkers.path)
    rule = filter_rule("auto" if filter_seen == "auto" else "no", data.facts)
    assert revealed.baselines == {
        name: metrics_of(places) for name, places in baseline_ranks(data, rule, sealed).items()
    }


def test_users_without_a_training_event_are_tested_apart(tmp_path: Path) -> None:
    rows = [(user, (user + day) % 9, 86_400 * day) for user in range(40) for day in range(8)]
    rows += [(100 + user, (user + day) % 9, 86_400 * day) for user in range(7) for day in (5, 6, 7)]
    content = "user,item,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows)
    (tmp_path / "log.csv").write_text(content)
    split = TimeSplit(valid_days=1.5, test_days=1.5)
    dataset = add(tmp_path / "datasets", "log", tmp_path / "log.csv", split=split)
    assert dataset.cold["tested"] == 7
    prepare(tmp_path / "t-1", dataset, max_epochs=1)
    assert in_process(tmp_path / "t-1", dataset).status == "ok"
    ask(tmp_path / "reveal", dataset, ["t-1"])
    revealed = reveal(tmp_path / "reveal", dataset.path.parent)
    assert (revealed.status, revealed.users, revealed.apart_users) == ("ok", 40, 7)
    ranks = load_file(tmp_path / "reveal" / "test_ranks.safetensors")["t-1"]
    assert len(ranks) == 40
    assert revealed.trials["t-1"] == metrics_of(ranks)
    assert revealed.apart.keys() == {"t-1"}


def ask(folder: Path, dataset: Dataset, names: list[str], filter_seen: str = "auto") -> None:
    folder.mkdir()
    checkpoints = [{"trial_id": name, "path": f"../{name}/checkpoint.safetensors"} for name in names]
    asked = {"dataset_hash": dataset.content_hash, "filter_seen": filter_seen, "checkpoints": checkpoints}
    (folder / "evaluate.json").write_text(json.dumps(asked), encoding="utf-8")


def by_definition(folder: Path, dataset: Dataset, filter_seen: str) -> npt.NDArray[np.int64]:
    """Test ranks from the padded definition and a sort: history is training and validation items together."""
    data, targets = load_training(dataset.path), load_test(dataset.path).targets
    spec, model = checkpoint.load(folder / "checkpoint.safetensors", dataset.content_hash, torch.device("cpu"))
    assert isinstance(spec, SASRecSpec)
    ranks = []
    for user, target in enumerate(targets):
        history = [*data.items[data.offsets[user] : data.offsets[user + 1]].tolist(), int(data.validation[user])]
        items, real = padded.pad([history[-10:]], width=10)
        with torch.no_grad():
            state = padded.sasrec(spec, model.state_dict(), items, real)[0, -1]
            scores = model.output_table() @ state
        seen = set(history) if filter_seen == "auto" else set()
        order = sorted(set(range(data.num_items)) - seen, key=lambda item: -float(scores[item]))
        ranks.append(order.index(target) + 1 if target in order else data.num_items + 1)
    return np.array(ranks)


def test_a_checkpoint_cut_in_half_is_one_clear_line(tmp_path: Path, walkers: Dataset) -> None:
    prepare(tmp_path / "t-half", walkers, max_epochs=1)
    assert in_process(tmp_path / "t-half", walkers).status == "ok"
    path = tmp_path / "t-half" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "is no checkpoint that can be read" in revealed_message(tmp_path, walkers, "t-half")


def test_a_checkpoint_of_another_dataset_is_refused(tmp_path: Path, walkers: Dataset) -> None:
    prepare(tmp_path / "t-other", walkers, max_epochs=1)
    assert in_process(tmp_path / "t-other", walkers).status == "ok"
    path = tmp_path / "t-other" / "checkpoint.safetensors"
    with pytest.raises(checkpoint.CheckpointError, match="was trained on dataset"):
        checkpoint.load(path, "elsewhere", torch.device("cpu"))


def test_a_missing_checkpoint_is_one_clear_line(tmp_path: Path, walkers: Dataset) -> None:
    message = revealed_message(tmp_path, walkers, "t-none")
    assert message.count("\n") == 0
    assert "t-none" in message


def revealed_message(tmp_path: Path, dataset: Dataset, name: str) -> str:
    ask(tmp_path / "reveal", dataset, [name])
    assert command.main(["evaluate", str(tmp_path / "reveal"), "--datasets", str(dataset.path.parent)]) == 0
    revealed = Revealed.model_validate_json((tmp_path / "reveal" / "revealed.json").read_bytes())
    assert (revealed.status, revealed.trials) == ("failed", {})
    return revealed.message
