"""RePlay's SASRec on our training split. Needs an interpreter with `replay-rec[torch]` (see benchmarks.peers).

RePlay's own code trains and validates, unpatched: its Parquet loader, and its sampled cross entropy with one set of
negatives per batch. If the task has a bucket size, RePlay uses its encoder of length buckets, its fastest encoder.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

import lightning
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn import transform
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import ComputeMetricsCallback
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.lightning.postprocessor import SeenItemsFilter
from replay.nn.loss import CE, CESampled
from replay.nn.sequential import LengthBucketedQueryEncoder, SasRec

from benchmarks.harness.task import Answer, Arrays, PeerTraining
from benchmarks.peers.ranking import validation_ranks

ITEM = "item_id"


class Stopwatch(lightning.Callback):
    """Prints an answer after the evaluation of each epoch."""

    def __init__(self, task: PeerTraining, arrays: Arrays) -> None:
        self.task, self.arrays = task, arrays

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: LightningModule) -> None:
        epoch, name = trainer.current_epoch + 1, None
        if self.task.evaluate == "ranks":
            self.trained = time.perf_counter()
            name = f"ranks-{epoch}.npy"
            np.save(Path(self.task.folder) / name, ranks_of(pl_module, self.task, self.arrays))
        ended = time.perf_counter()
        loss = float(trainer.callback_metrics["train_loss_epoch"])
        Answer(epoch, loss, self.trained - self.started, ended - self.trained, name).print_line()


def schema_of(task: PeerTraining, num_items: int) -> TensorSchema:
    """The schema with one feature, the item. The id after the last item is padding."""
    source = TensorFeatureSource(FeatureSource.INTERACTIONS, ITEM)
    item = TensorFeatureInfo(
        ITEM, is_seq=True, feature_type=FeatureType.CATEGORICAL, feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[source], cardinality=num_items, padding_value=num_items, embedding_dim=task.hidden_dim,
    )  # fmt: skip
    return TensorSchema([item])


def module_of(task: PeerTraining, num_items: int) -> LightningModule:
    """RePlay's SasRec with the sizes of the task."""
    sizes = {"embedding_dim": task.hidden_dim, "num_heads": task.num_heads, "num_blocks": task.num_blocks}
    schema = schema_of(task, num_items)
    model = SasRec.from_params(schema, max_sequence_length=task.max_length, dropout=task.dropout, **sizes)
    body, loss = model.body, CE(ignore_index=num_items)
    if task.bucket_size:
        body.encoder = LengthBucketedQueryEncoder(body.encoder, task.bucket_size)
    if task.loss == "sampled_softmax":
        loss = CESampled()
    return LightningModule(SasRec(body, loss), OptimizerFactory(learning_rate=task.learning_rate))


def data_of(task: PeerTraining, arrays: Arrays, folder: Path) -> ParquetModule:
    """The training split in Parquet files, with the transforms of RePlay's own SASRec pipeline."""
    counts, longest = np.diff(arrays.offsets), int(np.diff(arrays.offsets).max())
    histories = pa.ListArray.from_arrays(pa.array(arrays.offsets, pa.int32()), pa.array(arrays.items, pa.int64()))
    training = pa.table({ITEM: histories}).filter(pa.array(counts > 1))
    users = pa.table({ITEM: histories, "seen_ids": histories, "ground_truth": pa.array(arrays.validation, pa.int64())})
    for name, table in (("train", training), ("validate", users)):
        pq.write_table(table, folder / f"{name}.parquet")
    pad = arrays.num_items
    metadata = {
        "train": {ITEM: {"shape": task.max_length + 1, "padding": pad}},
        "validate": {ITEM: {"shape": task.max_length, "padding": pad}, "seen_ids": {"shape": longest, "padding": -1},
                     "ground_truth": {}},
    }  # fmt: skip
    names = ["feature_tensors", "padding_mask"]
    training_steps = [
        transform.NextTokenTransform(ITEM),
        transform.RenameTransform({f"{ITEM}_mask": "padding_mask", "positive_labels_mask": "target_padding_mask"}),
        transform.TargetAwareAdaptiveTrimTransform([ITEM, "positive_labels"]),
        transform.UnsqueezeTransform("target_padding_mask", -1),
        transform.UnsqueezeTransform("positive_labels", -1),
        transform.GroupTransform({"feature_tensors": [ITEM]}),
    ]
    if task.loss == "sampled_softmax":
        training_steps.append(transform.UniformNegativeSamplingTransform(pad, task.num_negatives))
    validation_steps = [
        transform.RenameTransform({f"{ITEM}_mask": "padding_mask"}),
        transform.UnsqueezeTransform("ground_truth", -1),
        transform.GroupTransform({"feature_tensors": [ITEM]}),
        transform.SelectTransform([*names, "seen_ids", "ground_truth"]),
    ]
    return ParquetModule(
        batch_size=task.batch_size, metadata=metadata,
        transforms={"train": training_steps, "validate": validation_steps},
        train_path=str(folder / "train.parquet"), validate_path=str(folder / "validate.parquet"),
    )  # fmt: skip


@torch.no_grad()
def ranks_of(module: LightningModule, task: PeerTraining, arrays: Arrays) -> np.ndarray:
    """Ranks of the validation items by our rule."""
    rows = torch.from_numpy(arrays.padded(task.max_length)).to(task.device)
    real = rows > 0
    items = torch.where(real, rows - 1, arrays.num_items)
    module.eval()
    body = module.model.body
    parts = zip(items.split(task.batch_size), real.split(task.batch_size), strict=True)
    states = [body({ITEM: part}, mask)[:, -1].cpu() for part, mask in parts]
    table = body.embedder.get_item_weights().cpu()
    module.train()
    return validation_ranks(torch.cat(states).numpy(), table.numpy(), arrays, task.filter_seen)


def main(path: Path) -> None:
    """Trains the task in the file `path` and prints an answer after each epoch."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    task = PeerTraining.read(path)
    arrays = Arrays.read(Path(task.arrays))
    torch.set_num_threads(task.threads)
    lightning.seed_everything(task.seed, verbose=False)
    accelerator = "cpu" if task.device == "cpu" else "gpu"
    quiet = {"accelerator": accelerator, "devices": 1, "logger": False, "enable_checkpointing": False,
             "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}  # fmt: skip
    data = data_of(task, arrays, Path(task.folder))
    if task.warm_up_steps:
        short = lightning.Trainer(max_epochs=1, limit_train_batches=task.warm_up_steps, limit_val_batches=0, **quiet)
        short.fit(module_of(task, arrays.num_items), data)
    callbacks: list[lightning.Callback] = [Stopwatch(task, arrays)]
    if task.evaluate == "own":
        seen = [SeenItemsFilter(arrays.num_items)] if task.filter_seen else []
        callbacks.append(ComputeMetricsCallback(["ndcg", "recall"], [10], seen, verbose=False))
    limit = None if task.evaluate == "own" else 0
    trainer = lightning.Trainer(max_epochs=task.epochs, callbacks=callbacks, limit_val_batches=limit, **quiet)
    trainer.fit(module_of(task, arrays.num_items), data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
