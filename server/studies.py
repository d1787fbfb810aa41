"""The protocol of a study: budget, duplicates, incumbent, noise and verdict. Pure functions over records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory.noise import Comparison, Sigma, compare, compare_paired, estimate
from memory.records import NewTrial, Study, Trial
from server.guardrails import violations
from trainers.fingerprint import fingerprint
from trainers.metrics import filter_rule
from trainers.space import Config
from trainers.spec import SPECS, FilterSeen


class ProtocolError(ValueError):
    """The study does not allow the call; the message says why and what to do next."""


@dataclass(frozen=True)
class Standing:
    """One configuration of a study with its scored trainings, oldest first."""

    number: int
    config_hash: str
    config: Config
    trials: tuple[Trial, ...]
    scores: tuple[float, ...]
    """The study's metric, by training."""

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)

    @property
    def trial_ids(self) -> list[str]:
        return [trial.trial_id for trial in self.trials]

    @property
    def best_trial(self) -> Trial:
        """The training with the best validation, whose checkpoint is taken home."""
        return max(zip(self.scores, self.trials, strict=True), key=lambda pair: pair[0])[1]


def score_of(study: Study, trial: Trial) -> float | None:
    """The study's metric of a trial, or None where it may not be compared."""
    return trial.validation.get(study.metric) if trial.scored else None


def ended(trial: Trial) -> str:
    """How a trial without a score ended."""
    return trial.message if trial.status == "stopped" and trial.message else trial.status


def standings(study: Study, trials: Sequence[Trial]) -> list[Standing]:
    """Every configuration with a scored training, best mean over its seeds first; a tie goes to the earlier one."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if score_of(study, trial) is not None:
            groups.setdefault(trial.config_hash, []).append(trial)
    found = [
        Standing(group[0].number, name, group[0].config, tuple(group), tuple(t.validation[study.metric] for t in group))
        for name, group in groups.items()
    ]
    return sorted(found, key=lambda standing: (-standing.mean, standing.number))


def eligible(study: Study, trials: Sequence[Trial]) -> list[Standing]:
    """The standings that violate no guardrail of the study."""
    return [found for found in standings(study, trials) if not violations(study.guardrails, found.trials)]


def incumbent(study: Study, trials: Sequence[Trial]) -> Standing | None:
    """The configuration with the best mean over its seeds, of those that violate no guardrail."""
    return next(iter(eligible(study, trials)), None)


def default_standing(study: Study, trials: Sequence[Trial]) -> Standing | None:
    """The default configuration, where it has a scored training."""
    wanted = study.space.hash(study.space.default())
    return next((standing for standing in standings(study, trials) if standing.config_hash == wanted), None)


def noise_of(study: Study, trials: Sequence[Trial], earlier: Sequence[Sequence[float]] = ()) -> Sigma:
    """Relative seed noise of the metric: replicate groups of the study, `earlier` ones, and the prior.

    A trial that reused weights is left out: its training is counted where it was made.
    """
    trained = [trial for trial in trials if trial.weights_of is None]
    groups = [standing.scores for standing in standings(study, trained) if len(standing.scores) > 1]
    return estimate(groups, study.facts.measured_users, earlier)


@dataclass(frozen=True)
class Judgement:
    """What a finished trial means, `against` the best other configuration as it stood before it."""

    noise: Sigma
    against: Standing | None
    comparison: Comparison | None


def judge(study: Study, trial: Trial, trials: Sequence[Trial], earlier: Sequence[Sequence[float]] = ()) -> Judgement:
    """Compare the configuration of `trial` with the best other one among the trials started before it.

    Only trials up to this one enter, so the judgement of a trial never changes afterwards.
    """
    known: list[Trial] = []
    for other in trials:
        known.append(other)
        if other.trial_id == trial.trial_id:
            break
    noise = noise_of(study, known, earlier)
    rivals = eligible(study, [other for other in known if other.config_hash != trial.config_hash])
    own = standings(study, [other for other in known if other.config_hash == trial.config_hash])
    if rivals and trial.status == "stopped":
        return Judgement(noise, rivals[0], _stopped(study, trial, rivals[0]))
    if not rivals or not own or score_of(study, trial) is None or violations(study.guardrails, own[0].trials):
        return Judgement(noise, rivals[0] if rivals else None, None)
    return Judgement(noise, rivals[0], compared(own[0], rivals[0], noise))


def compared(own: Standing, rival: Standing, noise: Sigma) -> Comparison:
    """`own` beside `rival`: seed by seed, where each training of `own` scored weights that `rival` scored, too."""
    if pairs := same_weights(own, rival):
        mine, theirs = (dict(zip(one.trial_ids, one.scores, strict=True)) for one in (own, rival))
        return compare_paired([(mine[one.trial_id], theirs[other.trial_id]) for one, other in pairs], noise)
    return compare(own.scores, rival.scores, noise)


def same_weights(own: Standing, rival: Standing) -> list[tuple[Trial, Trial]]:
    """Each training of `own` with that of `rival` on the same weights; none where one of them has no other."""
    by_weights = {trial.weights_of or trial.trial_id: trial for trial in rival.trials}
    weights = [trial.weights_of or trial.trial_id for trial in own.trials]
    if not all(name in by_weights for name in weights):
        return []
    return [(trial, by_weights[name]) for trial, name in zip(own.trials, weights, strict=True)]


def _stopped(study: Study, trial: Trial, against: Standing) -> Comparison:
    """Its score is not known, only that it would have been at least what it had reached."""
    reached = trial.validation.get(study.metric, 0.0)
    delta = reached / against.mean - 1 if against.mean > 0 else 0.0
    why = trial.message or f"stopped early at epoch {trial.epochs}"
    words = f"{why[0].upper()}{why[1:]}; it counts as worse, and its score is not compared."
    return Comparison(delta, delta, 0.0, "worse", words)


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


def check_open(study: Study, trials: Sequence[Trial], config_hash: str, now: datetime) -> None:
    """Raise ProtocolError where the study admits no training of `config_hash` any more."""
    if study.finished:
        raise ProtocolError(
            f"Study {study.study_id!r} is finished and its test split revealed; start_study opens a new one."
        )
    if seconds_left(study, now) == 0:
        raise ProtocolError(
            f"The budget of {study.budget_seconds:g} seconds is spent; finish_study(study_id={study.study_id!r}) "
            "evaluates the best configuration."
        )
    known = {trial.config_hash for trial in trials}
    if config_hash not in known and trials_left(study, trials) == 0:
        raise ProtocolError(
            f"All {study.max_trials} configurations of this study are used; replicate_of may train one of them with "
            f"another seed, or finish_study(study_id={study.study_id!r}) ends it."
        )


def next_seed(trials: Sequence[Trial], config_hash: str, first: int) -> int:
    """The smallest seed from `first` on that this configuration was not trained with."""
    used = {trial.seed for trial in trials if trial.config_hash == config_hash}
    seed = first
    while seed in used:
        seed += 1
    return seed


def check_filter(backbone: str, filter_seen: FilterSeen) -> None:
    """Raise ProtocolError where the trainer cannot filter so."""
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


def changes_from(config: Config, other: Config) -> Config:
    """The fields of `config` that differ from `other`."""
    return {name: value for name, value in config.items() if other.get(name) != value}


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
