"""How often the two-stage verdict is wrong, how much it claims and what it finds: simulated studies with known effects.

python -m benchmarks.noise_floor [--studies 1000] [--jobs 2] [--json] [--write]

Every verdict is that of `studies.verdict`, and sigma what it estimates from the seeds it is given. A study trains its
default with three seeds, then thirty configurations with one; whenever a verdict is `retest`, what it names is trained
before the next configuration. The base noise is drawn log-uniformly from 0.3 % to 5 %; each third configuration has
two to three times of it. Half of the studies have no effect anywhere. In the other half one configuration, at a random
place, is better by three times its own noise.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean

from benchmarks.invented import BEGAN, METRIC, facts, study
from benchmarks.tables import table
from memory.records import Trial
from server import studies
from trainers.fields import space_of
from trainers.space import Config
from trainers.spec import SPECS

PAGE = Path(__file__).parents[1] / "docs" / "noise.md"
COMMAND = "python -m benchmarks.noise_floor"
SIGMAS = ((0.003, 0.006), (0.006, 0.012), (0.012, 0.025), (0.025, 0.05))
DEFAULT_SEEDS, CONFIGURATIONS = 3, 30
WILD_SHARE, WILD = 1 / 3, (2.0, 3.0)
EFFECT = 3.0
LEVEL = 0.05
"""The default's score; everything here is relative to it."""


@dataclass(frozen=True)
class Arm:
    """One simulated configuration: its true mean relative to the default's, and its relative noise."""

    mean: float
    sigma: float


@dataclass(frozen=True)
class Ended:
    """What a simulated study came to; gains are in units of its base noise."""

    false: bool
    """Whether something without an effect was called better."""
    claimed: float
    """The gain over the default that the last `better` stands for; 0 without one."""
    found: bool
    """Whether the configuration with the effect was called better."""
    extra: int
    """Trainings that verdicts asked for."""
    naive: float
    """What keep-if-higher would claim: the best single training against the default's first."""


class Simulated:
    """One study under way."""

    def __init__(self, seed: int, low: float, high: float, effect: bool) -> None:
        self._rng = Random(f"{seed}:{low}:{effect}")
        self.sigma = math.exp(self._rng.uniform(math.log(low), math.log(high)))
        space = space_of(SPECS["sasrec"])
        self._study = study(space, "simulated", facts())
        self._default = space.default()
        self._names = [space.hash(self._default), *(f"c{number}" for number in range(1, CONFIGURATIONS + 1))]
        place = self._rng.randrange(1, CONFIGURATIONS + 1) if effect else None
        self._arms = [self._arm(number == place, number == 0) for number in range(CONFIGURATIONS + 1)]
        self._place = place
        self._trials: list[Trial] = []
        self._better: list[int] = []

    def _arm(self, better: bool, default: bool) -> Arm:
        wild = not default and self._rng.random() < WILD_SHARE
        sigma = self.sigma * (self._rng.uniform(*WILD) if wild else 1.0)
        return Arm(1 + (EFFECT * sigma if better else 0.0), sigma)

    def play(self) -> Ended:
        """Everything from the default to the last verdict."""
        for seed in range(DEFAULT_SEEDS):
            self._train(0, seed)
        extra = 0
        for number in range(1, CONFIGURATIONS + 1):
            judged = self._train(number, 0)
            while judged.retest:
                for asked in judged.retest:
                    for seed in asked.seeds:
                        judged = self._train(int(asked.trial_id.split("-")[1]), seed)
                        extra += 1
            if judged.comparison is not None and judged.comparison.verdict == "better":
                self._better.append(number)
        scores = [one.validation[METRIC] for one in self._trials if one.seed == 0]
        return Ended(
            false=any(number != self._place for number in self._better),
            claimed=self._claimed(),
            found=self._place in self._better,
            extra=extra,
            naive=(max(scores) / scores[0] - 1) / self.sigma,
        )

    def _train(self, number: int, seed: int) -> studies.Judgement:
        arm = self._arms[number]
        score = LEVEL * arm.mean * (1 + arm.sigma * self._rng.gauss(0, 1))
        trial = _trial(number, self._names[number], seed, score, self._default)
        judged = studies.verdict(self._study, trial, [*self._trials, trial])
        told = judged.comparison.verdict if judged.comparison else None
        self._trials.append(trial.model_copy(update={"verdict": told}))
        return judged

    def _claimed(self) -> float:
        if not self._better:
            return 0.0
        own = [one.validation[METRIC] for one in self._trials if one.number == self._better[-1]][1:]
        default = [one.validation[METRIC] for one in self._trials if one.number == 0]
        return (fmean(own) / fmean(default) - 1) / self.sigma


def _trial(number: int, config_hash: str, seed: int, score: float, config: Config) -> Trial:
    return Trial(
        trial_id=f"t-{number}-{seed}", study_id="s-invented", parent=None, changes={}, config=config,
        config_hash=config_hash, seed=seed, number=number, created_at=BEGAN, status="ok", validation={METRIC: score},
    )  # fmt: skip


def simulate(asked: tuple[int, float, float, bool]) -> Ended:
    """One study: its seed, the range of its noise and whether it has an effect."""
    return Simulated(*asked).play()


def asked_for(count: int, effect: bool) -> Iterator[tuple[int, float, float, bool]]:
    """`count` studies, shared among the ranges of noise."""
    for number in range(count):
        low, high = SIGMAS[number * len(SIGMAS) // count]
        yield number, low, high, effect


def summary(null: Sequence[Ended], real: Sequence[Ended]) -> dict[str, float]:
    """The rates of studies without an effect, and those with one."""
    return {
        "studies": len(null),
        "false": fmean(one.false for one in null),
        "claimed": fmean(one.claimed for one in null),
        "naive_false": fmean(one.naive > 0 for one in null),
        "naive_claimed": fmean(one.naive for one in null),
        "power": fmean(one.found for one in real),
        "extra": fmean(one.extra for one in null),
        "extra_with_effect": fmean(one.extra for one in real),
    }


def page(found: dict[str, dict[str, float]], command: str) -> str:
    """docs/noise.md."""
    heads = ["base noise", "studies", "false improvement", "claimed gain", "keep-if-higher: false", "its claimed gain",
             "3 sigma found", "extra trainings", "with an effect"]  # fmt: skip
    lines = [
        [name, f"{one['studies']:.0f}", f"{one['false']:.1%}", f"{one['claimed']:.2f} σ", f"{one['naive_false']:.0%}",
         f"{one['naive_claimed']:.1f} σ", f"{one['power']:.0%}", f"{one['extra']:.1f}",
         f"{one['extra_with_effect']:.1f}"]
        for name, one in found.items()
    ]  # fmt: skip
    return f"{HEAD}{table(heads, lines)}\n\nAgain: `{command}`\n"


HEAD = """# What a verdict is worth

A training that is ahead of the incumbent is noticed, not believed: `retest` names the seeds to train, and only seeds
drawn after it was noticed decide, those of the incumbent included (`memory/verdict.py`). Below, studies of thirty
configurations whose true effects are known, judged by `studies.verdict` with the noise it estimates itself (5,000
users, so a prior of 3 %). Base noise is drawn log-uniformly, every third configuration has two to three times of it.
Without any effect: how many studies call something better, and the mean gain over the default that studies claim at
their end (0 where they claim none), beside what keep-if-higher would say of the same scores. With one configuration
that is better by three times its own noise: how often it is called better. Extra trainings are the seeds that verdicts
asked for, beside 30 configurations and three seeds of the default.

"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--studies", type=int, default=1000, metavar="N", help="without an effect, and as many with one"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    given = parser.parse_args(arguments)
    if given.studies < len(SIGMAS):
        parser.error(f"--studies: at least {len(SIGMAS)}, one for each range of noise")
    with ProcessPoolExecutor(given.jobs) as pool:
        played = {
            effect: list(pool.map(simulate, asked_for(given.studies, effect), chunksize=10)) for effect in (False, True)
        }
    ranges = [low for _, low, _, _ in asked_for(given.studies, False)]
    found = {
        f"{low:.1%} – {high:.1%}": summary(
            *([one for one, its in zip(played[effect], ranges, strict=True) if its == low] for effect in (False, True))
        )
        for low, high in SIGMAS
    }  # fmt: skip
    found["all"] = summary(played[False], played[True])
    text = page(found, COMMAND + (f" --studies {given.studies}" if given.studies != 1000 else ""))
    if given.write:
        PAGE.write_text(text, encoding="utf-8")
    print(json.dumps(found, indent=1) if given.as_json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
