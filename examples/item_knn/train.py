"""itemKNN in numpy: a whole trainer for virtualmle. Run as `python train.py RUN_DIR`."""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

folder = Path(sys.argv[1])
spec = json.loads((folder / "spec.json").read_text())
data, V = load_file(folder / "train.safetensors"), spec["num_items"]


def histories(items, offsets):  # (users, V): newest items weigh most
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    weights = np.zeros((len(offsets) - 1, V), dtype=np.float32)
    age = np.repeat(offsets[1:], np.diff(offsets)) - 1 - np.arange(len(items))
    np.maximum.at(weights, (rows, items), spec["config"]["decay"] ** age)
    return weights


def scores(similar, items, offsets):  # (users, V); what was seen last
    had = histories(items, offsets)
    found = had @ similar
    return np.where((had > 0) & (spec["filter_seen"] == "yes"), -np.inf, found)


if spec["task"] == "train":
    had = histories(data["items"], data["offsets"]) > 0
    together, counts = had.T.astype(np.float32) @ had, had.sum(0) + spec["config"]["shrink"]
    similar = together / np.sqrt(np.outer(counts, counts) + 1e-9)
    np.fill_diagonal(similar, 0)
    found = scores(similar, data["items"], data["offsets"])[data.get("validated", np.arange(len(data["validation"])))]
    goals = np.take_along_axis(found, data["validation"][:, None].astype(int), 1)
    ranks = np.where(np.isfinite(goals[:, 0]), (found >= goals).sum(1), V + 1)
    save_file({"ranks": ranks.astype(np.int64)}, folder / "validation_ranks.safetensors")
    save_file({"similar": similar}, folder / "checkpoint.safetensors")
    (folder / "result.json").write_text(json.dumps({"status": "ok", "parameters": similar.size}))
else:
    asked = load_file(folder / "histories.safetensors")
    found = scores(load_file(folder / "checkpoint.safetensors")["similar"], asked["items"], asked["offsets"])
    best = np.argsort(-found, 1, kind="stable")[:, :20]
    items = np.full((len(found), 20), -1)
    items[:, : best.shape[1]] = np.where(np.isfinite(np.take_along_axis(found, best, 1)), best, -1)
    save_file({"items": items}, folder / "predictions.safetensors")
