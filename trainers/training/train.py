"""Trains one trial, from data to batches, epochs, validation and the best weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf, isfinite

import numpy as np
import numpy.typing as npt
import torch

from trainers.contract.fields import Spec
from trainers.contract.metrics import filter_rule, metrics_of
from trainers.contract.specs import SPECS
from trainers.contract.wire import Epoch, Outcome, TrialSpec
from trainers.data import TrainingData
from trainers.models import device as devices
from trainers.models.backbones import Encoder, build
from trainers.models.batches import TrainingRows, keyed, newest
from trainers.models.graphs import GraphEncoder
from trainers.ranking.evaluate import Diverged, Evaluation, ranks
from trainers.training.estimate import available_memory_mb, predicted_memory_mb, refuse_what_cannot_fit
from trainers.training.losses import loss_of
from trainers.training.negatives import Negatives
from trainers.training.optimizers import clip_gradients, optimizers_of, set_rate
from trainers.training.resume import Keeper
from trainers.training.state import TrainState


def train(
    trial: TrialSpec,
    data: TrainingData,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    cancelled: Callable[[], bool] = lambda: False,
    deadline: float = inf,
    keeper: Keeper | None = None,
) -> tuple[Outcome, TrainState]:
    """Trains `trial` until validation stops improving; the model of the state then has the weights of the best epoch.

    `deadline` (of `time.monotonic`) ends the training as `timed_out` at the next epoch boundary. `cancelled` is called
    between batches and ends it as soon as possible. With a `keeper`, the training keeps its state and resumes from that
    of an earlier attempt, whose epochs are passed to `on_epoch` first. Raises Diverged if a loss or a score is not
    finite, and NotEnoughMemory before the start if the training cannot fit.
    """
    spec = SPECS[trial.backbone].model_validate(trial.config)
    state, rows = begin(trial, spec, data)
    model, evaluation = state.model, state.evaluation
    if keeper is not None and keeper.restore(state):
        for earlier in state.history:
            on_epoch(earlier)
    while (outcome := ending(state, spec, trial, deadline)) is None:
        epoch, started = len(state.history) + 1, time.perf_counter()
        loss = train_epoch(spec, state, rows, trial.seed, epoch, cancelled)
        if loss is None:
            outcome = "cancelled"
            break
        trained = time.perf_counter()
        validation_ranks = validate(model, evaluation, epoch)
        seconds, eval_seconds = trained - started, time.perf_counter() - trained
        validation = metrics_of(validation_ranks)
        line = Epoch(epoch=epoch, loss=loss, validation=validation, seconds=seconds, eval_seconds=eval_seconds)
        state.record(line, validation_ranks, trial.metric)
        on_epoch(line)
        if keeper is not None:
            keeper.keep(state)
    if state.best is not None:
        model.load_state_dict(state.best.weights)
    return outcome, state


def begin(trial: TrialSpec, spec: Spec, data: TrainingData) -> tuple[TrainState, TrainingRows]:
    """The state and the rows of a training before its first epoch. Raises NotEnoughMemory if it cannot fit."""
    device = devices.pick()
    predicted = None
    if device.type == "cpu":
        predicted = predicted_memory_mb(spec, data, devices.multiplies_bf16(device))
        refuse_what_cannot_fit(predicted, spec, min(available_memory_mb(), trial.memory_mb or inf))
    torch.manual_seed(keyed(trial.seed, 0, "weights"))
    model = build(spec, data.num_items).to(device)
    rows = TrainingRows(data, spec, device)
    encode = GraphEncoder(model, spec.batch_size, int(rows.lengths.max()), spec.num_heads, device)
    negatives = Negatives(spec, np.bincount(data.items, minlength=data.num_items), device)
    evaluation = validation_of(trial, spec, data, device)
    return TrainState(model, encode, optimizers_of(spec, model), negatives, evaluation, predicted), rows


def validation_of(trial: TrialSpec, spec: Spec, data: TrainingData, device: torch.device) -> Evaluation:
    """The evaluation that ranks each validation item after the training items of its user."""
    rule = filter_rule(trial.filter_seen, data.facts)
    return Evaluation.of(data.held_out(), data.num_items, spec.max_length, rule, device)


def ending(state: TrainState, spec: Spec, trial: TrialSpec, deadline: float) -> Outcome | None:
    """The outcome with which a training in this state ends now; None if it continues."""
    if not state.history:
        return None
    if len(state.history) >= spec.max_epochs or state.epochs_without_gain() >= spec.patience:
        return "ok"
    if hopeless(state, trial):
        return "stopped"
    return "timed_out" if time.monotonic() >= deadline else None


def hopeless(state: TrainState, trial: TrialSpec) -> bool:
    """Whether the best validation so far is below the `stop_below` of the trial for the current epoch."""
    epoch = len(state.history)
    if state.best is None or epoch > len(trial.stop_below):
        return False
    return state.best.validation[trial.metric] < trial.stop_below[epoch - 1]


def train_epoch(
    spec: Spec,
    state: TrainState,
    rows: TrainingRows,
    seed: int,
    epoch: int,
    cancelled: Callable[[], bool],
) -> float | None:
    """One pass over the users. Returns the mean loss, or None if cancelled on the way; raises Diverged.

    Order, negatives and dropout depend only on (seed, epoch), so an epoch can run without those before it.
    """
    model = state.model
    model.train()
    model.masks.restart(keyed(seed, epoch, "dropout"))
    torch.manual_seed(keyed(seed, epoch, "dropout"))  # a GPU draws its masks from torch's generator
    generator = torch.Generator(rows.device).manual_seed(keyed(seed, epoch, "negatives"))
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    predictions = 0
    bf16 = devices.multiplies_bf16(rows.device)
    autocast = bf16 and rows.device.type == "cuda"
    for step, batch in enumerate(rows.epoch(seed, epoch)):
        if cancelled():
            return None
        set_rate(state.optimizers, spec, epoch - 1 + (step + 0.5) / rows.batches)
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=autocast, cache_enabled=False):
            states = state.encode(batch.items, batch.offsets).float()  # (N, D)
        if spec.train_targets == "last_position":
            states = newest(states, batch.offsets)  # (B, D)
        loss = loss_of(spec, model, states, batch.targets, state.negatives, generator, bf16)
        model.zero_grad()
        loss.backward()
        if spec.gradient_clip:
            clip_gradients(model.parameters(), spec.gradient_clip)
        for optimizer in state.optimizers:
            optimizer.step()
        total += loss.detach() * len(batch.targets)
        predictions += len(batch.targets)
    mean = float(total) / predictions
    if not isfinite(mean):
        raise Diverged(f"the loss is {mean} in epoch {epoch}")
    return mean


def validate(model: Encoder, evaluation: Evaluation, epoch: int) -> npt.NDArray[np.int64]:
    """Ranks (F,) of the validation items. Raises Diverged with the epoch."""
    try:
        return ranks(model, evaluation)
    except Diverged as error:
        raise Diverged(f"{error} in epoch {epoch}") from None
