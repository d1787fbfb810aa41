"""The protocol of a study: standings, incumbent, noise and verdict. Pure functions over records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory.noise import Comparison, Sigma, compare_paired, estimate
from memory.records import Study, Trial
from memory.verdict import FRESH, Side, two_stage
from server.guardrails import violations
from trainers.space import Config


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


def chosen(study: Study, trials: Sequence[Trial]) -> Standing | None:
    """The configuration with the best mean over its seeds, of those that violate no guardrail."""
    return next(iter(eligible(study, trials)), None)


def incumbent(study: Study, trials: Sequence[Trial]) -> Standing | None:
    """What the next trial is judged against and builds on: the best mean over seeds among what is believed.

    That is the default, whatever was called better, and what is to be trained again to know. A lead that is inside the
    noise makes no incumbent, unless none of those may be chosen.
    """
    found = eligible(study, trials)
    latest = {trial.config_hash: trial.verdict for trial in trials if trial.verdict}
    believed = {trial.config_hash for trial in trials if trial.verdict == "better"}
    believed |= {name for name, told in latest.items() if told == "retest"}
    believed.add(study.space.hash(study.space.default()))
    return next((one for one in found if one.config_hash in believed), next(iter(found), None))


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
class Retest:
    """Trainings that would decide an open verdict: `trial_id` again, with these seeds."""

    trial_id: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Judgement:
    """What a finished trial means, `against` the incumbent among the other configurations as it stood before it."""

    noise: Sigma
    against: Standing | None
    comparison: Comparison | None
    retest: tuple[Retest, ...] = ()
    """Where the verdict is `retest`: what to train next, in this order."""


def verdict(study: Study, trial: Trial, trials: Sequence[Trial], earlier: Sequence[Sequence[float]] = ()) -> Judgement:
    """Compare the configuration of `trial` with the best other one among the trials started before it.

    Only trials up to this one enter, so the judgement of a trial never changes afterwards.
    """
    known: list[Trial] = []
    for other in trials:
        known.append(other)
        if other.trial_id == trial.trial_id:
            break
    noise = noise_of(study, known, earlier)
    rival = incumbent(study, [other for other in known if other.config_hash != trial.config_hash])
    own = standings(study, [other for other in known if other.config_hash == trial.config_hash])
    if rival and trial.status == "stopped":
        return Judgement(noise, rival, _stopped(study, trial, rival))
    if not rival or not own or score_of(study, trial) is None or violations(study.guardrails, own[0].trials):
        return Judgement(noise, rival, None)
    found = compared(study, own[0], rival, noise)
    return Judgement(noise, rival, found, _retest(study, own[0], rival) if found.verdict == "retest" else ())


def compared(study: Study, own: Standing, rival: Standing, noise: Sigma) -> Comparison:
    """Seed by seed, where each training of `own` scored weights that `rival` scored, too; else in two stages."""
    if pairs := same_weights(own, rival):
        mine, theirs = (dict(zip(one.trial_ids, one.scores, strict=True)) for one in (own, rival))
        return compare_paired([(mine[one.trial_id], theirs[other.trial_id]) for one, other in pairs], noise)
    return two_stage(_side(study, own), _side(study, rival), noise)


def _retest(study: Study, own: Standing, rival: Standing) -> tuple[Retest, ...]:
    if same_weights(own, rival):
        return _next_pair(study, own, rival)
    fresh = len(_side(study, own).fresh) + 1
    lacking = min(fresh, FRESH) - len(_side(study, rival).fresh) if fresh > 1 else 0
    named = [(rival, lacking), (own, 1)]
    return tuple(Retest(one.trial_ids[0], _seeds(study, one, count)) for one, count in named if count > 0)


def _side(study: Study, standing: Standing) -> Side:
    """The default was not noticed by any of its trainings, everything else by its first."""
    first = 0 if standing.config_hash == study.space.hash(study.space.default()) else 1
    return Side(standing.scores[:first], standing.scores[first:])


def _seeds(study: Study, standing: Standing, count: int) -> tuple[int, ...]:
    found: list[int] = []
    used = {trial.seed for trial in standing.trials}
    while len(found) < count:
        found.append(next_free(study.seed, used | set(found)))
    return tuple(found)


def _next_pair(study: Study, own: Standing, rival: Standing) -> tuple[Retest, ...]:
    """One more seed of both; of `own` alone where `rival` has one that it lacks."""
    mine, theirs = ({trial.seed for trial in one.trials} for one in (own, rival))
    if lacking := sorted(theirs - mine):
        return (Retest(own.trial_ids[0], (lacking[0],)),)
    seed = next_free(study.seed, mine | theirs)
    return Retest(rival.trial_ids[0], (seed,)), Retest(own.trial_ids[0], (seed,))


def next_free(first: int, used: set[int]) -> int:
    """The smallest seed from `first` on that was not used."""
    while first in used:
        first += 1
    return first


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


def changes_from(config: Config, other: Config) -> Config:
    """The fields of `config` that differ from `other`."""
    return {name: value for name, value in config.items() if other.get(name) != value}
