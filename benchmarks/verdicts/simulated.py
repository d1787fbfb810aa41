"""Simulated studies with known effects, judged by the server's own functions.

A study trains its default with three seeds, then thirty configurations with one. While a verdict is open and names
trainings, they are trained, up to three of the configuration itself; a leader with one seed gets a second, as our
policies do. Noise grows below the best as recorded, and differs from study to study by a quarter. Effects are none, one
of three or six sigmas, or those of thirty configurations of a recorded table against a default of its better half.
Verdicts on a recorded dataset use a prior that was made without that dataset.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from statistics import fmean

from benchmarks.harness.invented import BEGAN, METRIC, facts, study
from benchmarks.recorded import Cell, cells, made
from memory.records import Trial
from memory.statistics.noise import PRIOR_USERS, relative, spread
from memory.statistics.recorded import Recorded, recorded
from server.policies.racing import SEEDS
from server.study import verdicts
from trainers.contract.fields import space_of
from trainers.contract.specs import SPECS

CONFIGURATIONS, DEFAULT_SEEDS, MOST_SEEDS = 30, 3, 3
LEVEL = 0.05
"""The score of the default. Everything else is relative to it."""
DRAWN = 0.25
"""The standard deviation of the log of a study's noise around the prior."""


@dataclass(frozen=True)
class World:
    """What differs from the usual: the factor on the prior's noise (None: drawn), collapsed seeds, and users."""

    name: str
    factor: float | None = None
    collapsed: float = 0.0
    users: int = PRIOR_USERS


WORLDS = (
    World("as recorded"), World("noise twice the prior", 2.0), World("noise half the prior", 0.5),
    World("5 % of seeds collapse", collapsed=0.05), World("200 users", users=200),
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A claimed gain with its interval, and the true one."""

    gain: float
    low: float
    high: float
    true: float
    seeds: int
    """The fewest trainings of a side."""

    @property
    def covers(self) -> bool:
        return self.low <= self.true <= self.high


@dataclass
class Outcome:
    """What came of one simulated study."""

    better: list[Interval] = field(default_factory=list[Interval])
    extra: list[int] = field(default_factory=list[int])
    """For each `better`, how many further trainings its configuration had."""
    leader: Interval | None = None
    """The leader against the default, where that is another configuration."""
    regret: float = 0.0
    trainings: int = 0


class Simulated:
    """One study. `effects` are log gains over the default."""

    def __init__(self, world: World, effects: Sequence[float], known: Recorded, rng: Random) -> None:
        self._world, self._known, self._rng = world, known, rng
        space = space_of(SPECS["sasrec"])
        base = study(space, "simulated", facts())
        self._study = base.model_copy(update={"facts": base.facts.model_copy(update={"users": world.users})})
        self._default = space.default()
        self._means = [0.0, *effects]
        self._best = max(self._means)
        factor = math.exp(rng.gauss(0, DRAWN)) if world.factor is None else world.factor
        self.sigma = known.sigma * math.sqrt(PRIOR_USERS / world.users)
        self._noise = self.sigma * factor
        self._trials: list[Trial] = []
        self._seeds = [0] * len(self._means)

    def train(self, number: int) -> verdicts.Judgement:
        mean, seed = self._means[number], self._seeds[number]
        self._seeds[number] += 1
        log = mean + self._noise * spread(mean - self._best, self._world.users, self._known) * self._rng.gauss(0, 1)
        if self._rng.random() < self._world.collapsed:
            log = mean - self._rng.uniform(1.1, 3)
        name = "c" + str(number) if number else self._study.space.hash(self._default)
        trial = Trial(
            trial_id=f"t-{number}-{seed}", study_id="s-invented", parent=None, changes={}, config=self._default,
            config_hash=name, seed=seed, number=number, created_at=BEGAN, status="ok",
            validation={METRIC: LEVEL * math.exp(log)},
        )  # fmt: skip
        self._trials.append(trial)
        return verdicts.verdict(self._study, trial, self._trials, known=self._known)

    def play(self) -> Outcome:
        outcome = Outcome()
        for _ in range(DEFAULT_SEEDS):
            self.train(0)
        for number in range(1, len(self._means)):
            self._try(number, outcome)
            leader = self._leader()
            if leader.number and len(leader.scores) < SEEDS:
                self.train(leader.number)
        leader = self._leader()
        outcome.regret, outcome.trainings = self._best - self._means[leader.number], len(self._trials)
        if leader.number:
            ranking = verdicts.ranking_of(self._study, self._trials, known=self._known)
            default = next(one for one in ranking.scored if one.number == 0)
            outcome.leader = self._interval(ranking.compare(leader, default), leader.number, 0)
        return outcome

    def _try(self, number: int, outcome: Outcome) -> None:
        judged, extra = self.train(number), 0
        while judged.comparison is not None and judged.against is not None:
            if judged.comparison.verdict == "better":
                outcome.better.append(self._interval(judged.comparison, number, judged.against.number))
                outcome.extra.append(extra)
                return
            asked = {int(one.trial_id.split("-")[1]): len(one.seeds) for one in judged.retest}
            if not asked or extra == MOST_SEEDS:
                return
            for other in asked:
                if other != number:
                    self.train(other)
            judged, extra = self.train(number), extra + 1

    def _leader(self) -> verdicts.Standing:
        leader = verdicts.ranking_of(self._study, self._trials, known=self._known).leader
        assert leader is not None
        return leader

    def _interval(self, found: verdicts.Comparison, number: int, other: int) -> Interval:
        true = relative(self._means[number] - self._means[other])
        return Interval(found.gain, found.low, found.high, true, min(found.trainings))


def null(world: World, seed: int) -> Outcome:
    """A study in which nothing has an effect."""
    return Simulated(world, [0.0] * CONFIGURATIONS, recorded(), Random(f"null {seed}")).play()


def lone(sigmas: float, world: World, seed: int) -> Outcome:
    """A study of one configuration that is better by so many sigmas."""
    sigma = recorded().sigma * math.sqrt(PRIOR_USERS / world.users) * (world.factor or 1.0)
    return Simulated(world, [sigmas * sigma], recorded(), Random(f"lone {seed}")).play()


def from_table(folder: Path, world: World, seed: int) -> Outcome:
    """A study of thirty configurations of a recorded table, judged by a prior that was made without its dataset."""
    effects, known, rng = drawn(folder, seed)
    return Simulated(world, effects, known, rng).play()


def drawn(folder: Path, seed: int) -> tuple[list[float], Recorded, Random]:
    """Log gains of thirty recorded configurations over a default, a prior without their dataset, and a generator."""
    found, rng = _cells(folder), Random(f"table {seed}")
    cell = found[seed % len(found)]
    means = sorted((fmean(values) for values in cell.scores.values()), reverse=True)
    default = rng.randrange(len(means) // 2)
    others = rng.sample([mean for place, mean in enumerate(means) if place != default], CONFIGURATIONS)
    return [mean - means[default] for mean in others], _without(folder, cell.dataset), rng


@cache
def _cells(folder: Path) -> list[Cell]:
    return cells(folder)


@cache
def _without(folder: Path, dataset: str) -> Recorded:
    return made([cell for cell in _cells(folder) if cell.dataset != dataset], "left out")
