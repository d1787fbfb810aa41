"""What a study admits: checks of its budget and its filter, and the plan of a requested trial. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from memory.records import NewTrial, Study, Trial
from server.study.history import StudyHistory
from server.study.requests import TrialRequest
from server.study.standings import changes_from, next_free
from trainers.contract.fingerprint import fingerprint
from trainers.contract.metrics import filter_rule
from trainers.contract.space import Config
from trainers.contract.specs import SPECS
from trainers.contract.wire import FilterSeen
from trainers.data import FEW_USERS, Dataset, noise_of


class ProtocolError(ValueError):
    """The study does not allow the call; the message says why and what to do next."""


def trials_left(study: Study, trials: Sequence[Trial]) -> int | None:
    """Configurations that may still be tried; None without a limit."""
    if study.max_trials is None:
        return None
    return max(0, study.max_trials - len({trial.number for trial in trials}))


def seconds_left(study: Study, now: datetime, kept: float = 0.0) -> float | None:
    """Wall-clock seconds that are left of the budget, without those `kept` for the end; None without a budget."""
    if study.budget_seconds is None:
        return None
    return max(0.0, study.budget_seconds - kept - (now - study.created_at).total_seconds())


def check_open(
    study: Study, trials: Sequence[Trial], config_hash: str, now: datetime, held: float = 0.0, kept: float = 0.0
) -> None:
    """Raises ProtocolError if the study no longer admits a training of `config_hash`.

    `held` seconds the study's trainings have held slots so far; `kept` seconds are kept for its fresh seeds.
    """
    if study.finished:
        raise ProtocolError(
            f"Study {study.study_id!r} is finished and its test split revealed; start_study opens a new one."
        )
    if study.closing:
        raise ProtocolError(
            f"Study {study.study_id!r} is being finished: its choice is made, and only its fresh seeds are trained. "
            f"finish_study(study_id={study.study_id!r}) waits for the sealed test; start_study opens another study."
        )
    ending = f"finish_study(study_id={study.study_id!r}) evaluates the best configuration."
    if seconds_left(study, now) == 0:
        raise ProtocolError(f"The budget of {study.budget_seconds:g} seconds is spent; {ending}")
    if study.gpu_seconds is not None and held >= study.gpu_seconds:
        raise ProtocolError(f"The {study.gpu_seconds:g} slot seconds of this study are spent (gpu_seconds); {ending}")
    if seconds_left(study, now, kept) == 0 or (study.gpu_seconds is not None and held >= study.gpu_seconds - kept):
        raise ProtocolError(
            f"What is left of the study's seconds is kept for its fresh seeds: about {kept:.0f} s (confirm_seeds of "
            f"start_study); {ending}"
        )
    tried = {trial.config_hash for trial in trials}
    if config_hash not in tried and trials_left(study, trials) == 0:
        raise ProtocolError(
            f"All {study.max_trials} configurations of this study are used; replicate_of may train one of them with "
            f"another seed, or finish_study(study_id={study.study_id!r}) ends it."
        )


def next_seed(trials: Sequence[Trial], config_hash: str, first: int) -> int:
    """The smallest seed, `first` or above, that this configuration was not trained with."""
    return next_free(first, {trial.seed for trial in trials if trial.config_hash == config_hash})


def check_trainer(backbone: str, filter_seen: FilterSeen, executor: str) -> None:
    """Raises ProtocolError if the trainer cannot filter this way, or is not installed where trainings run."""
    if backbone not in SPECS and executor != "process":
        raise ProtocolError(
            f"{backbone} is a trainer of your own, and its command is on this machine alone; executor={executor!r} "
            "trains elsewhere. Set executor: process in virtualmle.yaml to tune it."
        )
    if backbone not in SPECS and filter_seen == "reference":
        raise ProtocolError(
            f"filter_seen='reference' spares the target, which {backbone} never sees; use 'auto', 'yes' or 'no'."
        )


LEAST_USERS = 30
"""Users below which a study says nothing, and is refused unless it is allowed."""


def check_dataset(dataset: Dataset, allow_small: bool) -> None:
    """Raises ProtocolError if nothing can be trained on the dataset, or if too few users are measured."""
    facts = dataset.facts
    per_user = 1 if facts.validated_users is not None else 3
    if facts.items < 2 or facts.interactions <= per_user * facts.users:
        why = "it has one item" if facts.items < 2 else "no user has two training events"
        raise ProtocolError(
            f"Nothing can be trained on dataset {dataset.name!r}: {why}. Add a dataset with longer histories; "
            "`virtualmle data show` says what its import read."
        )
    users = min(facts.measured_users, dataset.tested_users or facts.measured_users)
    if users < LEAST_USERS and not allow_small:
        raise ProtocolError(
            f"Only {users} users of dataset {dataset.name!r} are measured, so a study would compare noise "
            f"({noise_of(users)}). It takes {LEAST_USERS}: add more users, move the cuts of its time split, or pass "
            "allow_small=true (drive --allow-small) to try things out."
        )


def small_words(dataset: Dataset) -> list[str]:
    """A warning about few users, for datasets whose import gave none."""
    users = min(dataset.facts.measured_users, dataset.tested_users or dataset.facts.measured_users)
    return [f"Only {users:,} users are measured: {noise_of(users)}."] if users < FEW_USERS else []


def training_fingerprint(study: Study, config: Config, seed: int) -> str | None:
    """What all trials share that train to the same weights, in any study.

    None for a trainer of the user's own: its weights also depend on its files.
    """
    if study.backbone not in SPECS:
        return None
    rule = filter_rule(study.filter_seen, study.facts)
    return fingerprint(
        study.space, config, seed=seed, dataset_hash=study.dataset_hash, metric=study.metric, filter_rule=rule
    )


def equal_trial(trials: Sequence[Trial], new: NewTrial) -> Trial | None:
    """The latest trial of the same configuration and seed that was neither cancelled nor crashed.

    A trial that was stopped early does not answer a request to train to the end.
    """
    unanswered = ("cancelled", "crashed", "stopped") if new.early_stop == "off" else ("cancelled", "crashed")
    same = (
        trial
        for trial in reversed(trials)
        if (trial.config_hash, trial.seed) == (new.config_hash, new.seed) and trial.status not in unanswered
    )
    return next(same, None)


def check_same_request(study: Study, trials: Sequence[Trial], request: TrialRequest, first: Trial) -> None:
    """Raises ProtocolError where the request is not the one that its request_key was first used for."""
    if request.replicate_of is not None:
        base = next((trial for trial in trials if trial.trial_id == request.replicate_of), None)
        same = base is not None and base.config_hash == first.config_hash
    else:
        parent = next((trial.config for trial in trials if trial.trial_id == first.parent), study.space.default())
        config = study.space.apply(parent, request.changes or {})
        same = request.parent in (None, first.parent) and study.space.hash(config) == first.config_hash
    if not same or request.seed not in (None, first.seed) or request.early_stop != first.early_stop:
        raise ProtocolError(
            f"request_key={request.request_key!r} was used for trial {first.trial_id!r} (changes {first.changes!r}, "
            f"seed {first.seed}, early_stop {first.early_stop!r}): a retry repeats that request; another trial takes "
            "another key."
        )


def plan_trial(history: StudyHistory, request: TrialRequest) -> NewTrial:
    """Plans a requested trial: its configuration in the study's space, and its seed.

    Raises ProtocolError or SpaceError if the study does not admit it.
    """
    study, trials = history.study, history.trials
    by_id = {trial.trial_id: trial for trial in trials}
    for name, trial_id in (("parent", request.parent), ("replicate_of", request.replicate_of)):
        if trial_id is not None and trial_id not in by_id:
            listed = ", ".join(by_id) or "none yet"
            raise ProtocolError(
                f"{name}={trial_id!r} is not a trial of study {study.study_id!r}; its trials: {listed}."
            )
    requested: dict[str, Any] = {
        **request.model_dump(include={"study_id", "hypothesis", "snapshot_id", "request_key", "early_stop"}),
        "expected": request.expected,
        "cites": tuple(request.cites or ()),
    }
    if request.replicate_of is not None:
        if request.changes or request.parent:
            raise ProtocolError("replicate_of repeats a configuration with another seed: leave changes and parent out.")
        base = by_id[request.replicate_of]
        seed = next_seed(trials, base.config_hash, study.seed) if request.seed is None else request.seed
        return NewTrial(
            **requested, parent=base.parent, changes=base.changes, config=base.config, config_hash=base.config_hash,
            fingerprint=training_fingerprint(study, base.config, seed), seed=seed,
            replicate_of=base.replicate_of or request.replicate_of,
        )  # fmt: skip
    best = None if request.parent else history.incumbent
    start = by_id[request.parent] if request.parent else (best.trials[0] if best else None)
    config = study.space.apply(start.config if start else study.space.default(), request.changes or {})
    config_hash = study.space.hash(config)
    seed = study.seed if request.seed is None else request.seed
    first = next((trial for trial in trials if trial.config_hash == config_hash and trial.seed != seed), None)
    return NewTrial(
        **requested,
        parent=start.trial_id if start else None,
        changes=changes_from(config, start.config if start else study.space.default()),
        config=config,
        config_hash=config_hash,
        fingerprint=training_fingerprint(study, config, seed),
        seed=seed,
        replicate_of=first.replicate_of or first.trial_id if first else None,
    )
