"""Checks a user's own trainer by short trainings on a tiny dataset, from spec.json to the sealed test. No torch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainers.contract.metrics import metrics_of
from trainers.contract.space import SpaceError
from trainers.contract.wire import CHECKPOINT_FILE, TrialResult, TrialSpec
from trainers.data import add, load_test
from trainers.external import registry
from trainers.external.branches import branches
from trainers.external.command import Misbehaved
from trainers.external.predictions import ranks_of
from trainers.external.registry import TrainerError
from trainers.external.trial import run_external_trial

USERS, ITEMS = 60, 40
MOST_RUNS = 20
"""Trainings beside that of the default, at most."""


def check_trainer(space: Path, home: Path, seconds: float, most_runs: int = MOST_RUNS) -> Iterator[str]:
    """Yields a line for each check that passes. Raises TrainerError with what is wrong. Works in the folder `home`.

    It trains the default, then at most `most_runs` configurations that try the branches of the space.
    """
    trainer = registry.add(home / registry.TRAINERS, "checked", space)
    fields = ", ".join(field.name for field in trainer.space.fields)
    try:
        tried = branches(trainer.space, most_runs)
    except SpaceError as error:
        raise TrainerError(f"{str(space)!r}: {error}") from None
    yield f"space: {fields or 'no fields'}"
    lines = home / "walks.txt"
    lines.write_text("\n".join(_walks()) + "\n", encoding="utf-8")
    dataset = add(home / "datasets", "walks", lines)
    default = trainer.space.default()
    spec = TrialSpec(
        trial_id="t-check", backbone="checked", config=default, seed=0, dataset_hash=dataset.content_hash, threads=1
    )
    result = _train(home, spec, seconds)
    yield f"training: {result.epochs} epochs, validation ndcg@10 {result.validation['ndcg@10']:.4f}, ranks as predicted"
    try:
        sealed = load_test(dataset.path)
        checkpoint = home / "trials" / spec.trial_id / CHECKPOINT_FILE
        ranks = ranks_of(checkpoint, home / "predict", home / "datasets", sealed)
    except Misbehaved as error:
        raise TrainerError(str(error)) from None
    yield f"test: predictions for {len(ranks)} users, ndcg@10 {metrics_of(ranks)['ndcg@10']:.4f}"
    for number, config in enumerate(tried.configs, 1):
        branch = spec.model_copy(update={"trial_id": f"t-check-{number}", "config": config})
        try:
            _train(home, branch, seconds)
        except TrainerError as error:
            changes = ", ".join(f"{name}={value!r}" for name, value in config.items() if value != default[name])
            raise TrainerError(f"With {changes}: {error}") from None
    runs = f"{len(tried.configs)} more trainings" if len(tried.configs) != 1 else "1 more training"
    left = "; --runs tries more" if tried.covered < tried.pairs else ""
    yield f"branches: {runs} tried {tried.covered} of {tried.pairs} pairs of choices and conditional fields{left}"


def _train(home: Path, spec: TrialSpec, seconds: float) -> TrialResult:
    """The result of a training that ended well; its files go, those of the default stay. Raises TrainerError."""
    directory = home / "trials" / spec.trial_id
    directory.mkdir(parents=True)
    result = run_external_trial(directory, spec, home / "datasets", deadline=time.monotonic() + seconds)
    if result.status == "timed_out":
        raise TrainerError(f"Trainer checked: it was still at work after {seconds:g} s; --seconds gives it longer.")
    if result.status != "ok":
        raise TrainerError(result.message or f"Trainer checked: it ended as {result.status}")
    if spec.trial_id != "t-check":
        shutil.rmtree(directory, ignore_errors=True)
    return result


def _walks() -> Iterator[str]:
    """Lines of users who walk a circle of items in steps of 1 or 2, with 3 to 20 items each."""
    draw = np.random.default_rng(0)
    for user in range(USERS):
        steps = np.cumsum(draw.integers(1, 3, size=3 + user % 18)) + draw.integers(ITEMS)
        yield f"{user} " + " ".join(str(item) for item in steps % ITEMS)
