"""Tree-structured Parzen estimator (Bergstra et al. 2011), Optuna's, multivariate and grouped by condition."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from server.policies.advice import accepts, advised, heeded
from server.policies.base import (
    BAD,
    Brief,
    MissingExtra,
    Observation,
    Proposal,
    Standing,
    first_trial,
    standings,
    tried,
)
from server.policies.sampling import assemble, changes_between, settle, untried
from trainers.space import Config, Field, Space, Value

STARTUP_TRIALS = 5
"""Configurations drawn at random, the default among them, before the estimator is trusted."""
REFUSALS = 8
"""Proposals in a row that claims may speak against."""


class TPE:
    """Bayesian search. Pure: the sampler is built afresh and told the whole history for every proposal."""

    reflects = False

    def __init__(self) -> None:
        try:
            import optuna
        except ImportError:
            raise MissingExtra("--policy tpe needs Optuna: pip install 'virtualmle[search]'.") from None
        self._optuna: Any = optuna

    def sampler(self, seed: int) -> Any:
        """Optuna's sampler, new."""
        return self._optuna.samplers.TPESampler(
            multivariate=True, group=True, n_startup_trials=STARTUP_TRIALS, seed=seed
        )

    def propose(
        self, space: Space, history: Sequence[Observation], brief: Brief, rng: random.Random
    ) -> Proposal | None:
        """The default first, then what the estimator asks for; None once every configuration was tried."""
        if not history:
            return Proposal({}, hypothesis="the default configuration")
        if brief.trials_left == 0 or not space.free():
            return None
        brief = heeded(space, history, brief)
        if proposal := advised(space, history, brief):
            return proposal
        study = self.told(space, history, rng.randrange(2**31))
        count = len(standings(history))

        def draw_one() -> Config:
            trial = study.ask()
            return settle(space, assemble(space, lambda field: _suggest(trial, field)))

        def ask() -> Config:
            config = draw_one()
            for _ in range(REFUSALS):
                if accepts(space, brief, config, count, rng):
                    break
                config = draw_one()
            return config

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            config = untried(space, tried(space, history), rng, ask)
        if config is None:
            return None
        changes = changes_between(space, history[0].config, config)
        return Proposal(changes, parent=first_trial(history), hypothesis="TPE expects the best improvement here")

    def told(self, space: Space, history: Sequence[Observation], seed: int) -> Any:
        """An Optuna study that has seen what this one has."""
        optuna = self._optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `group`, the conditional form
            study = optuna.create_study(direction="maximize", sampler=self.sampler(seed))
        for standing in standings(history):
            study.add_trial(self._trial(space, standing))
        return study

    def _trial(self, space: Space, standing: Standing) -> Any:
        """One configuration as a finished trial, its value the mean over its seeds.

        A bad end is told as pruned, which TPE ranks last, by what it had reached; another one as failed: no news.
        """
        optuna = self._optuna
        states = optuna.trial.TrialState
        mean = standing.mean
        state = states.COMPLETE if mean is not None else states.FAIL
        if mean is None and any(trial.status in BAD for trial in standing.trials):
            state = states.PRUNED
        params, distributions = _params(space, standing.config, optuna.distributions)
        reached = {t.epochs: t.reached for t in standing.trials if mean is None and t.reached is not None}
        return optuna.trial.create_trial(
            params=params, distributions=distributions, value=mean, state=state, intermediate_values=reached
        )


def _suggest(trial: Any, field: Field) -> Value:
    """One field of a configuration; a field that may be off is a switch and, where on, a number.

    Of a list of numbers the place is suggested, so that the sampler knows their order.
    """
    if _ordered(field):
        place: int = trial.suggest_int(field.name, 0, len(field.choices) - 1)
        return field.choices[place]
    if field.choices or field.kind == "bool":
        return trial.suggest_categorical(field.name, list(field.choices or (False, True)))
    if field.zero and not trial.suggest_categorical(f"{field.name}:on", [False, True]):
        return field.check(0)
    suggest: Callable[..., float] = trial.suggest_int if field.kind == "int" else trial.suggest_float
    low, high = (int(bound) if field.kind == "int" else bound for bound in (field.low or 0, field.high or 0))
    value = suggest(field.name, low, high, log=field.scale == "log")
    return value if field.kind == "int" else min(max(float(f"{value:.4g}"), low), high)


def _ordered(field: Field) -> bool:
    return len(field.choices) > 1 and not any(isinstance(choice, (bool, str)) for choice in field.choices)


def _params(space: Space, config: Config, kinds: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `_suggest` would have had to answer to give `config`, with the distributions it would have asked of."""
    params: dict[str, Any] = {}
    distributions: dict[str, Any] = {}
    for field in space.free():
        value = config[field.name]
        if not space.active(field, config):
            continue
        if _ordered(field):
            params[field.name] = field.choices.index(value)
            distributions[field.name] = kinds.IntDistribution(0, len(field.choices) - 1)
            continue
        if field.choices or field.kind == "bool":
            params[field.name] = value
            distributions[field.name] = kinds.CategoricalDistribution(list(field.choices or (False, True)))
            continue
        if field.zero:
            params[f"{field.name}:on"] = value != 0
            distributions[f"{field.name}:on"] = kinds.CategoricalDistribution([False, True])
        if value == 0 and field.zero:
            continue
        low, high, log = field.low or 0, field.high or 0, field.scale == "log"
        whole = field.kind == "int"
        params[field.name] = value
        distributions[field.name] = (
            kinds.IntDistribution(int(low), int(high), log=log)
            if whole
            else kinds.FloatDistribution(low, high, log=log)
        )
    return params, distributions
