"""The sealed test: the only code that reads test items, run once for the checkpoints that a study has chosen."""

from __future__ import annotations

import logging
from pathlib import Path

from trainers import checkpoint, external
from trainers import device as devices
from trainers.data import find_by_hash, load_test, load_training
from trainers.evaluate import Evaluation
from trainers.metrics import filter_rule, metrics_of
from trainers.scoring import Scoring, rank_all
from trainers.spec import SPECS, EvaluationSpec, Revealed, TrialSpec
from trainers.trial import line_of

log = logging.getLogger("trainers")


def reveal(directory: Path, datasets: Path) -> Revealed:
    """Test metrics of every checkpoint in evaluate.json; any failure is the status `failed` with one line.

    The history of a user is all that came before the test item, to encode and to filter.
    """
    asked = EvaluationSpec.model_validate_json((directory / "evaluate.json").read_bytes())
    try:
        return Revealed(status="ok", trials=_test_metrics(directory, asked, datasets))
    except Exception as error:
        log.exception("evaluation failed")
        return Revealed(status="failed", message=line_of(error))


def _test_metrics(directory: Path, asked: EvaluationSpec, datasets: Path) -> dict[str, dict[str, float]]:
    folder = find_by_hash(datasets, asked.dataset_hash).path
    data, sealed = load_training(folder), load_test(folder)
    rule = filter_rule(asked.filter_seen, data.facts)
    device = devices.pick()
    metrics: dict[str, dict[str, float]] = {}
    for trial in asked.checkpoints:
        if _is_external(directory / trial.path):
            scratch = directory / f"predict-{trial.trial_id}"
            metrics[trial.trial_id] = metrics_of(external.ranks_of(directory / trial.path, scratch, datasets, sealed))
            continue
        spec, model = checkpoint.load(directory / trial.path, asked.dataset_hash, device)
        evaluation = Evaluation.of(sealed, data.num_items, spec.max_length, rule, device)
        found = rank_all(model, evaluation, Scoring.of(spec, data, device), 0)
        metrics[trial.trial_id] = metrics_of(found.ranks)
    return metrics


def _is_external(path: Path) -> bool:
    """Whether the checkpoint was made by a trainer of the user's own; run directories of such trials say so."""
    try:
        spec = TrialSpec.model_validate_json((path.parent / "spec.json").read_bytes())
    except (OSError, ValueError):
        return False
    return spec.backbone not in SPECS
