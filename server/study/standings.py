"""The standings of a study's configurations. Pure functions over records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from memory.records import Study, Trial
from memory.statistics.noise import that_started
from server.study.guardrails import violations
from trainers.contract.space import Config


@dataclass(frozen=True)
class Standing:
    """One configuration of a study with its scored trainings, oldest first."""

    number: int
    config_hash: str
    config: Config
    trials: tuple[Trial, ...]
    scores: tuple[float, ...]
    """Score of each of the `trials` in the study's metric."""

    @cached_property
    def counted(self) -> list[tuple[Trial, float]]:
        """Its trainings with their scores, without seeds that never started to learn."""
        pairs = zip(self.trials, self.scores, that_started(self.scores), strict=True)
        return [(trial, score) for trial, score, counts in pairs if counts]

    @property
    def mean(self) -> float:
        return fmean(score for _, score in self.counted)

    @cached_property
    def by_weights(self) -> dict[str, float]:
        """Its scores by the weights that were scored, oldest first: the id of the trial that trained them."""
        return {
            trial.weights_of or trial.trial_id: score for trial, score in zip(self.trials, self.scores, strict=True)
        }

    @property
    def trial_ids(self) -> list[str]:
        return [trial.trial_id for trial in self.trials]

    @property
    def best_trial(self) -> Trial:
        """The training with the best validation, whose checkpoint is exported."""
        return max(zip(self.scores, self.trials, strict=True), key=lambda pair: pair[0])[1]


def score_of(study: Study, trial: Trial) -> float | None:
    """A trial's score in the study's metric, or None if it may not be compared."""
    return trial.validation.get(study.metric) if trial.scored else None


def ending(trial: Trial) -> str:
    """How a trial without a score ended."""
    return trial.message if trial.status == "stopped" and trial.message else trial.status


def ranked(study: Study, trials: Sequence[Trial]) -> list[Standing]:
    """Every configuration with a scored training, best mean over its seeds first; a tie goes to the earlier one."""
    groups: dict[str, list[tuple[Trial, float]]] = {}
    for trial in trials:
        if (score := score_of(study, trial)) is not None:
            groups.setdefault(trial.config_hash, []).append((trial, score))
    standings: list[Standing] = []
    for config_hash, trainings in groups.items():
        members, scores = zip(*trainings, strict=True)
        standings.append(Standing(members[0].number, config_hash, members[0].config, members, scores))
    return sorted(standings, key=lambda standing: (-standing.mean, standing.number))


def eligible(study: Study, standings: Sequence[Standing]) -> list[Standing]:
    """The standings that violate no guardrail of the study."""
    if not study.guardrails:
        return list(standings)
    return [standing for standing in standings if not violations(study.guardrails, standing.trials)]


def default_standing(study: Study, trials: Sequence[Trial]) -> Standing | None:
    """The default configuration; None if it has no scored training."""
    return default_among(study, ranked(study, trials))


def default_among(study: Study, standings: Sequence[Standing]) -> Standing | None:
    """The default configuration among `standings`."""
    wanted = study.space.hash(study.space.default())
    return next((standing for standing in standings if standing.config_hash == wanted), None)


def next_free(first: int, used: set[int]) -> int:
    """The smallest seed, `first` or above, that is not in `used`."""
    while first in used:
        first += 1
    return first


def changes_from(config: Config, other: Config) -> Config:
    """The fields of `config` that differ from `other`."""
    return {name: value for name, value in config.items() if other.get(name) != value}
