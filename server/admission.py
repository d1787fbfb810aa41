"""What a study admits: its budget, its filter, and the trial that was asked for. Pure functions over records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from memory.records import NewTrial, Study, Trial
from server.studies import changes_from, incumbent, next_free
from trainers.fingerprint import fingerprint
from trainers.metrics import filter_rule
from trainers.space import Config
from trainers.spec import SPECS, FilterSeen


class ProtocolError(ValueError):
    """The study does not allow the call; the message says why and what to do next."""


def trials_left(study: Study, trials: Sequence[Trial]) -> int | None:
    """Configurations that may still be tried; None without a limit."""
    if study.max_trials is None:
        return None
    return max(0, study.max_trials - len({trial.number for trial in trials}))


def seconds_left(study: Study, now: datetime) -> float | None:
    """Wall clock that is left of the budget, in seconds; None without one."""
    if study.budget_seconds is None:
        return None
    return max(0.0, study.budget_seconds - (now - study.created_at).total_seconds())


def check_open(
    study: Study, trials: Sequence[Trial], config_hash: str, now: datetime, held_seconds: float = 0.0
) -> None:
    """Raise ProtocolError where the study admits no training of `config_hash` any more.

    `held_seconds`: how long its trainings have held slots so far.
    """
    if study.finished:
        raise ProtocolError(
            f"Study {study.study_id!r} is finished and its test split revealed; start_study opens a new one."
        )
    if seconds_left(study, now) == 0:
        raise ProtocolError(
            f"The budget of {study.budget_seconds:g} seconds is spent; finish_study(study_id={study.study_id!r}) "
            "evaluates the best configuration."
        )
    if study.gpu_seconds is not None and held_seconds >= study.gpu_seconds:
        raise ProtocolError(
            f"The {study.gpu_seconds:g} slot seconds of this study are spent (gpu_seconds); "
            f"finish_study(study_id={study.study_id!r}) evaluates the best configuration."
        )
    known = {trial.config_hash for trial in trials}
    if config_hash not in known and trials_left(study, trials) == 0:
        raise ProtocolError(
            f"All {study.max_trials} configurations of this study are used; replicate_of may train one of them with "
            f"another seed, or finish_study(study_id={study.study_id!r}) ends it."
        )


def next_seed(trials: Sequence[Trial], config_hash: str, first: int) -> int:
    """The smallest seed from `first` on that this configuration was not trained with."""
    return next_free(first, {trial.seed for trial in trials if trial.config_hash == config_hash})


def check_trainer(backbone: str, filter_seen: FilterSeen, executor: str) -> None:
    """Raise ProtocolError where the trainer cannot filter so, or is not there where trainings run."""
    if backbone not in SPECS and executor != "process":
        raise ProtocolError(
            f"{backbone} is a trainer of your own, and its command is on this machine alone; executor={executor!r} "
            "trains elsewhere. Set executor: process in virtualmle.yaml to tune it."
        )
    if backbone not in SPECS and filter_seen == "reference":
        raise ProtocolError(
            f"filter_seen='reference' spares the target, which {backbone} never sees; use 'auto', 'yes' or 'no'."
        )


def training_fingerprint(study: Study, config: Config, seed: int) -> str | None:
    """What trials of any study share that train to the same weights; None where a trainer's own files decide."""
    if study.backbone not in SPECS:
        return None
    rule = filter_rule(study.filter_seen, study.facts)
    return fingerprint(
        study.space, config, seed=seed, dataset_hash=study.dataset_hash, metric=study.metric, filter_rule=rule
    )


def plan_trial(
    study: Study,
    trials: Sequence[Trial],
    changes: Mapping[str, Any],
    parent: str | None,
    replicate_of: str | None,
    seed: int | None,
) -> NewTrial:
    """The trial that was asked for: its configuration in the study's space, and its seed.

    Raises ProtocolError or SpaceError where the study does not admit it.
    """
    by_id = {trial.trial_id: trial for trial in trials}
    for name, asked in (("parent", parent), ("replicate_of", replicate_of)):
        if asked is not None and asked not in by_id:
            there = ", ".join(by_id) or "none yet"
            raise ProtocolError(f"{name}={asked!r} is not a trial of study {study.study_id!r}; its trials: {there}.")
    if replicate_of is not None:
        if changes or parent:
            raise ProtocolError("replicate_of repeats a configuration with another seed: leave changes and parent out.")
        base = by_id[replicate_of]
        seed = next_seed(trials, base.config_hash, study.seed) if seed is None else seed
        return NewTrial(
            study_id=study.study_id, parent=base.parent, changes=base.changes, config=base.config,
            config_hash=base.config_hash, fingerprint=training_fingerprint(study, base.config, seed), seed=seed,
            replicate_of=base.replicate_of or replicate_of,
        )  # fmt: skip
    best = incumbent(study, trials)
    start = by_id[parent] if parent else (best.trials[0] if best else None)
    config = study.space.apply(start.config if start else study.space.default(), changes)
    config_hash = study.space.hash(config)
    seed = study.seed if seed is None else seed
    first = next((trial for trial in trials if trial.config_hash == config_hash and trial.seed != seed), None)
    return NewTrial(
        study_id=study.study_id,
        parent=start.trial_id if start else None,
        changes=changes_from(config, start.config if start else study.space.default()),
        config=config,
        config_hash=config_hash,
        fingerprint=training_fingerprint(study, config, seed),
        seed=seed,
        replicate_of=first.replicate_of or first.trial_id if first else None,
    )
