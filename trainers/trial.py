"""One trial in its run directory: spec.json in, files out, and every failure a status in result.json."""

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

from trainers import checkpoint, external, native
from trainers import device as devices
from trainers.backbones import Encoder
from trainers.data import TrainingData, find_by_hash, load_training
from trainers.evaluate import Diverged, Evaluation
from trainers.metrics import LIST, measures_of, metrics_of
from trainers.registry import TrainerError
from trainers.resume import Keeper
from trainers.reuse import Source, read_source
from trainers.scoring import Scoring, rank_all
from trainers.spec import NO_ROOM, RESUME_FILE, SPECS, Epoch, Outcome, TrialResult, TrialSpec
from trainers.train import train, validation_of

log = logging.getLogger("trainers")


def run(directory: Path, datasets: Path, cancelled: Callable[[], bool] = lambda: False, deadline: float = inf) -> None:
    """Trains the run directory `directory`; result.json comes last, so whoever finds it finds all the rest.

    Where `weights_of` names a trial that trained the same, its weights are evaluated instead of a training.
    A trial that timed out or was cancelled reports its best epoch, with checkpoint and ranks. One that diverged, ran
    out of memory or crashed is a failed result: no metrics and no checkpoint; epochs.jsonl shows how far it came.
    Raises only where there is no trial to report on: spec.json cannot be read, the directory cannot be written, or its
    disk is full.
    """
    trial = TrialSpec.model_validate_json((directory / "spec.json").read_bytes())
    torch.set_num_threads(trial.threads)
    history: list[Epoch] = []
    # an attempt starts afresh: the epochs of one that was interrupted are not its own
    with (directory / "epochs.jsonl").open("w", encoding="utf-8") as lines:

        def keep(epoch: Epoch) -> None:
            history.append(epoch)
            lines.write(epoch.model_dump_json() + "\n")
            lines.flush()

        try:
            if trial.backbone not in SPECS:
                result = external.run(directory, trial, datasets, cancelled, deadline)
            else:
                data = load_training(find_by_hash(datasets, trial.dataset_hash).path)
                source = _source(directory, trial, data)
                if source is not None:
                    result = _reused(directory, trial, data, source, keep)
                else:
                    result = _trained(directory, trial, data, keep, cancelled, deadline)
        except Exception as error:
            if _has_no_room(error):  # no verdict on the trial, which another attempt may end
                raise
            log.exception("trial %s failed", trial.trial_id)
            result = _result(trial, _status_of(error), history, message=line_of(error))
    log.info("%s %s", result.status, result.message)
    write(directory / "result.json", result)
    if result.status != "cancelled":  # an owner that ends cancels, too, and its trial goes on with the next one
        (directory / RESUME_FILE).unlink(missing_ok=True)


def write(path: Path, record: BaseModel) -> None:
    """Writes `record` as JSON by rename: there is a whole file under this name, or none."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def line_of(error: Exception) -> str:
    """`error` as one line; the traceback is for the log."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = "".join(f" {part}" for part in first["loc"])
        return f"{error.title}{where}: {first['msg'].removeprefix('Value error, ')}"
    text = " ".join(str(error).split())[:500]
    speaks_for_itself = isinstance(error, (Diverged, checkpoint.CheckpointError, external.Misbehaved, TrainerError))
    return text if speaks_for_itself else f"{type(error).__name__}: {text}".removesuffix(": ")


def _source(directory: Path, trial: TrialSpec, data: TrainingData) -> Source | None:
    """What there is to take instead of a training, if it is as good as one."""
    if trial.weights_of is None:
        return None
    try:
        return read_source(directory, trial, data.facts, devices.pick())
    except (OSError, ValueError) as error:
        log.info("the weights of %s cannot be reused, so this trains: %s", trial.weights_of, line_of(error))
        return None


def _reused(
    directory: Path, trial: TrialSpec, data: TrainingData, source: Source, keep: Callable[[Epoch], None]
) -> TrialResult:
    """One evaluation of weights that are there: fields that only change how items are scored cost no more than this."""
    log.info("the weights of %s, trained in %d epochs, are reused", trial.weights_of, len(source.epochs))
    spec = SPECS[trial.backbone].model_validate(trial.config)
    evaluation = validation_of(trial, spec, data, devices.pick())
    for epoch in source.epochs:
        keep(epoch)
    result = _result(trial, "ok", source.epochs, source.model, source.best_epoch)
    result = result.model_copy(update={"seconds": 0.0, "eval_seconds": 0.0, "weights_of": trial.weights_of})
    return _evaluated(directory, trial, data, source.model, evaluation, result)


def _trained(
    directory: Path,
    trial: TrialSpec,
    data: TrainingData,
    keep: Callable[[Epoch], None],
    cancelled: Callable[[], bool],
    deadline: float,
) -> TrialResult:
    def on_epoch(epoch: Epoch) -> None:
        keep(epoch)
        score = epoch.validation[trial.metric]
        log.info("epoch %d: loss %.4f, %s %.4f", epoch.epoch, epoch.loss, trial.metric, score)

    outcome, state = train(trial, data, on_epoch, cancelled, deadline, Keeper(directory, trial))
    result = _result(trial, outcome, state.history, state.model, state.best.epoch if state.best else None)
    result = result.model_copy(update={"predicted_memory_mb": state.predicted_memory_mb})
    return _evaluated(directory, trial, data, state.model, state.evaluation, result) if state.best else result


def _evaluated(
    directory: Path,
    trial: TrialSpec,
    data: TrainingData,
    model: Encoder,
    evaluation: Evaluation,
    result: TrialResult,
) -> TrialResult:
    """`result` with the final scores of the chosen weights; checkpoint and ranks are written."""
    started = time.perf_counter()
    spec = SPECS[trial.backbone].model_validate(trial.config)
    scoring = Scoring.of(spec, data, evaluation.targets.device)
    ready = time.perf_counter()
    found = rank_all(model, evaluation, scoring, LIST)
    ended = time.perf_counter()
    events = np.bincount(data.items, minlength=data.num_items)
    measures = measures_of(found.items, events) | {"ms_per_1000_users": 1e6 * (ended - ready) / len(found.ranks)}
    _save(directory, trial, model, found.ranks, data.num_items)
    seconds = result.eval_seconds + ended - started
    update = {"validation": metrics_of(found.ranks), "measures": measures, "eval_seconds": seconds}
    return result.model_copy(update=update)


def _save(directory: Path, trial: TrialSpec, model: Encoder, found: npt.NDArray[np.int64], num_items: int) -> None:
    checkpoint.save(directory / "checkpoint.safetensors", trial, model, num_items)
    temporary = directory / "validation_ranks.tmp"
    save_file({"ranks": np.minimum(found, 255).astype(np.uint8)}, temporary)
    temporary.replace(directory / "validation_ranks.safetensors")


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


def _has_no_room(error: Exception) -> bool:
    """Whether a disk is full; safetensors tells only in words."""
    return any(words in str(error) for words in NO_ROOM)


def _status_of(error: Exception) -> Outcome:
    if isinstance(error, Diverged):
        return "diverged"
    return "out_of_memory" if devices.is_out_of_memory(error) else "crashed"
