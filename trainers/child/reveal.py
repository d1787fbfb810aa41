"""The sealed test: scores the checkpoints that a study has chosen on the test items, once."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save  # pyright: ignore[reportUnknownVariableType]

from trainers.child.trial import line_of
from trainers.contract.metrics import filter_rule, metrics_of
from trainers.contract.regular_files import create_regular, read_regular
from trainers.contract.specs import SPECS
from trainers.contract.wire import REQUEST_FILES, SPEC_FILE, TEST_RANKS_FILE, EvaluationSpec, Revealed, TrialSpec
from trainers.data import find_by_hash, load_test, load_training
from trainers.data.baselines import baseline_ranks
from trainers.external.predictions import ranks_of
from trainers.models import checkpoint
from trainers.models import device as devices
from trainers.ranking.evaluate import Evaluation
from trainers.ranking.scoring import Scoring, rank_all

log = logging.getLogger("trainers")


def reveal(directory: Path, datasets: Path) -> Revealed:
    """Test metrics of every checkpoint in evaluate.json and of the baselines; leaves the ranks in TEST_RANKS_FILE.

    Any failure is the status `failed` with one line. The history of a user, to encode and to filter, is everything
    before the test item. Users without a training event are scored apart.
    """
    request = EvaluationSpec.model_validate_json(read_regular(directory / REQUEST_FILES["evaluate"]))
    try:
        return _revealed(directory, request, datasets)
    except Exception as error:
        log.exception("evaluation failed")
        return Revealed(status="failed", message=line_of(error))


def _revealed(directory: Path, request: EvaluationSpec, datasets: Path) -> Revealed:
    folder = find_by_hash(datasets, request.dataset_hash).path  # its owner has compared the content with the hash
    data, sealed = load_training(folder), load_test(folder)
    rule = filter_rule(request.filter_seen, data.facts)
    device = devices.pick()
    ranks: dict[str, npt.NDArray[np.int64]] = {}
    for trial in request.checkpoints:
        if _is_external(directory / trial.path):
            scratch = directory / f"predict-{trial.trial_id}"
            ranks[trial.trial_id] = ranks_of(directory / trial.path, scratch, datasets, sealed)
            continue
        spec, model = checkpoint.load(directory / trial.path, request.dataset_hash, device)
        evaluation = Evaluation.of(sealed, data.num_items, spec.max_length, rule, device)
        ranks[trial.trial_id] = rank_all(model, evaluation, Scoring.of(spec, data, device), 0).ranks
    all_baselines = baseline_ranks(data, rule, sealed)
    apart = sealed.untrained if sealed.untrained is not None and not sealed.untrained.all() else None
    counted = np.ones(len(sealed.targets), dtype=np.bool_) if apart is None else ~apart
    clipped = {name: np.minimum(places[counted], 255).astype(np.uint8) for name, places in ranks.items()}
    with create_regular(directory / TEST_RANKS_FILE) as file:
        file.write(save(clipped))
    return Revealed(
        status="ok",
        trials={name: metrics_of(places[counted]) for name, places in ranks.items()},
        baselines={name: metrics_of(places[counted]) for name, places in all_baselines.items()},
        users=int(counted.sum()),
        apart={} if apart is None else {name: metrics_of(places[apart]) for name, places in ranks.items()},
        apart_users=None if apart is None else int(apart.sum()),
    )


def _is_external(path: Path) -> bool:
    """Whether the user's own trainer made the checkpoint; the spec in its run directory says so."""
    try:
        spec = TrialSpec.model_validate_json(read_regular(path.parent / SPEC_FILE))
    except (OSError, ValueError):
        return False
    return spec.backbone not in SPECS
