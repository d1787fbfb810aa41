"""Trainings by our own trainer, in a real run directory and child process, measured from the files they write."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.children import ChildFailed, environment, last_line
from server.scheduler.run_directory import prepare, read_epochs, read_result
from trainers.contract.fields import space_of
from trainers.contract.space import Config
from trainers.contract.specs import SPECS
from trainers.contract.wire import LOG_FILE, Epoch, TrialResult, TrialSpec
from trainers.data import Dataset


@dataclass(frozen=True)
class Ours:
    """A training to measure. After `deadline_seconds` it ends at the next epoch boundary."""

    dataset: Dataset
    backbone: str
    config: Config
    threads: int
    seed: int = 0
    device: str = "cpu"
    deadline_seconds: float | None = None

    @property
    def spec_hash(self) -> str:
        return spec_hash(self.backbone, self.config)


@dataclass(frozen=True)
class Measured:
    """A finished training: its epochs, the seconds from process start at which each arrived, and its result."""

    epochs: tuple[Epoch, ...]
    arrived: tuple[float, ...]
    result: TrialResult
    directory: Path


def spec_hash(backbone: str, config: Config) -> str:
    """The hash of a whole configuration; fields that `config` leaves out take the defaults of `strong`."""
    return space_of(SPECS[backbone]).hash(SPECS[backbone].model_validate(config).model_dump())


def train_ours(
    ours: Ours,
    directory: Path,
    enough: Callable[[tuple[Epoch, ...]], bool] = lambda epochs: False,
    weights_of: str | None = None,
) -> Measured:
    """Trains in the run directory `directory` and stops once `enough` accepts the epochs so far.

    `weights_of` names a sibling run directory. If its training is the same, its weights are evaluated instead.
    Raises ChildFailed where the training gives no metric.
    """
    trial = TrialSpec(
        trial_id=directory.name, weights_of=weights_of, backbone=ours.backbone, config=ours.config, seed=ours.seed,
        dataset_hash=ours.dataset.content_hash, threads=ours.threads,
    )  # fmt: skip
    prepare(directory, trial)
    command = [sys.executable, "-P", "-m", "trainers", "run", str(directory.absolute())]
    command += ["--datasets", str(ours.dataset.path.parent.absolute())]
    if ours.deadline_seconds is not None:
        command += ["--deadline-seconds", f"{ours.deadline_seconds:.1f}"]
    epochs: tuple[Epoch, ...] = ()
    arrived: list[float] = []
    offset = 0
    process = subprocess.Popen(
        command, cwd=directory, env=environment(ours.device, ours.threads, directory.parent),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    started = time.monotonic()
    with process, (directory / LOG_FILE).open("w", encoding="utf-8") as log:
        assert process.stderr is not None
        try:
            for line in process.stderr:  # the trainer logs a line after each epoch that it has written
                log.write(line)
                new = read_epochs(directory, offset)
                offset, epochs = new.offset, epochs + new.epochs
                arrived += [time.monotonic() - started] * len(new.epochs)
                if new.epochs and enough(epochs):
                    process.send_signal(signal.SIGTERM)
        except BaseException:
            process.kill()
            raise
    result = read_result(directory, trial.trial_id)
    if result is None or not result.validation:
        why = result.message if result else last_line(directory / LOG_FILE)
        raise ChildFailed(f"the training of {ours.backbone} on {ours.dataset.name} gave no metric: {why}")
    return Measured(epochs, tuple(arrived), result, directory)
