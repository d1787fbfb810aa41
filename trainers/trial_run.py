"""One training of a trainer of the user's own on a tiny dataset, from spec.json to the sealed test. No torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainers import external, registry
from trainers.data import add, load_test
from trainers.metrics import metrics_of
from trainers.registry import TrainerError
from trainers.spec import TrialSpec

USERS, ITEMS = 60, 40


def check_trainer(space: Path, home: Path, seconds: float) -> Iterator[str]:
    """A line for each thing that is right; raises TrainerError with what is wrong. Works in the folder `home`."""
    trainer = registry.add(home / external.TRAINERS, "checked", space)
    fields = ", ".join(field.name for field in trainer.space.fields)
    yield f"space: {fields or 'no fields'}"
    lines = home / "walks.txt"
    lines.write_text("\n".join(_walks()) + "\n", encoding="utf-8")
    dataset = add(home / "datasets", "walks", lines)
    directory = home / "trials" / "t-check"
    directory.mkdir(parents=True)
    spec = TrialSpec(
        trial_id="t-check", backbone="checked", config=trainer.space.default(), seed=0,
        dataset_hash=dataset.content_hash, threads=1,
    )  # fmt: skip
    result = external.run(directory, spec, home / "datasets", deadline=time.monotonic() + seconds)
    if result.status == "timed_out":
        raise TrainerError(f"Trainer checked: it was still at work after {seconds:g} s; --seconds gives it longer.")
    if result.status != "ok":
        raise TrainerError(result.message or f"Trainer checked: it ended as {result.status}")
    yield f"training: {result.epochs} epochs, validation ndcg@10 {result.validation['ndcg@10']:.4f}, ranks as predicted"
    try:
        sealed = load_test(dataset.path)
        checkpoint = directory / "checkpoint.safetensors"
        ranks = external.ranks_of(checkpoint, home / "predict", home / "datasets", sealed)
    except external.Misbehaved as error:
        raise TrainerError(str(error)) from None
    yield f"test: predictions for {len(ranks)} users, ndcg@10 {metrics_of(ranks)['ndcg@10']:.4f}"


def _walks() -> Iterator[str]:
    """Users who walk a circle of items in steps of 1 or 2, of every length from 3 to 20."""
    draw = np.random.default_rng(0)
    for user in range(USERS):
        steps = np.cumsum(draw.integers(1, 3, size=3 + user % 18)) + draw.integers(ITEMS)
        yield f"{user} " + " ".join(str(item) for item in steps % ITEMS)
