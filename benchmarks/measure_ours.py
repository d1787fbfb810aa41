"""Trainings by our own trainer: a real run directory, a real child, and what its files say."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.children import ChildFailed, environment, last_words
from server.run_directory import prepare, read_epochs, read_result
from trainers.data import Dataset
from trainers.fields import space_of
from trainers.space import Config
from trainers.spec import SPECS, Epoch, TrialResult, TrialSpec


@dataclass(frozen=True)
class Ours:
    """A training to measure. `deadline_seconds` ends it at the next epoch boundary."""

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
    """What a training left: its epochs, when each was there (seconds from the start of the process), its result."""

    epochs: tuple[Epoch, ...]
    arrived: tuple[float, ...]
    result: TrialResult
    directory: Path


def spec_hash(backbone: str, config: Config) -> str:
    """The hash of a whole configuration; what `config` leaves out is at the default of `strong`."""
    return space_of(SPECS[backbone]).hash(SPECS[backbone].model_validate(config).model_dump())


def train_ours(
    ours: Ours,
    directory: Path,
    enough: Callable[[tuple[Epoch, ...]], bool] = lambda epochs: False,
    weights_of: str | None = None,
) -> Measured:
    """Trains in the run directory `directory`; asked to end once the epochs so far are `enough`.

    `weights_of` names a run directory beside it whose weights are evaluated instead, where they are of the same
    training. Raises ChildFailed where no metric came out of it.
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
    with process, (directory / "trial.log").open("w", encoding="utf-8") as log:
        assert process.stderr is not None
        try:
            for line in process.stderr:  # the trainer logs a line after each epoch that it has written
                log.write(line)
                found = read_epochs(directory, offset)
                offset, epochs = found.offset, epochs + found.epochs
                arrived += [time.monotonic() - started] * len(found.epochs)
                if found.epochs and enough(epochs):
                    process.send_signal(signal.SIGTERM)
        except BaseException:
            process.kill()
            raise
    result = read_result(directory, trial.trial_id)
    if result is None or not result.validation:
        why = result.message if result else last_words(directory / "trial.log")
        raise ChildFailed(f"the training of {ours.backbone} on {ours.dataset.name} gave no metric: {why}")
    return Measured(epochs, tuple(arrived), result, directory)
