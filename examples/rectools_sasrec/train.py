"""SASRec of RecTools as a trainer for virtualmle. Run as `python train.py RUN_DIR`."""

import json
import logging
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_weights
from safetensors.torch import save_file as save_weights

warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
LENGTH, BATCH = 50, 256

folder = Path(sys.argv[1])
spec = json.loads((folder / "spec.json").read_text())
config, V = spec["config"], spec["num_items"]
data = load_file(folder / "train.safetensors")
torch.set_num_threads(spec["threads"])
seed_everything(spec["seed"], verbose=False)


class Report(Callback):
    """A line in epochs.jsonl after each epoch."""

    def on_train_epoch_start(self, trainer, module):
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer, module):
        seconds, loss = time.perf_counter() - self.started, float(trainer.callback_metrics["train_loss"])
        line = {
            "epoch": trainer.current_epoch + 1,
            "loss": loss,
            "validation": {},
            "seconds": seconds,
            "eval_seconds": 0,
        }
        with (folder / "epochs.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def trainer_of(epochs):
    return Trainer(
        max_epochs=epochs, min_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Report()],
    )  # fmt: skip


def fitted(epochs):
    """The model after so many epochs on the training split; none builds it and no more."""
    users = np.repeat(np.arange(len(data["offsets"]) - 1), np.diff(data["offsets"]))
    order = np.arange(len(users)).astype("datetime64[s]")
    table = {Columns.User: users, Columns.Item: data["items"], Columns.Weight: 1.0, Columns.Datetime: order}
    given = {name: value for name, value in config.items() if name != "epochs"}
    model = SASRecModel(
        **given, session_max_len=LENGTH, batch_size=BATCH, recommend_torch_device="cpu",
        get_trainer_func=trainer_of, get_trainer_func_kwargs={"epochs": epochs},
    )  # fmt: skip
    return model.fit(Dataset.construct(pd.DataFrame(table)))


def scores(model, items, offsets):
    """Scores (users, V) after histories; minus infinity for items that nobody trained on, and for filtered ones."""
    known = model.data_preparator.get_known_item_ids().astype(np.int64)
    number = np.zeros(V, dtype=np.int64)
    number[known] = model.data_preparator.get_known_items_sorted_internal_ids()
    rows = np.zeros((len(offsets) - 1, LENGTH), dtype=np.int64)
    for user, (start, stop) in enumerate(pairwise(offsets)):
        newest = number[items[start:stop]][-LENGTH:]
        rows[user, LENGTH - len(newest) :] = newest
    net = model.torch_model.eval()
    with torch.no_grad():
        table = net.item_model.get_all_embeddings()
        states = [net.encode_sessions({"x": part}, table)[:, -1] for part in torch.from_numpy(rows).split(BATCH)]
        found = (torch.cat(states) @ table[number].T).numpy()
    found[:, number == 0] = -np.inf
    if spec["filter_seen"] == "yes":
        found[np.repeat(np.arange(len(rows)), np.diff(offsets)), items] = -np.inf
    return found


if spec["task"] == "train":
    model = fitted(config["epochs"])
    users = data.get("validated", np.arange(len(data["validation"])))
    found = scores(model, data["items"], data["offsets"])[users]
    goals = np.take_along_axis(found, data["validation"][:, None].astype(np.int64), 1)
    ranks = np.where(np.isfinite(goals[:, 0]), (found >= goals).sum(1), V + 1)
    save_file({"ranks": ranks.astype(np.int64)}, folder / "validation_ranks.safetensors")
    weights = {name: tensor.contiguous().clone() for name, tensor in model.torch_model.state_dict().items()}
    save_weights(weights, folder / "checkpoint.safetensors")
    size = sum(weight.numel() for weight in model.torch_model.parameters())
    (folder / "result.json").write_text(json.dumps({"status": "ok", "parameters": size}))
else:
    model = fitted(0)
    model.torch_model.load_state_dict(load_weights(folder / "checkpoint.safetensors"))
    asked = load_file(folder / "histories.safetensors")
    found = scores(model, asked["items"], asked["offsets"])
    best = np.argsort(-found, 1, kind="stable")[:, :20]
    items = np.full((len(found), 20), -1)
    items[:, : best.shape[1]] = np.where(np.isfinite(np.take_along_axis(found, best, 1)), best, -1)
    save_file({"items": items}, folder / "predictions.safetensors")
