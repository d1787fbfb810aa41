"""Each shipped policy where nothing, one field or ten fields have an effect, judged by the server's own functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from statistics import fmean

from benchmarks.harness.invented import METRIC, facts
from benchmarks.harness.markdown import table
from benchmarks.replay.generated import GRID, two_trainings
from benchmarks.replay.loop import Replayed, play
from benchmarks.verdicts import earlier
from memory.statistics.noise import prior
from server.policies import POLICIES, load
from server.policies.sampling import every
from server.replay.recorded import Table, Training
from trainers.contract.fields import space_of
from trainers.contract.space import Config, Space, Value
from trainers.contract.specs import SPECS

HEADING = "Each shipped policy"
USERS = 5000
CONFIGURATIONS, TRAININGS = 24, 60
LEVEL = 0.08
WORDS = f"""\
Studies of {CONFIGURATIONS} configurations and the fresh seeds that the policy adds, on invented landscapes with the
noise of {USERS:,} users: no field has an effect; one value of one field gains three, or six, sigmas; ten fields
gain or lose, by three sigmas as a standard deviation. *False*: studies that call a configuration better that is
not. *Called*: studies that rightly call one better. *Found*: studies whose choice has at least half of what there
is to gain. Regret is what the choice lacks to the best configuration there is. The last columns take the same
trainings and choose the highest score of all (*highest*), or decide by the rule of version 0.1 (*earlier*): which
calls, and what its choice lacks."""

FIELDS: dict[str, list[Value]] = {
    "learning_rate": [0.001, 0.003], "dropout": [0.2, 0.5], "num_blocks": [1, 2], "hidden_dim": [64, 128],
    "loss": ["full_softmax", "sampled_softmax"], "block_norm": ["pre", "post"], "feed_forward": ["gelu", "swiglu"],
    "weight_decay": [0.0, 1e-5], "share_blocks": [False, True], "beta2": [0.98, 0.999],
}  # fmt: skip
LANDSCAPES = ("nothing", "3 sigma", "6 sigma", "ten effects")


@dataclass(frozen=True)
class Result:
    """One study."""

    false: bool
    called: bool
    found: bool
    trainings: int
    regret: float
    highest: float
    """What the highest single score lacks."""
    earlier: float
    """What the choice of the earlier rule lacks."""
    earlier_false: bool
    earlier_called: bool


@cache
def space(ten: bool) -> Space:
    """The configurations of a landscape: all pairs of ten fields, or a grid of four."""
    whole = space_of(SPECS["sasrec"])
    chosen: Mapping[str, Sequence[Value]] = FIELDS if ten else GRID
    return whole.restrict({field.name: list(chosen.get(field.name, [field.default])) for field in whole.fields})


@cache
def configs(ten: bool) -> dict[str, Config]:
    found = space(ten)
    return {found.hash(config): config for config in every(found)}


def effects(landscape: str, rng: Random) -> dict[tuple[str, Value], float]:
    """Log gains by field and value."""
    sigma = prior(USERS).sigma
    if landscape == "nothing":
        return {}
    of = space(landscape == "ten effects")
    default = of.default()
    if landscape == "ten effects":
        return {
            (name, next(value for value in values if value != default[name])): rng.gauss(0, 3 * sigma)
            for name, values in FIELDS.items()
        }
    name = rng.choice(sorted(GRID))
    value = rng.choice([value for value in GRID[name] if value != default[name]])
    return {(name, value): int(landscape[0]) * sigma}


def study(landscape: str, name: str, seed: int) -> Result:
    """Plays one study of a policy."""
    ten = landscape == "ten effects"
    gains = effects(landscape, Random(f"{landscape} {seed}"))
    known = configs(ten)
    means = {
        key: LEVEL * math.exp(sum(gain for (field, value), gain in gains.items() if config[field] == value))
        for key, config in known.items()
    }
    trainings: dict[str, tuple[Training, ...]] = {key: two_trainings(mean) for key, mean in means.items()}
    made = Table(f"{landscape} {seed}", space(ten), known, trainings)
    replay = play(made, space(ten), facts(USERS), partial(load, name), seed, TRAININGS, configurations=CONFIGURATIONS)
    return judged(replay, means)


def judged(replay: Replayed, means: Mapping[str, float]) -> Result:
    """What the product, the highest score and the earlier rule made of the same trainings."""
    best, default = max(means.values()), means[replay.steps[0].trained]
    false = called = earlier_false = earlier_called = False
    scores: dict[int, list[float]] = {}
    hashes: dict[int, str] = {}
    for step, trial in zip(replay.steps, replay.trials, strict=True):
        if trial.verdict == "better" and step.rival is not None:
            right = means[step.trained] > means[step.rival]
            called, false = called or right, false or not right
        hashes[trial.number] = trial.config_hash
        rival = earlier.chosen(scores) if scores else trial.number
        scores.setdefault(trial.number, []).append(trial.validation[METRIC])
        if rival != trial.number and earlier.better(scores, trial.number, rival):
            right = means[step.trained] > means[hashes[rival]]
            earlier_called, earlier_false = earlier_called or right, earlier_false or not right
    leading = replay.steps[-1].leading
    highest = max(replay.trials, key=lambda trial: trial.validation[METRIC]).config_hash

    def lacks(config_hash: str) -> float:
        return 1 - means[config_hash] / best

    return Result(
        false, called, means[leading] >= (best * default) ** 0.5, len(replay.steps), lacks(leading), lacks(highest),
        lacks(hashes[earlier.chosen(scores)]), earlier_false, earlier_called,
    )  # fmt: skip


def section(pool: Executor, folder: Path, studies: int) -> str:
    """One line for each landscape and policy."""
    lines: list[Sequence[str]] = []
    for landscape in LANDSCAPES:
        for name in POLICIES:
            runs = list(pool.map(partial(study, landscape, name), range(studies), chunksize=2))

            def share(of: str, runs: Sequence[Result] = runs) -> str:
                return f"{fmean(float(getattr(run, of)) for run in runs):.0%}"

            def regret(of: str, runs: Sequence[Result] = runs) -> str:
                return f"{fmean(getattr(run, of) for run in runs):.1%}"

            nothing = landscape == "nothing"
            true = [share("called"), share("found"), regret("regret"), regret("highest"), share("earlier_called")]
            called, found, *others, earlier_called = ["–"] * len(true) if nothing else true
            trainings = f"{fmean(run.trainings for run in runs):.1f}"
            last = "–" if nothing else regret("earlier")
            lines.append(
                [
                    landscape,
                    name,
                    share("false"),
                    called,
                    found,
                    trainings,
                    *others,
                    share("earlier_false"),
                    earlier_called,
                    last,
                ]
            )
    heads = [
        "landscape", "policy", "false", "called", "found", "trainings", "regret", "highest: regret", "earlier: false",
        "earlier: called", "earlier: regret",
    ]  # fmt: skip
    return table(heads, lines, left=2)
