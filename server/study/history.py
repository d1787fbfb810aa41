"""A study with everything that verdicts and answers need, read from memory once for each call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from memory.records import Study, Trial
from memory.statistics.noise import Sigma, rescaled
from memory.store import Memory
from server.study import guardrails, standings, verdicts
from server.study.diagnosis import diagnose
from server.study.standings import Standing
from server.study.verdicts import Judgement, Ranking
from trainers.contract.wire import Epoch


@dataclass(frozen=True)
class StudyHistory:
    """`trials` are all trials of the study, oldest first. `earlier` has the scores of replicates in earlier studies."""

    study: Study
    trials: Sequence[Trial]
    earlier: Sequence[Sequence[float]] = ()
    choice: Sequence[str] = ()
    """The trials of the configuration that was chosen; empty while the study is open."""

    @cached_property
    def ranking(self) -> Ranking:
        """The scored configurations under the decision rule."""
        return verdicts.ranking_of(self.study, self.trials, self.earlier)

    @property
    def noise(self) -> Sigma:
        """Relative seed noise of the study's metric near the best, estimated from all its trials."""
        return self.ranking.noise

    @property
    def ranked(self) -> Sequence[Standing]:
        """Every configuration that scored, the best mean first."""
        return self.ranking.scored

    @property
    def incumbent(self) -> Standing | None:
        """What the next trial is judged against and builds on, and what the end of the study chooses.

        Once chosen it stays, whatever the fresh seeds say.
        """
        if self.choice:
            return next((one for one in self.ranked if self.choice[0] in one.trial_ids), None)
        return self.ranking.leader

    @cached_property
    def default(self) -> Standing | None:
        """The default configuration; None if it has not scored."""
        return standings.default_among(self.study, self.ranked)

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        """Validation metrics of models that need no training, by model."""
        return json.loads(self.study.brief)["baselines"]

    @cached_property
    def _by_config(self) -> dict[str, list[Trial]]:
        groups: dict[str, list[Trial]] = {}
        for trial in self.trials:
            groups.setdefault(trial.config_hash, []).append(trial)
        return groups

    @cached_property
    def _standings(self) -> dict[str, Standing]:
        """The configurations that scored, by their hash."""
        return {standing.config_hash: standing for standing in self.ranked}

    def trainings(self, trial: Trial) -> list[Trial]:
        """The scored trainings of the trial's configuration."""
        return [
            other for other in self._by_config[trial.config_hash] if standings.score_of(self.study, other) is not None
        ]

    def diagnosis(self, trial: Trial, epochs: Sequence[Epoch]) -> list[str]:
        """What the curve of a finished trial says."""
        standing = self._standings.get(trial.config_hash)
        seeds = standing.scores if standing else ()
        return diagnose(trial, epochs, self.study.metric, self.noise.sigma, self.baselines, seeds)

    def not_started(self, trial: Trial) -> int:
        """How many seeds of the trial's configuration never started to learn."""
        standing = self._standings.get(trial.config_hash)
        return self.ranking.contender(standing).not_started if standing else 0

    def violations(self, trial: Trial) -> list[str]:
        """The guardrails that the trial's configuration violates, in words. Without a score, the trial alone counts."""
        return guardrails.violations(self.study.guardrails, self.trainings(trial) or [trial])

    def judgement(self, trial: Trial) -> Judgement:
        """Judges a trial against the incumbent of its time among the other configurations."""
        return verdicts.verdict(self.study, trial, self.trials, self.earlier, ranking=self.ranking)


def read_history(memory: Memory, study_id: str) -> StudyHistory:
    """Reads a study, its trials and the replicates of earlier studies, with their noise scaled to this dataset.

    Raises UnknownStudy.
    """
    study = memory.study(study_id)
    users = study.facts.measured_users
    replicates = memory.replicates(study.backbone, study.metric, study.created_at)
    earlier = [rescaled(scores, n, users) for n, scores in replicates]
    closing = memory.reveals.closing(study_id) if study.closing or study.finished else None
    return StudyHistory(study, memory.trials(study_id), earlier, closing.chosen if closing else ())


def record_verdict(memory: Memory, trial_id: str) -> StudyHistory:
    """Stores the verdict of a trial that has just finished, if it has one; returns the history used to judge it."""
    trial = memory.trial(trial_id)
    history = read_history(memory, trial.study_id)
    comparison = history.judgement(trial).comparison
    if comparison is not None:
        memory.record_verdict(trial_id, comparison.verdict)
    return history
