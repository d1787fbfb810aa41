"""Who searches in a replay: the policies of the driver, samplers of Optuna that it lacks, and language models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from server.policies import POLICIES, load
from server.policies.base import Brief, Observation, Policy, Proposal, first_trial, tried
from server.policies.racing import Racing
from server.policies.sampling import changes_between, every
from server.policies.tpe import STARTUP_TRIALS, TPE
from trainers.space import Space

RACING = "+racing"


class Grid:
    """The configurations of the grid in their order, after the start."""

    reflects = False

    def propose(self, space: Space, history: Sequence[Observation], brief: Brief, rng: Random) -> Proposal | None:
        if not history:
            return Proposal({})
        seen = tried(space, history)
        config = next((one for one in every(space) if space.hash(one) not in seen), None)
        if config is None:
            return None
        return Proposal(changes_between(space, history[0].config, config), parent=first_trial(history))


class OptunaGP(TPE):
    """Optuna's Gaussian process; a minute or more for a study."""

    def sampler(self, seed: int) -> Any:
        return self._optuna.samplers.GPSampler(n_startup_trials=STARTUP_TRIALS, seed=seed)


class OptunaCmaEs(TPE):
    """Optuna's CMA-ES; it knows no categories, which are drawn at random."""

    def sampler(self, seed: int) -> Any:
        return self._optuna.samplers.CmaEsSampler(
            n_startup_trials=STARTUP_TRIALS, seed=seed, warn_independent_sampling=False
        )


OTHERS: dict[str, Callable[[], Policy]] = {"grid": Grid, "optuna-gp": OptunaGP, "cma-es": OptunaCmaEs}
NAMES = (*OTHERS, *POLICIES)
MODEL = "llm:"
"""What the name of a language model follows; its key, and OPENAI_BASE_URL, come from the environment."""


def policy(name: str) -> Policy:
    """The arm called `name`; with +racing its leaders are confirmed first."""
    plain = name.removesuffix(RACING)
    if plain.startswith(MODEL):
        from benchmarks.replay_model import Model

        return Model(plain.removeprefix(MODEL))
    inner = OTHERS[plain]() if plain in OTHERS else load(plain)
    return Racing(inner) if name.endswith(RACING) else inner


def unknown(names: Sequence[str]) -> list[str]:
    """Those that are no arm."""
    return [name for name in names if name.removesuffix(RACING) not in NAMES and not name.startswith(MODEL)]
