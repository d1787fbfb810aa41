"""itemKNN in numpy: a whole trainer for virtualmle. Run as `python train.py RUN_DIR`."""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

folder = Path(sys.argv[1])
spec = json.loads((folder / "spec.json").read_text())
training = spec["task"] == "train"
data = load_file(folder / ("train.safetensors" if training else "histories.safetensors"))
had = np.zeros((len(data["offsets"]) - 1, spec["num_items"]), dtype=np.float32)
had[np.repeat(np.arange(len(had)), np.diff(data["offsets"])), data["items"]] = 1
if training:
    users = had.sum(0) + spec["config"]["shrink"]
    similar = had.T @ had / (np.outer(users, users) + 1e-9) ** spec["config"]["power"]
    np.fill_diagonal(similar, 0)
    save_file({"similar": similar}, folder / "checkpoint.safetensors")
scores = had @ load_file(folder / "checkpoint.safetensors")["similar"]
scores[(had > 0) & (spec["filter_seen"] == "yes")] = -np.inf
if training:
    scores = scores[data.get("validated", np.arange(len(had)))]
    goals = scores[np.arange(len(scores)), data["validation"]][:, None]
    ranks = np.where(np.isfinite(goals[:, 0]), (scores >= goals).sum(1), spec["num_items"] + 1)
    save_file({"ranks": ranks}, folder / "validation_ranks.safetensors")
    (folder / "result.json").write_text(json.dumps({"status": "ok", "parameters": similar.size}))
else:
    best = np.argsort(-scores, 1, kind="stable")[:, :20]
    best[~np.isfinite(np.take_along_axis(scores, best, 1))] = -1
    save_file({"items": np.ascontiguousarray(best)}, folder / "predictions.safetensors")
