"""Verdicts, incumbent and retests of a study, all by the one rule of memory/statistics/decide.py. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from memory.records import Study, Trial
from memory.statistics.decide import Comparison, Contender, Rule, Settling, Verdict, contenders
from memory.statistics.noise import Sigma, estimate, log_score
from memory.statistics.recorded import Recorded, recorded
from server.study.guardrails import violations
from server.study.standings import Standing, default_among, eligible, next_free, ranked, score_of


@dataclass(frozen=True)
class Retest:
    """Trainings that would settle an open comparison: `trial_id` again, with each of these seeds."""

    trial_id: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Judgement:
    """What a finished trial means. `against` is the incumbent among the other configurations before this trial."""

    noise: Sigma
    against: Standing | None
    comparison: Comparison | None
    retest: tuple[Retest, ...] = ()
    """The fewest trainings that would settle it, if they can still change the choice."""
    settled_as: Verdict | None = None
    """What they would settle it as, if the observed gain stays."""
    before: Comparison | None = None
    """The same comparison before this seed, for a configuration that was trained before."""


@dataclass(frozen=True)
class Ranking:
    """The scored configurations of a study under the decision rule. `earlier`: replicates of the backbone elsewhere."""

    study: Study
    standings: Sequence[Standing]
    """Those that may be chosen: none violates a guardrail."""
    scored: Sequence[Standing]
    """All that scored."""
    trials: Sequence[Trial]
    earlier: Sequence[Sequence[float]] = ()
    known: Recorded = field(default_factory=recorded)
    """What recorded trainings say of noise and gains; benchmarks leave out what they judge."""

    @cached_property
    def noise(self) -> Sigma:
        """Relative seed noise near the best, from the study's replicates, the earlier ones and what was recorded.

        A configuration of which nothing was trained here is among the earlier ones.
        """
        here = {trial.trial_id for standing in self.scored for trial in standing.trials}
        groups = [list(one.by_weights.values()) for one in _widest(self.scored) if here & one.by_weights.keys()]
        best = max((standing.mean for standing in self.standings), default=None)
        return estimate(
            [group for group in groups if len(group) > 1], self.users, self.earlier, best=best, known=self.known
        )

    @property
    def users(self) -> int:
        return self.study.facts.measured_users

    @cached_property
    def rule(self) -> Rule:
        best = max((self.contender(one).mean for one in self.standings), default=0.0)
        return Rule(self.noise, best, self.study.min_gain, self.known)

    @cached_property
    def _contenders(self) -> dict[int, Contender]:
        return contenders(
            {
                standing.number: {name: log_score(score, self.users) for name, score in standing.by_weights.items()}
                for standing in sorted(self.scored, key=lambda standing: standing.number)
            }
        )

    def contender(self, standing: Standing) -> Contender:
        """The configuration as the rule sees it."""
        return self._contenders[standing.number]

    @cached_property
    def leader(self) -> Standing | None:
        """What is chosen and built on: from the default on, each configuration that is probably better.

        Where the default has no score or violates a guardrail, the first configuration that may be chosen takes its
        place.
        """
        by_number = sorted(self.standings, key=lambda standing: standing.number)
        default = default_among(self.study, by_number)
        if default is not None:
            by_number = [default, *(standing for standing in by_number if standing is not default)]
        found = [self.contender(standing) for standing in by_number]
        leader = self.rule.leader(found)
        return None if leader is None else by_number[found.index(leader)]

    def compare(self, candidate: Standing, rival: Standing) -> Comparison:
        """Compares two configurations."""
        return self.rule.compare(self.contender(candidate), self.contender(rival))

    def settling(self, candidate: Standing, rival: Standing) -> Settling | None:
        """How many trainings would settle an open comparison; None where none would."""
        return self.rule.settling(self.contender(candidate), self.contender(rival))

    def retest(self, candidate: Standing, rival: Standing, settling: Settling) -> tuple[Retest, ...]:
        """The trainings that would settle an open comparison, with seeds that are free."""
        if self.contender(candidate).shared_with(self.contender(rival)):
            return self._more_pairs(candidate, rival, settling.candidate)
        counts = [(rival, settling.rival), (candidate, settling.candidate)]
        return tuple(
            Retest(standing.trial_ids[0], self._unused_seeds(self._seeds(standing), count))
            for standing, count in counts
            if count > 0
        )

    def _seeds(self, standing: Standing) -> set[int]:
        """The seeds of a configuration, also those that failed: the same seed would fail again."""
        return {trial.seed for trial in self.trials if trial.config_hash == standing.config_hash}

    def _unused_seeds(self, used: set[int], count: int) -> tuple[int, ...]:
        seeds: list[int] = []
        while len(seeds) < count:
            seeds.append(next_free(self.study.seed, used | set(seeds)))
        return tuple(seeds)

    def _more_pairs(self, candidate: Standing, rival: Standing, count: int) -> tuple[Retest, ...]:
        """`count` more seeds of both; seeds that the rival scored and the candidate lacks come first."""
        seeds, rival_seeds = self._seeds(candidate), self._seeds(rival)
        lacking = sorted({trial.seed for trial in rival.trials} - seeds)[:count]
        fresh = self._unused_seeds(seeds | rival_seeds, count - len(lacking))
        rivals = (Retest(rival.trial_ids[0], fresh),) if fresh else ()
        return (*rivals, Retest(candidate.trial_ids[0], (*lacking, *fresh)))


def ranking_of(
    study: Study, trials: Sequence[Trial], earlier: Sequence[Sequence[float]] = (), known: Recorded | None = None
) -> Ranking:
    """The ranking of a study's trials. `earlier`: scores of replicates in earlier studies, scaled to this dataset."""
    scored = ranked(study, trials)
    return Ranking(study, eligible(study, scored), scored, trials, earlier, known or recorded())


def noise_of(study: Study, trials: Sequence[Trial], earlier: Sequence[Sequence[float]] = ()) -> Sigma:
    """Relative seed noise of the study's metric near the best."""
    return ranking_of(study, trials, earlier).noise


def verdict(
    study: Study, trial: Trial, trials: Sequence[Trial], earlier: Sequence[Sequence[float]] = (),
    known: Recorded | None = None, ranking: Ranking | None = None,
) -> Judgement:  # fmt: skip
    """Compares the configuration of `trial` with the incumbent among the other configurations.

    Only trials up to this one count, so the judgement of a trial never changes afterwards. `ranking`, if it is there
    already, is that of all `trials`.
    """
    so_far: list[Trial] = []
    for other in trials:
        so_far.append(other)
        if other.trial_id == trial.trial_id:
            break
    others = [other for other in so_far if other.config_hash != trial.config_hash]
    rival = ranking_of(study, others, earlier, known).leader
    now = ranking if ranking and len(so_far) == len(trials) else ranking_of(study, so_far, earlier, known)
    if rival and trial.status == "stopped":
        return Judgement(now.noise, rival, None)
    candidate = next((one for one in now.scored if one.config_hash == trial.config_hash), None)
    if not rival or not candidate or score_of(study, trial) is None or violations(study.guardrails, candidate.trials):
        return Judgement(now.noise, rival, None)
    leader = now.leader
    against = rival if leader is None or leader.config_hash == candidate.config_hash else leader
    before = None
    if len(candidate.trials) > 1:
        without = ranking_of(study, so_far[:-1], earlier, known)
        seen = next((one for one in without.scored if one.config_hash == trial.config_hash), None)
        before = without.compare(seen, rival) if seen else None
    settling = now.settling(candidate, against)
    retest = now.retest(candidate, against, settling) if settling else ()
    settled_as = settling.verdict if settling else None
    return Judgement(now.noise, rival, now.compare(candidate, rival), retest, settled_as, before)


def _widest(scored: Sequence[Standing]) -> list[Standing]:
    """One standing for each set of weights: those that scored weights which a wider one scored add no seed."""
    seen: set[str] = set()
    kept: list[Standing] = []
    for standing in sorted(scored, key=lambda one: (-len(one.by_weights), one.number)):
        if not seen & standing.by_weights.keys():
            kept.append(standing)
        seen |= standing.by_weights.keys()
    return kept
