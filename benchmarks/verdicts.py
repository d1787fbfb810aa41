"""What verdicts hold: simulated studies with known effects, judged by the server's own functions.

python -m benchmarks.verdicts [--studies 300] [--tables DIR] [--jobs 2] [--json] [--write]

A study trains its default with three seeds, then thirty configurations with one. While a verdict is open and names
trainings, they are trained, up to three of the configuration itself; a leader with one seed gets a second, as our
policies do. Noise grows below the best as recorded, and differs from study to study by a quarter. Effects are none, one
of three or six sigmas, or those of thirty configurations of a recorded table (DIR, as benchmarks.table makes it)
against a default of its better half. Verdicts on a recorded dataset use a prior that was made without that dataset.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from random import Random
from statistics import fmean

from benchmarks.harness import files
from benchmarks.harness.invented import BEGAN, METRIC, facts, study
from benchmarks.harness.markdown import table
from benchmarks.recorded import Cell, cells, made
from memory.records import Trial
from memory.statistics.noise import PRIOR_USERS, relative, spread
from memory.statistics.recorded import Recorded, recorded
from server.policies.racing import SEEDS
from server.study import verdicts
from trainers.contract.fields import space_of
from trainers.contract.specs import SPECS

PAGE = Path(__file__).parents[1] / "docs" / "results" / "noise.md"
COMMAND = "python -m benchmarks.verdicts"
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
    found, rng = _cells(folder), Random(f"table {seed}")
    cell = found[seed % len(found)]
    means = sorted((fmean(values) for values in cell.scores.values()), reverse=True)
    default = rng.randrange(len(means) // 2)
    others = rng.sample([mean for place, mean in enumerate(means) if place != default], CONFIGURATIONS)
    return Simulated(world, [mean - means[default] for mean in others], _without(folder, cell.dataset), rng).play()


@cache
def _cells(folder: Path) -> list[Cell]:
    return cells(folder)


@cache
def _without(folder: Path, dataset: str) -> Recorded:
    return made([cell for cell in _cells(folder) if cell.dataset != dataset], "left out")


def share(values: Sequence[bool]) -> float:
    return fmean(values) if values else math.nan


def summary(runs: dict[str, list[Outcome]]) -> dict[str, float]:
    """The figures of one world: from studies without effect, with lone effects, and of recorded tables."""
    better = [one for run in runs["tables"] for one in run.better]
    leaders = [run.leader for run in runs["tables"] if run.leader is not None]
    two = [one for one in (*better, *leaders) if one.seeds > 1]
    within = {
        name: share([bool(run.extra) and run.extra[0] <= most for run in runs[name]])
        for name, most in (("lone 6", 1), ("lone 3", MOST_SEEDS))
    }
    return {
        "false better": share([bool(run.better) for run in runs["null"]]),
        "null trainings": fmean(run.trainings for run in runs["null"]),
        "6 sigma": within["lone 6"], "3 sigma": within["lone 3"],
        "wrong sign": share([one.true <= 0 for one in better]),
        "claimed over true": sum(one.gain for one in better) / (sum(one.true for one in better) or math.nan),
        "better covered": share([one.covers for one in better]),
        "leaders covered": share([one.covers for one in leaders]),
        "two seeds covered": share([one.covers for one in two]),
        "width": fmean(one.high - one.low for one in leaders),
        "regret": fmean(run.regret for run in runs["tables"]),
        "trainings": fmean(run.trainings for run in runs["tables"]),
    }  # fmt: skip


HEAD = """# What a verdict is worth

Simulated studies whose true effects are known, judged by `server.study.verdicts`: a default of three seeds, then thirty
configurations; what a verdict asks for is trained, at most three seeds of the configuration itself, and a leader gets
a second seed. *False better*: studies of thirty worthless configurations that call any of them better. *6 sigma*, *3
sigma*: a lone gain of that size that is called better with at most one, or three, further trainings. The other columns
are studies of recorded configurations, judged by a prior that was made without their dataset: what is called better
with the wrong sign, the sum of claimed gains over the sum of true ones, and how often a 90 % interval holds the truth,
for what was called better, for the leader against the default at the end, and for both where each side has two seeds.
Regret is what the choice lacks to the best of the thirty.

"""


def page(summaries: dict[str, dict[str, float]], command: str) -> str:
    """The text of docs/results/noise.md."""
    heads = [
        "world", "false better", "6 sigma found", "3 sigma found", "wrong sign", "claimed / true", "better covered",
        "leaders covered", "from two seeds", "interval, mean width", "regret", "trainings, null", "trainings",
    ]  # fmt: skip
    lines = [
        [
            name, f"{row['false better']:.1%}", f"{row['6 sigma']:.0%}", f"{row['3 sigma']:.0%}",
            f"{row['wrong sign']:.1%}", f"{row['claimed over true']:.2f}", f"{row['better covered']:.0%}",
            f"{row['leaders covered']:.0%}", f"{row['two seeds covered']:.0%}", f"{row['width']:.1%}",
            f"{row['regret']:.1%}", f"{row['null trainings']:.1f}", f"{row['trainings']:.1f}",
        ]
        for name, row in summaries.items()
    ]  # fmt: skip
    return f"{HEAD}{table(heads, lines)}\n\nAgain: `{command}`\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=300, metavar="N", help="of each kind in each world")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="default: replay/ in the folder of data")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args(arguments)
    folder = options.tables or files.folder_of(None) / "replay"
    summaries: dict[str, dict[str, float]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for world in WORLDS:
            kinds: dict[str, Callable[[World, int], Outcome]] = {
                "null": null, "lone 6": partial(lone, 6), "lone 3": partial(lone, 3),
                "tables": partial(from_table, folder),
            }  # fmt: skip
            runs = {
                name: list(pool.map(partial(kind, world), range(options.studies), chunksize=10))
                for name, kind in kinds.items()
            }
            summaries[world.name] = summary(runs)
            print(world.name, {name: round(value, 3) for name, value in summaries[world.name].items()}, file=sys.stderr)
    text = page(summaries, COMMAND + (f" --studies {options.studies}" if options.studies != 300 else ""))
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    print(json.dumps(summaries, indent=1) if options.as_json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
