"""Splits a budget between new configurations and fresh seeds, by the rule that verdicts use."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from memory.statistics.decide import Contender, Rule, contenders
from memory.statistics.noise import estimate, log_score
from server.policies.base import Configuration, Observation, Policy, PolicyContext, Proposal, configurations, ranked
from trainers.contract.space import Space

SEEDS = 2
"""Seeds that a leader needs before the search goes on: with one its lead is mostly luck."""
FINALIST_SHARE = 0.25
"""The share of a study's trainings that settles its finalists once every configuration is tried."""


class Racing:
    """Wraps another policy and confirms its leaders by a fresh seed before it goes on."""

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.reflects = inner.reflects

    def propose(
        self, space: Space, history: Sequence[Observation], context: PolicyContext, rng: random.Random
    ) -> Proposal | None:
        """A fresh seed of a configuration that leads on a single one, else what the other policy proposes."""
        candidate = to_confirm(history, context) if history else None
        return confirm(candidate) if candidate else self.inner.propose(space, history, context, rng)


@dataclass(frozen=True)
class Race:
    """The configurations of a study under the decision rule, with the noise that their seeds and the server know."""

    history: Sequence[Observation]
    context: PolicyContext

    @cached_property
    def scored(self) -> list[Configuration]:
        """The default first, the others as they were tried; only those that scored."""
        return [one for one in configurations(self.history) if one.scores]

    @cached_property
    def _contenders(self) -> dict[int, Contender]:
        return contenders(
            {
                one.number: {trial.weights: log_score(trial.score or 0.0, self._users) for trial in one.scored}
                for one in self.scored
            }
        )

    @property
    def _users(self) -> int:
        return int(self.context.facts.get("validated_users") or self.context.facts.get("users", 1))

    @cached_property
    def rule(self) -> Rule:
        groups = [one.scores for one in self.scored if len(one.scores) > 1]
        best = max((one.mean for one in self._contenders.values()), default=0.0)
        noise = self.context.noise or estimate(groups, self._users)
        return Rule(noise, self._users, best, self.context.min_gain)

    @cached_property
    def leader(self) -> Configuration | None:
        """The incumbent, as verdicts have it."""
        return self._configuration(self.rule.leader(list(self._contenders.values())))

    def open_rival(self) -> Configuration | None:
        """The configuration, leader or rival, of which the next training would help most to settle the choice."""
        return self._configuration(self.rule.next_training(list(self._contenders.values())))

    def _configuration(self, contender: Contender | None) -> Configuration | None:
        if contender is None:
            return None
        return next(one for one in self.scored if one.number == contender.number)


def trusted_leader(history: Sequence[Observation], context: PolicyContext) -> Configuration:
    """What the next change builds on: the incumbent of the decision rule. Before anything scored, the default."""
    return Race(history, context).leader or next(iter(ranked(history)), configurations(history)[0])


def can_repeat(history: Sequence[Observation], context: PolicyContext) -> bool:
    """Whether there is time for one more training of the usual length."""
    return context.seconds_left is None or context.seconds_left > usual_seconds(history)


def usual_seconds(history: Sequence[Observation]) -> float:
    """Median seconds of a training so far, without those that stopped early or reused weights; 0 if there is none."""
    return median([trial.seconds for trial in history if trial.status != "stopped" and not trial.reused] or [0.0])


def to_confirm(history: Sequence[Observation], context: PolicyContext) -> Configuration | None:
    """The configuration of which a fresh seed is worth more than another configuration; None where there is none.

    A leader on a single seed comes first. Once no configuration is left, a share of the trainings settles finalists.
    """
    if not can_repeat(history, context):
        return None
    race = Race(history, context)
    leader = race.leader
    if leader is not None and leader.number != history[0].number and len(leader.scores) < SEEDS:
        return leader if len(leader.trials) < 2 * SEEDS else None  # a seed that fails confirms nothing
    if context.trials_left != 0:
        return None
    repeats = sum(trial.replicate_of is not None for trial in history)
    room = FINALIST_SHARE * len(configurations(history)) + SEEDS
    return race.open_rival() if repeats < room else None


def confirm(configuration: Configuration) -> Proposal:
    """The proposal to train a configuration again with a fresh seed."""
    seeds = "one seed" if len(configuration.trials) == 1 else f"{len(configuration.trials)} seeds"
    return Proposal(
        {},
        replicate_of=configuration.trials[0].trial_id,
        hypothesis=f"number {configuration.number} has {seeds} so far: a fresh one tells luck from effect",
    )
