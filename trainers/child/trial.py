"""Runs one trial in its run directory, from spec.json to result.json; any failure becomes a status there."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ValidationError
from safetensors.numpy import save_file

from trainers.child.reuse import Source, read_source
from trainers.contract.metrics import LIST_LENGTH, measures_of, metrics_of
from trainers.contract.regular_files import create_regular, read_regular
from trainers.contract.specs import SPECS
from trainers.contract.wire import (
    CHECKPOINT_FILE,
    EPOCHS_FILE,
    NO_ROOM,
    RANKS_FILE,
    RESULT_FILE,
    RESUME_FILE,
    SPEC_FILE,
    Epoch,
    Outcome,
    TrialResult,
    TrialSpec,
)
from trainers.data import TrainingData, find_by_hash, load_training
from trainers.external.command import Misbehaved
from trainers.external.registry import TrainerError
from trainers.external.trial import run_external_trial
from trainers.models import checkpoint, native
from trainers.models import device as devices
from trainers.models.backbones import Encoder
from trainers.ranking.evaluate import Diverged, Evaluation
from trainers.ranking.scoring import Scoring, rank_all
from trainers.training.resume import Keeper
from trainers.training.train import train, validation_of

log = logging.getLogger("trainers")


def run(directory: Path, datasets: Path, cancelled: Callable[[], bool] = lambda: False, deadline: float = inf) -> None:
    """Runs the trial in `directory`; result.json is written last, so all other files are complete when it exists.

    If `weights_of` names a trial with the same training, its weights are evaluated instead of training again.
    A trial that timed out or was cancelled reports its best epoch, with checkpoint and ranks. One that diverged, ran
    out of memory or crashed has a result without metrics and checkpoint; epochs.jsonl shows how far it came.
    Raises only if there is no trial to report on: spec.json cannot be read, the directory cannot be written, or its
    disk is full.
    """
    trial = TrialSpec.model_validate_json(read_regular(directory / SPEC_FILE))
    torch.set_num_threads(trial.threads)
    history: list[Epoch] = []
    # an attempt starts a new file, without the epochs of an interrupted attempt
    with (directory / EPOCHS_FILE).open("w", encoding="utf-8") as lines:

        def record(epoch: Epoch) -> None:
            history.append(epoch)
            lines.write(epoch.model_dump_json() + "\n")
            lines.flush()

        try:
            if trial.backbone not in SPECS:
                result = run_external_trial(directory, trial, datasets, cancelled, deadline)
            else:
                folder = find_by_hash(datasets, trial.dataset_hash).path
                data = load_training(folder, trial.training_hash)
                source = _source(directory, trial, data)
                if source is not None:
                    result = _reuse(directory, trial, data, source, record)
                else:
                    result = _train(directory, trial, data, record, cancelled, deadline)
        except Exception as error:
            if _disk_is_full(error):  # not the trial's fault: another attempt may finish it
                raise
            log.exception("trial %s failed", trial.trial_id)
            result = _result(trial, _status_of(error), history, message=line_of(error))
    log.info("%s %s", result.status, result.message)
    write(directory / RESULT_FILE, result)
    if result.status != "cancelled":  # an owner that shuts down cancels too, and the next owner resumes the trial
        (directory / RESUME_FILE).unlink(missing_ok=True)


def write(path: Path, record: BaseModel) -> None:
    """Writes `record` as JSON by rename, so that a file with this name is always complete."""
    temporary = path.with_suffix(".tmp")
    with create_regular(temporary) as file:
        file.write((record.model_dump_json(indent=1) + "\n").encode())
    temporary.replace(path)


def line_of(error: Exception) -> str:
    """`error` as one line; the traceback is for the log."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = "".join(f" {part}" for part in first["loc"])
        return f"{error.title}{where}: {first['msg'].removeprefix('Value error, ')}"
    text = " ".join(str(error).split())[:500]
    is_explained = isinstance(error, (Diverged, checkpoint.CheckpointError, Misbehaved, TrainerError))
    return text if is_explained else f"{type(error).__name__}: {text}".removesuffix(": ")


def _source(directory: Path, trial: TrialSpec, data: TrainingData) -> Source | None:
    """The finished training to reuse instead of a new one; None if there is none or it cannot be used."""
    if trial.weights_of is None:
        return None
    try:
        return read_source(directory, trial, data.facts, devices.pick())
    except (OSError, ValueError) as error:
        log.info("the weights of %s cannot be reused, so this trains: %s", trial.weights_of, line_of(error))
        return None


def _reuse(
    directory: Path, trial: TrialSpec, data: TrainingData, source: Source, record: Callable[[Epoch], None]
) -> TrialResult:
    """Evaluates existing weights, which is all that a change of fields of the group `scoring` costs."""
    log.info("the weights of %s, trained in %d epochs, are reused", trial.weights_of, len(source.epochs))
    spec = SPECS[trial.backbone].model_validate(trial.config)
    evaluation = validation_of(trial, spec, data, devices.pick())
    for epoch in source.epochs:
        record(epoch)
    result = _result(trial, "ok", source.epochs, source.model, source.best_epoch)
    result = result.model_copy(update={"seconds": 0.0, "eval_seconds": 0.0, "weights_of": trial.weights_of})
    return _evaluate(directory, trial, data, source.model, evaluation, result)


def _train(
    directory: Path,
    trial: TrialSpec,
    data: TrainingData,
    record: Callable[[Epoch], None],
    cancelled: Callable[[], bool],
    deadline: float,
) -> TrialResult:
    def on_epoch(epoch: Epoch) -> None:
        record(epoch)
        score = epoch.validation[trial.metric]
        log.info("epoch %d: loss %.4f, %s %.4f", epoch.epoch, epoch.loss, trial.metric, score)

    outcome, state = train(trial, data, on_epoch, cancelled, deadline, Keeper(directory, trial))
    result = _result(trial, outcome, state.history, state.model, state.best.epoch if state.best else None)
    result = result.model_copy(update={"predicted_memory_mb": state.predicted_memory_mb})
    return _evaluate(directory, trial, data, state.model, state.evaluation, result) if state.best else result


def _evaluate(
    directory: Path,
    trial: TrialSpec,
    data: TrainingData,
    model: Encoder,
    evaluation: Evaluation,
    result: TrialResult,
) -> TrialResult:
    """`result` with the metrics of final scores by the chosen weights; writes the checkpoint and the ranks."""
    started = time.perf_counter()
    spec = SPECS[trial.backbone].model_validate(trial.config)
    scoring = Scoring.of(spec, data, evaluation.targets.device)
    ready = time.perf_counter()
    everyone = rank_all(model, evaluation, scoring, LIST_LENGTH)
    ended = time.perf_counter()
    events = np.bincount(data.items, minlength=data.num_items)
    measures = measures_of(everyone.items, events) | {"ms_per_1000_users": 1e6 * (ended - ready) / len(everyone.ranks)}
    _save(directory, trial, model, everyone.ranks, data.num_items)
    seconds = result.eval_seconds + ended - started
    update = {"validation": metrics_of(everyone.ranks), "measures": measures, "eval_seconds": seconds}
    return result.model_copy(update=update)


def _save(directory: Path, trial: TrialSpec, model: Encoder, ranks: npt.NDArray[np.int64], num_items: int) -> None:
    checkpoint.save(directory / CHECKPOINT_FILE, trial, model, num_items)
    temporary = directory / "validation_ranks.tmp"
    save_file({"ranks": np.minimum(ranks, 255).astype(np.uint8)}, temporary)
    temporary.replace(directory / RANKS_FILE)


def _result(
    trial: TrialSpec,
    status: Outcome,
    history: Sequence[Epoch],
    model: Encoder | None = None,
    best_epoch: int | None = None,
    message: str = "",
) -> TrialResult:
    device = devices.pick()
    return TrialResult(
        trial_id=trial.trial_id,
        status=status,
        message=message,
        best_epoch=best_epoch,
        epochs=len(history),
        seconds=sum(epoch.seconds for epoch in history),
        eval_seconds=sum(epoch.eval_seconds for epoch in history),
        peak_memory_mb=devices.peak_memory_mb(device),
        parameters=sum(weights.numel() for weights in model.parameters()) if model else None,
        device=devices.describe(device),
        threads=trial.threads,
        versions={"python": platform.python_version(), "torch": torch.__version__, "kernels": native.describe()},
    )


def _disk_is_full(error: Exception) -> bool:
    """Whether a disk is full; safetensors reports that only in the text of its error."""
    return any(words in str(error) for words in NO_ROOM)


def _status_of(error: Exception) -> Outcome:
    if isinstance(error, Diverged):
        return "diverged"
    return "out_of_memory" if devices.is_out_of_memory(error) else "crashed"
