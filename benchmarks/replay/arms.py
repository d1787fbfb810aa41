"""The arms of a replay: the driver's policies, grid search, further Optuna samplers, and language models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from server.policies import POLICIES, load_plain
from server.policies.base import Observation, Policy, PolicyContext, Proposal, first_trial, tried
from server.policies.racing import Racing
from server.policies.sampling import changes_between, every
from server.policies.tpe import STARTUP_TRIALS, TPE
from trainers.contract.space import Space

RACING = "+racing"


class Grid:
    """Grid search: the start, then the configurations of the grid in order."""

    reflects = False

    def propose(
        self, space: Space, history: Sequence[Observation], context: PolicyContext, rng: Random
    ) -> Proposal | None:
        if not history:
            return Proposal({})
        seen = tried(space, history)
        config = next((candidate for candidate in every(space) if space.hash(candidate) not in seen), None)
        if config is None:
            return None
        return Proposal(changes_between(space, history[0].config, config), parent=first_trial(history))


class OptunaGP(TPE):
    """Optuna's Gaussian process. It takes a minute or more per study."""

    def sampler(self, seed: int) -> Any:
        return self._optuna.samplers.GPSampler(n_startup_trials=STARTUP_TRIALS, seed=seed)


class OptunaCmaEs(TPE):
    """Optuna's CMA-ES. It cannot handle categories, which are drawn at random."""

    def sampler(self, seed: int) -> Any:
        return self._optuna.samplers.CmaEsSampler(
            n_startup_trials=STARTUP_TRIALS, seed=seed, warn_independent_sampling=False
        )


OTHERS: dict[str, Callable[[], Policy]] = {"grid": Grid, "optuna-gp": OptunaGP, "cma-es": OptunaCmaEs}
NAMES = (*OTHERS, *POLICIES)
MODEL = "llm:"
"""The prefix of a language model's name. Its key, and OPENAI_BASE_URL, come from the environment."""


def policy(name: str) -> Policy:
    """The arm called `name`; with +racing, its leaders get a second seed before it goes on."""
    plain = name.removesuffix(RACING)
    if plain.startswith(MODEL):
        from benchmarks.replay.language_model import Model

        return Model(plain.removeprefix(MODEL))
    inner = OTHERS[plain]() if plain in OTHERS else load_plain(plain)
    return Racing(inner) if name.endswith(RACING) else inner


def unknown(names: Sequence[str]) -> list[str]:
    """The names that are not arms."""
    return [name for name in names if name.removesuffix(RACING) not in NAMES and not name.startswith(MODEL)]
