"""How a budget is split between new configurations and fresh seeds: what leads on one seed is trained again first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median

from server.policies.base import Brief, Observation, Policy, Proposal, Standing, ranked, standings
from trainers.space import Space

SEEDS = 2
"""Of whatever leads, before the search goes on."""
LAST_SEEDS = 3
"""Of a leader with an open verdict, when no configuration is left."""


class Racing:
    """Another policy, whose leaders are confirmed by a fresh seed before it goes on."""

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.reflects = inner.reflects

    def propose(
        self, space: Space, history: Sequence[Observation], brief: Brief, rng: random.Random
    ) -> Proposal | None:
        """A fresh seed of a configuration that leads on a single one, else what the other policy proposes."""
        candidate = to_confirm(history, brief) if history else None
        return confirm(candidate) if candidate else self.inner.propose(space, history, brief, rng)


def incumbent(history: Sequence[Observation], brief: Brief) -> Standing:
    """What the next change builds on: the best mean among the default and the configurations with two seeds.

    One lucky seed is not built on, unless there is no time to train it again. Before anything scored: the default.
    """
    found = ranked(history)
    trusted = [standing for standing in found if _trusted(standing, history[0], can_repeat(history, brief))]
    return next(iter(trusted or found), standings(history)[0])


def _trusted(standing: Standing, first: Observation, repeatable: bool) -> bool:
    lucky = not repeatable and standing.trials[-1].verdict == "better"
    return standing.number == first.number or len(standing.scores) > 1 or lucky


def can_repeat(history: Sequence[Observation], brief: Brief) -> bool:
    """Whether there is time for one more training of the usual length."""
    return brief.seconds_left is None or brief.seconds_left > usual_seconds(history)


def usual_seconds(history: Sequence[Observation]) -> float:
    """The median training so far; one that was stopped early, or none at all, says nothing of how long they take."""
    return median([trial.seconds for trial in history if trial.status != "stopped" and not trial.reused] or [0.0])


def to_confirm(history: Sequence[Observation], brief: Brief) -> Standing | None:
    """The leader, where a fresh seed of it is worth more than another configuration: it leads on a single one.

    On tables of real trainings this beat both waiting for a verdict and a third seed at once (benchmarks.replay).
    Once no configuration is left, a leader whose verdict is open gets a third seed, too.
    """
    leader = next(iter(ranked(history)), None)
    if leader is None or leader.number == history[0].number or not can_repeat(history, brief):
        return None
    open_at_the_end = brief.trials_left == 0 and leader.trials[-1].verdict == "retest"
    return leader if len(leader.trials) < (LAST_SEEDS if open_at_the_end else SEEDS) else None


def confirm(standing: Standing) -> Proposal:
    """A fresh seed of a configuration."""
    seeds = "one seed" if len(standing.trials) == 1 else f"{len(standing.trials)} seeds"
    return Proposal(
        {},
        replicate_of=standing.trials[0].trial_id,
        hypothesis=f"number {standing.number} leads on {seeds}: a fresh one tells luck from effect",
    )
