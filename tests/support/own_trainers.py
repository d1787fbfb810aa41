"""Trainers of the user's own for tests: a good one, and run directories for it."""

from __future__ import annotations

import sys
from pathlib import Path

from trainers.contract.wire import TrialSpec
from trainers.data import add
from trainers.external import registry

FIELDS = "fields:\n  size: {default: 8, low: 1, high: 64}\n"

HEAD = """
import json, signal, sys, time
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save_file
folder = Path(sys.argv[1])
spec = json.loads((folder / "spec.json").read_text())
data = load_file(folder / "train.safetensors")
users, V = len(data["validation"]), spec["num_items"]
def result(**values):
    (folder / "result.json").write_text(json.dumps({"status": "ok", **values}))
def checkpoint():
    save_file({"none": np.zeros(1)}, folder / "checkpoint.safetensors")
def ranks(found):
    save_file({"ranks": found}, folder / "validation_ranks.safetensors")
def lists(asked):
    found = np.full((len(asked["offsets"]) - 1, 20), -1)
    for user, (start, stop) in enumerate(zip(asked["offsets"], asked["offsets"][1:])):
        left = np.setdiff1d(np.arange(V), asked["items"][start:stop])[:20]
        found[user, : len(left)] = left
    return found
def predict(found):
    save_file({"items": found}, folder / "predictions.safetensors")
if spec["task"] == "predict":
    asked = load_file(folder / "histories.safetensors")
"""
"""What the trainers of these tests share: they recommend the first items that a user has not seen."""
GOOD = """
    predict(lists(asked))
else:
    found = lists(data) == data["validation"][:, None]
    ranks(np.where(found.any(1), found.argmax(1) + 1, V))
    checkpoint()
    result()
"""


def trainer(folder: Path, body: str = GOOD, fields: str = FIELDS) -> Path:
    """space.yaml of a trainer with that body."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(HEAD + body)
    (folder / "space.yaml").write_text(f"command: [{sys.executable}, train.py]\n{fields}")
    return folder / "space.yaml"


def prepared(tmp_path: Path, body: str = GOOD) -> tuple[Path, TrialSpec]:
    """A run directory for a registered trainer on 30 users, beside the datasets."""
    registry.add(tmp_path / "trainers", "mine", trainer(tmp_path / "source", body))
    lines = "\n".join(f"{user} " + " ".join(str((user * 7 + step * 3) % 50) for step in range(8)) for user in range(30))
    (tmp_path / "log.txt").write_text(lines)
    dataset = add(tmp_path / "datasets", "log", tmp_path / "log.txt")
    directory = tmp_path / "trials" / "t-1"
    directory.mkdir(parents=True)
    spec = TrialSpec(
        trial_id="t-1", backbone="mine", config={"size": 8}, seed=0, dataset_hash=dataset.content_hash, threads=1
    )
    return directory, spec
