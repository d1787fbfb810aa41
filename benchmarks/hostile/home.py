"""Tries a home in which one file is hostile: whatever the file is, the owner's own code answers in one line."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness.invented import facts, study
from benchmarks.hostile.files import leave
from memory.errors import MemoryFault
from memory.records import NewTrial, Trial
from memory.store import Memory
from server.client.home import HomeError, find_owner
from server.executors.base import ExecutorError
from server.executors.log import last_line, log_size
from server.executors.needs import needs_of
from server.executors.testing.stub import curve
from server.scheduler import run_directory
from server.scheduler.recorder import Recorder
from server.settings import Settings, SettingsError, load_settings
from server.tools.tasks_extension import home_secret
from server.views.trial import read_trial_answer
from trainers.contract.fields import space_of
from trainers.contract.regular_files import append_regular, remove
from trainers.contract.specs import SPECS
from trainers.contract.wire import ATTEMPT_FILE, SPEC_FILE, CheckpointPath, EvaluationSpec, TrialResult, TrialSpec
from trainers.data import DataError, add_demo, find, list_datasets
from trainers.data.store import load_ids, load_test, load_training
from trainers.external import registry
from trainers.external.registry import TrainerError

SPACE = space_of(SPECS["sasrec"])
TRIALS_OF_A_STUDY = 100
EXPECTED = (MemoryFault, ExecutorError, HomeError, SettingsError, DataError, TrainerError, OSError)
"""What the owner's code may raise: each is one line for a client."""


class BadMessage(AssertionError):
    """An error that a client would not get as one line."""


class HostileHome:
    """A home with a good file of each kind. `attempt` spoils one, tries what reads it, and makes it good again."""

    def __init__(self, home: Path) -> None:
        self.home, self.settings = home, Settings(home=home)
        self.settings.trials_dir.mkdir(parents=True)
        add_demo(self.settings.datasets_dir)
        self._memory: Memory | None = None
        self._study = self._trials = 0
        self._good = home.with_name("good")
        (home / "virtualmle.yaml").write_text("slots: 2\nidle_seconds: 60\n")
        (home / "owner.json").write_text(
            '{"pid": 1, "create_time": 1.0, "host": "127.0.0.1", "port": 80, "token": "t", "version": "0", '
            '"started": ""}'
        )
        home_secret(home / "task.key")
        self.settings.trainers_dir.mkdir()
        declared = home.with_name("space.yaml")
        declared.write_text("command: [python, x.py]\nfields:\n  rate: {default: 0.1, low: 0.01, high: 0.9}\n")
        registry.add(self.settings.trainers_dir, "mine", declared)
        self.memory.close()
        self._memory = None
        shutil.copytree(home, self._good)
        self.targets: dict[str, Callable[[Path], None]] = {
            **{f"trials/{name}": self._try_run_directory for name in RUN_FILES},
            "trials/revealed.json": self._try_reveal,
            "owner.json": lambda path: _quietly(find_owner, self.settings),
            "task.key": lambda path: _quietly(home_secret, path),
            "virtualmle.yaml": lambda path: _quietly(load_settings, home),
            "trainers/mine.json": lambda path: _quietly(registry.find, self.settings.trainers_dir, "mine"),
            **{f"datasets/demo/{name}": self._try_dataset for name in DATASET_FILES},
            "memory.duckdb": self._try_memory,
            "memory.duckdb.wal": self._try_memory,
            "memory.duckdb.acknowledged": self._try_memory,
        }

    @property
    def memory(self) -> Memory:
        """The home's memory, opened when it is needed."""
        if self._memory is None:
            self._memory = Memory.open(self.settings.database)
        return self._memory

    def close(self) -> None:
        """Lets go of the memory file."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def attempt(self, target: str, draw: random.Random) -> str:
        """Spoils `target` and tries it; returns what was left. Raises what a client must never see."""
        if target.startswith("trials/"):
            return self._with_run_directory(target, draw)
        path = self.home / target
        if target.startswith("memory"):
            self._write_ahead()
        kind = leave(path, draw)
        try:
            self.targets[target](path)
        finally:
            self._mend(path)
        return kind

    def _mend(self, path: Path) -> None:
        """Puts the good file back. Copies that were made of spoiled memory files are removed."""
        names = [path.name]
        if path.name.startswith("memory"):
            names = [other.name for other in self.home.glob("memory.duckdb*")]
        for name in names:
            remove(path.with_name(name))
            good = self._good / path.parent.relative_to(self.home) / name
            if good.exists():
                shutil.copy2(good, path.with_name(name))

    def _write_ahead(self) -> None:
        """Closes the memory, and leaves a write-ahead log beside it as a killed owner does."""
        self.close()
        self._trials = 0  # the good file that takes its place afterwards has no study
        work = self.home.with_name("copy")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        memory = Memory.open(self.settings.database)
        memory.add_study(study(SPACE, "demo", facts(1000, 8.0), study_id="s-wal", seed=0))
        for path in self.home.glob("memory.duckdb*"):
            shutil.copy2(path, work / path.name)
        memory.close()
        for path in work.iterdir():
            shutil.copy2(path, self.home / path.name)

    def _try_memory(self, path: Path) -> None:
        def opened() -> None:
            memory = Memory.open(self.settings.database)
            try:
                for found in memory.studies():
                    memory.trials(found.study_id)
            finally:
                memory.close()

        _quietly(opened)

    def _try_dataset(self, path: Path) -> None:
        _quietly(list_datasets, self.settings.datasets_dir)

        def read() -> None:
            folder = find(self.settings.datasets_dir, "demo").path
            load_training(folder)
            load_test(folder)
            load_ids(folder)

        _quietly(read)

    def _with_run_directory(self, target: str, draw: random.Random) -> str:
        trial = self._begun()
        directory = self.settings.trials_dir / trial.trial_id
        try:
            path = directory / Path(target).name
            kind = leave(path, draw)
            self.targets[target](path)
            self.memory.finish_trial(_cancelled(trial))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return kind

    def _begun(self) -> Trial:
        """A trial that an owner left in the middle, with every file a trainer writes."""
        if self._trials % TRIALS_OF_A_STUDY == 0:
            self._study += 1
            name = f"s-{self._study}"
            self.memory.add_study(study(SPACE, "demo", facts(1000, 8.0), study_id=name, seed=0))
        self._trials += 1
        config = SPACE.apply(SPACE.default(), {"dropout": (self._trials % 800) / 1000})
        trial = self.memory.start_trial(
            NewTrial(
                study_id=f"s-{self._study}", parent=None, changes={}, config=config, config_hash=SPACE.hash(config),
                seed=self._trials,
            )
        )  # fmt: skip
        self.memory.start_attempt(trial.trial_id, 2**22 + 1, 1.0)
        directory = self.settings.trials_dir / trial.trial_id
        spec = TrialSpec(
            trial_id=trial.trial_id, backbone="sasrec", config=config, seed=0, dataset_hash="abc", threads=1
        )
        run_directory.prepare(directory, spec)
        answer = curve(spec)
        assert answer.result is not None
        (directory / "result.json").write_text(answer.result.model_dump_json())
        lines = "".join(epoch.model_dump_json() + "\n" for epoch in answer.epochs)
        (directory / "epochs.jsonl").write_text(lines)
        (directory / ATTEMPT_FILE).write_text('{"pid": 4194305, "create_time": 1.0}')
        (directory / "trial.log").write_text("a line\n")
        (directory / "revealed.json").write_text('{"status": "ok", "trials": {"t-1": {"ndcg@10": 0.1}}, "message": ""}')
        return trial

    def _try_run_directory(self, path: Path) -> None:
        """As a next owner does: recovery, answers, what is read on the way, and another attempt."""
        memory, directory = self.memory, path.parent
        Recorder(memory, self.settings.trials_dir, lambda study, trial: ()).recover()
        trial = memory.trial(directory.name)
        if trial.status not in ("ok", "crashed", "interrupted"):
            raise BadMessage(f"the trial is {trial.status}")
        if "\n" in trial.message:
            raise BadMessage(f"a message of several lines: {trial.message!r}")
        read_trial_answer(memory, trial)
        run_directory.read_ranks(directory)
        run_directory.unrecovered(self.settings.trials_dir)
        needs_of(directory, "run")
        if "token" in run_directory.log_end(directory):
            raise BadMessage("the log is another file")
        last_line(directory)
        _quietly(log_size, directory)
        run_directory.prepare(directory, TrialSpec.model_validate_json(_spec(trial)))
        append_regular(directory / "trial.log").close()
        if run_directory.read_result(directory, trial.trial_id) is not None or not (directory / SPEC_FILE).is_file():
            raise BadMessage("the directory is not ready for another attempt")

    def _try_reveal(self, path: Path) -> None:
        found = run_directory.read_revealed(path.parent)
        if "\n" in found.message:
            raise BadMessage(f"a message of several lines: {found.message!r}")
        checkpoint = CheckpointPath(trial_id="t-1", path="../t-1/checkpoint.safetensors")
        run_directory.prepare_evaluation(path.parent, EvaluationSpec(dataset_hash="abc", checkpoints=(checkpoint,)))


RUN_FILES = (
    "spec.json", "result.json", "epochs.jsonl", "validation_ranks.safetensors", "checkpoint.safetensors", "trial.log",
    "attempt.json", "training.safetensors", "unrecovered.txt",
)  # fmt: skip
DATASET_FILES = ("dataset.json", "train.safetensors", "sealed/test.safetensors", "items.parquet")


def _spec(trial: Trial) -> str:
    return TrialSpec(
        trial_id=trial.trial_id, backbone="sasrec", config=trial.config, seed=0, dataset_hash="abc", threads=1
    ).model_dump_json()


def _cancelled(trial: Trial) -> TrialResult:
    return TrialResult(trial_id=trial.trial_id, status="cancelled")


def _quietly(call: Callable[..., object], *arguments: object) -> None:
    """Calls something that may refuse, in one line. Raises BadMessage for more lines, and what is no refusal."""
    try:
        call(*arguments)
    except EXPECTED as refusal:
        if "\n" in str(refusal).strip():
            raise BadMessage(f"a refusal of several lines: {refusal!r}") from refusal
