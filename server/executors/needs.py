"""Finds what a task reads besides its own directory, for executors that have to copy or mount it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from trainers.contract.regular_files import is_regular, read_regular
from trainers.contract.wire import (
    REQUEST_FILES,
    SPEC_FILE,
    ChildTask,
    EvaluationSpec,
    ExportSpec,
    RecommendSpec,
    TrialSpec,
)
from trainers.data import DataError, find_by_hash
from trainers.data.content import TEST, TRAIN, WHOLE
from trainers.data.store import ITEMS

_TRAINING = ("dataset.json", TRAIN)
_READS: dict[ChildTask, tuple[str, ...]] = {
    "run": _TRAINING,
    "evaluate": (*_TRAINING, TEST),
    "export": (*_TRAINING, ITEMS),
    "recommend": (*_TRAINING, ITEMS),
}
"""For each task, the files that it reads of its dataset."""
_REFIT_READS = (*_READS["export"], TEST, WHOLE)
"""Those of an export that trains again on every event."""


@dataclass(frozen=True)
class Needs:
    """`trials` are the other run directories that the task reads; `dataset_hash` is None if it needs no dataset."""

    trials: tuple[Path, ...]
    dataset_hash: str | None


def needs_of(directory: Path, task: ChildTask) -> Needs:
    """What the task's request refers to. For an unreadable request that is nothing: the child will report the error."""
    dataset, names = None, list[str]()
    with suppress(OSError, ValidationError):
        if task == "run":
            trial = _trial(directory)
            dataset, names = trial.dataset_hash, [trial.weights_of or ""]
        elif task == "evaluate":
            request = EvaluationSpec.model_validate_json(read_regular(directory / REQUEST_FILES["evaluate"]))
            dataset = request.dataset_hash
            names = [PurePosixPath(checkpoint.path).parent.name for checkpoint in request.checkpoints]
        else:
            spec_type = ExportSpec if task == "export" else RecommendSpec
            names = [spec_type.model_validate_json(read_regular(directory / f"{task}.json")).trial_id]
            dataset = _trial(directory.parent / names[0]).dataset_hash
    beside = [directory.parent / name for name in dict.fromkeys(names) if name and Path(name).name == name]
    return Needs(tuple(folder for folder in beside if folder.is_dir() and folder.name != directory.name), dataset)


def dataset_files(directory: Path, task: ChildTask, datasets: Path) -> tuple[Path, ...]:
    """The files of the dataset that the task reads, where they exist; only a task after the choice reads the test."""
    content = needs_of(directory, task).dataset_hash
    if content is None:
        return ()
    try:
        folder = find_by_hash(datasets, content).path
    except DataError:  # the child will report it
        return ()
    names = _REFIT_READS if _refits(directory, task) else _READS[task]
    return tuple(folder / name for name in names if is_regular(folder / name))


def _refits(directory: Path, task: ChildTask) -> bool:
    if task != "export":
        return False
    try:
        request = ExportSpec.model_validate_json(read_regular(directory / REQUEST_FILES["export"]))
    except (OSError, ValidationError):
        return False
    return request.refit_epochs is not None


def _trial(directory: Path) -> TrialSpec:
    return TrialSpec.model_validate_json(read_regular(directory / SPEC_FILE))
