"""RecTools' SASRec on our training split. Needs an interpreter with `rectools[torch]` (see benchmarks.peers).

RecTools' own code trains and recommends, unpatched: padded rows of `max_length`, negatives per position, Lightning.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from benchmarks.harness.task import Answer, Arrays, PeerTraining
from benchmarks.peers.ranking import validation_ranks

LOSSES = {"full_softmax": "softmax", "sampled_softmax": "sampled_softmax"}


class Stopwatch(Callback):
    """Measures the seconds and the mean loss of the last epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self.started
        self.loss = float(trainer.callback_metrics["train_loss"])


def trainer_of(device: str, steps: int | None) -> Trainer:
    """The trainer that RecTools makes by default, with a stopwatch."""
    return Trainer(
        max_epochs=1, min_epochs=1, accelerator="cpu" if device == "cpu" else "gpu", devices=1, logger=False,
        limit_train_batches=steps, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Stopwatch()],
    )  # fmt: skip


def model_of(task: PeerTraining, steps: int | None = None) -> SASRecModel:
    """RecTools' model with the sizes of the task; everything else is its default."""
    return SASRecModel(
        n_blocks=task.num_blocks, n_heads=task.num_heads, n_factors=task.hidden_dim, dropout_rate=task.dropout,
        session_max_len=task.max_length, batch_size=task.batch_size, lr=task.learning_rate, loss=LOSSES[task.loss],
        n_negatives=task.num_negatives, recommend_torch_device=task.device,
        get_trainer_func=trainer_of, get_trainer_func_kwargs={"device": task.device, "steps": steps},
    )  # fmt: skip


def dataset_of(arrays: Arrays) -> Dataset:
    """The training split as a table of interactions; timestamps give their order."""
    order = np.arange(len(arrays.items)).astype("datetime64[s]")
    table = {Columns.User: arrays.users, Columns.Item: arrays.items, Columns.Weight: 1.0, Columns.Datetime: order}
    return Dataset.construct(pd.DataFrame(table))


def ranks_of(model: SASRecModel, task: PeerTraining, arrays: Arrays) -> np.ndarray:
    """Ranks of the validation items by our rule. Items that no user trained on are unknown to RecTools."""
    known_items = model.data_preparator.get_known_item_ids().astype(np.int64)
    internal = np.zeros(arrays.num_items + 1, dtype=np.int64)  # from item + 1 to RecTools' own id; padding 0 stays 0
    internal[known_items + 1] = model.data_preparator.get_known_items_sorted_internal_ids()
    rows = torch.from_numpy(internal[arrays.padded(task.max_length)]).to(task.device)
    net = model.torch_model.to(task.device).eval()
    with torch.no_grad():
        table = net.item_model.get_all_embeddings()
        states = [net.encode_sessions({"x": part}, table)[:, -1].cpu() for part in rows.split(task.batch_size)]
    item_ids = internal[1:]
    return validation_ranks(
        torch.cat(states).numpy(), table.cpu().numpy()[item_ids], arrays, task.filter_seen, known=item_ids > 0
    )


def main(path: Path) -> None:
    """Trains the task in the file `path` and prints an answer after each epoch."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    task = PeerTraining.read(path)
    arrays = Arrays.read(Path(task.arrays))
    torch.set_num_threads(task.threads)
    seed_everything(task.seed, verbose=False)
    dataset = dataset_of(arrays)
    if task.warm_up_steps:
        model_of(task, task.warm_up_steps).fit(dataset)
    model = model_of(task)
    users = np.arange(len(arrays.validation))
    for epoch in range(1, task.epochs + 1):
        model.fit_partial(dataset, min_epochs=1, max_epochs=1)
        watch = next(item for item in model.fit_trainer.callbacks if isinstance(item, Stopwatch))
        trained = time.perf_counter()
        name = None
        if task.evaluate == "own":
            model.recommend(users, dataset, k=10, filter_viewed=task.filter_seen)
        else:
            name = f"ranks-{epoch}.npy"
            np.save(Path(task.folder) / name, ranks_of(model, task, arrays))
        Answer(epoch, watch.loss, watch.seconds, time.perf_counter() - trained, name).print_line()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
