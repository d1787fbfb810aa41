"""What the interval of a study's last sentence holds: the choice of a study, tested once on fresh seeds.

Users, configurations and seeds share hits through a normal copula, so the true gain is known exactly: a user is hit
where a latent value exceeds the quantile of the configuration's hit rate, and the latent is a sum of what the user, the
user with this configuration, and the user with this seed bring.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist, fmean

import numpy as np
import numpy.typing as npt

from benchmarks.harness.invented import BEGAN, METRIC, facts, study
from benchmarks.harness.markdown import table
from memory.records import Reveal, Study, Trial
from memory.statistics.noise import prior
from server.study import confirming, verdicts
from server.study.history import StudyHistory
from trainers.contract.fields import space_of
from trainers.contract.specs import SPECS

HEADING = "The last sentence"
CONFIGURATIONS, FRESH, RATE = 8, 2, 0.1
SHARES = (0.90, 0.04)
"""What the user, and the user with the configuration, explain of the latent; the rest is the seed's."""
SPREAD = 2.0
"""The standard deviation of true log gains, in sigmas, where there are any."""
WORDS = f"""\
Studies of {CONFIGURATIONS} configurations end as `finish_study` ends them: the choice by `server.study.verdicts`,
{FRESH} fresh seeds of it and of the default, one look at the test. Every user has a latent value that
configurations and seeds share, so that configurations differ by which users they serve, and the true gain is known.
*Nothing* to find, or true gains with a standard deviation of {SPREAD:g} sigmas; *cached*: the weights of the search
are still there, so that its seeds are tested as well, which tells more of the noise. Covered: how often the 95 %
interval of the reported gain holds the true one; bias: the mean error of the reported log gain, in sigmas, with its
standard error. Studies that choose their default report no gain."""
Hits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """`spread`: of the true gains, in sigmas."""

    users: int
    spread: float
    cached: bool


@dataclass(frozen=True)
class Ended:
    """The reported log gain with its interval, and the true one, in logs; `error` is in sigmas."""

    covered: bool
    error: float
    width: float


class Population:
    """The users of a validation or of a test, and how configurations and their seeds hit them."""

    def __init__(self, users: int, rng: np.random.Generator) -> None:
        self._rng, self._users = rng, users
        self._own = rng.standard_normal(users)
        self._of: dict[int, Hits] = {}

    def hits(self, number: int, gain: float) -> Hits:
        """Who is hit by one more seed of a configuration whose true log gain is `gain`: (users,) of 0 and 1."""
        if number not in self._of:
            self._of[number] = self._rng.standard_normal(self._users)
        by_user, by_configuration = SHARES
        latent = math.sqrt(by_user) * self._own + math.sqrt(by_configuration) * self._of[number]
        latent = latent + math.sqrt(1 - sum(SHARES)) * self._rng.standard_normal(self._users)
        return (latent > NormalDist().inv_cdf(1 - RATE * math.exp(gain))).astype(np.float64)


def ended(setting: Setting, seed: int) -> Ended | None:
    """Plays and ends one study; None where it chose its default."""
    rng = np.random.default_rng([seed, setting.users, round(10 * setting.spread)])
    sigma = prior(setting.users).sigma
    gains = [0.0, *(setting.spread * sigma * rng.standard_normal(CONFIGURATIONS - 1))]
    space = space_of(SPECS["sasrec"])
    made = study(space, "invented", facts(setting.users))
    validation, test = Population(setting.users, rng), Population(setting.users, rng)
    trials: list[Trial] = []
    tested: dict[str, Hits] = {}

    def train(number: int) -> Trial:
        own = sum(trial.number == number for trial in trials)
        name = f"c{number}" if number else space.hash(space.default())
        trial = Trial(
            trial_id=f"t-{number}-{own}", study_id=made.study_id, parent=None, changes={}, config=space.default(),
            config_hash=name, fingerprint=f"{name}-{own}", seed=own, number=number, created_at=BEGAN, status="ok",
            validation={METRIC: float(validation.hits(number, gains[number]).mean())},
        )  # fmt: skip
        trials.append(trial)
        tested[trial.trial_id] = test.hits(number, gains[number])
        return trial

    for number in range(CONFIGURATIONS):
        train(number)
        if (leader := _leader(made, trials)).number and len(leader.scores) < 2:
            train(leader.number)
    leader = _leader(made, trials)
    if not leader.number:
        return None
    sides = [[train(number) for _ in range(FRESH)] for number in (leader.number, 0)]
    reported = [trial.trial_id for side in sides for trial in side]
    looked = [one for one in trials if one.number in (0, leader.number)] if setting.cached else [*sides[0], *sides[1]]
    reveal = Reveal(
        study_id=made.study_id, dataset_hash="invented", ordinal=1, created_at=BEGAN,
        chosen=tuple(reported[:FRESH]), default=tuple(reported[FRESH:]), users=setting.users,
        test={trial.trial_id: {METRIC: float(tested[trial.trial_id].mean())} for trial in looked},
        user_variance=confirming.user_variance_of(sides[0], sides[1], looked, tested),
    )  # fmt: skip
    found, true = confirming.final_gain_of(StudyHistory(made, trials), reveal), gains[leader.number]
    low, gain, high = (math.log1p(value) for value in (found.low, found.gain, found.high))
    return Ended(low <= true <= high, (gain - true) / sigma, high - low)


def _leader(made: Study, trials: Sequence[Trial]) -> verdicts.Standing:
    leader = verdicts.ranking_of(made, trials).leader
    assert leader is not None
    return leader


def section(pool: Executor, folder: Path, studies: int) -> str:
    """One line for each setting."""
    lines: list[Sequence[str]] = []
    for users in (500, 2000):
        for spread in (0.0, SPREAD):
            for cached in (False, True):
                runs = list(pool.map(partial(ended, Setting(users, spread, cached)), range(studies), chunksize=5))
                found = [run for run in runs if run is not None]
                errors = [run.error for run in found]
                error = float(np.std(errors)) / math.sqrt(len(errors))
                lines.append([
                    f"{users:,}", "gains" if spread else "nothing", "yes" if cached else "no", f"{len(found)}",
                    f"{fmean(run.covered for run in found):.1%}", f"{fmean(errors):+.2f} ± {error:.2f}",
                    f"{math.expm1(fmean(run.width for run in found)):.1%}",
                ])  # fmt: skip
    heads = ["users", "to find", "cached", "studies with a gain", "covered", "bias", "width"]
    return table(heads, lines, left=3)
