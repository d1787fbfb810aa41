"""What a task reads beside its own directory, where that has to be brought to it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from trainers.spec import EvaluationSpec, ExportSpec, RecommendSpec, Task, TrialSpec


@dataclass(frozen=True)
class Needs:
    """`trials`: the run directories beside it whose files it reads. `dataset_hash`: None where none is named."""

    trials: tuple[Path, ...]
    dataset_hash: str | None


def needs_of(directory: Path, task: Task) -> Needs:
    """As its request says; one that cannot be read needs nothing, for the child will say what is wrong with it."""
    dataset, names = None, list[str]()
    with suppress(OSError, ValidationError):
        if task == "run":
            trial = _trial(directory)
            dataset, names = trial.dataset_hash, [trial.weights_of or ""]
        elif task == "evaluate":
            asked = EvaluationSpec.model_validate_json((directory / "evaluate.json").read_bytes())
            dataset, names = asked.dataset_hash, [PurePosixPath(one.path).parent.name for one in asked.checkpoints]
        else:
            kind = ExportSpec if task == "export" else RecommendSpec
            names = [kind.model_validate_json((directory / f"{task}.json").read_bytes()).trial_id]
            dataset = _trial(directory.parent / names[0]).dataset_hash
    beside = [directory.parent / name for name in dict.fromkeys(names) if name and Path(name).name == name]
    return Needs(tuple(one for one in beside if one.is_dir() and one.name != directory.name), dataset)


def _trial(directory: Path) -> TrialSpec:
    return TrialSpec.model_validate_json((directory / "spec.json").read_bytes())
