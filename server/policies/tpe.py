"""Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), multivariate and grouped by condition."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from server.policies.advice import accepts, advised, drop_failed_advice
from server.policies.base import (
    BAD,
    Configuration,
    MissingExtra,
    Observation,
    PolicyContext,
    Proposal,
    configurations,
    first_trial,
    tried,
)
from server.policies.sampling import assemble, changes_between, settle, untried
from trainers.contract.space import Config, Field, Space, Value

STARTUP_TRIALS = 5
"""Configurations drawn at random, the default among them, before the estimator is trusted."""
REFUSALS = 8
"""Largest number of proposals in a row that claims may reject."""


class TPE:
    """Bayesian search. Pure: for every proposal the sampler is built afresh and given the whole history."""

    reflects = False

    def __init__(self) -> None:
        try:
            import optuna
        except ImportError:
            raise MissingExtra("--policy tpe needs Optuna: pip install 'virtualmle[search]'.") from None
        self._optuna: Any = optuna

    def sampler(self, seed: int) -> Any:
        """A new Optuna sampler."""
        return self._optuna.samplers.TPESampler(
            multivariate=True, group=True, n_startup_trials=STARTUP_TRIALS, seed=seed
        )

    def propose(
        self, space: Space, history: Sequence[Observation], context: PolicyContext, rng: random.Random
    ) -> Proposal | None:
        """The default first, then what the estimator proposes; None once every configuration was tried."""
        if not history:
            return Proposal({}, hypothesis="the default configuration")
        if context.trials_left == 0 or not space.free():
            return None
        context = drop_failed_advice(space, history, context)
        if proposal := advised(space, history, context):
            return proposal
        study = self.optuna_study(space, history, rng.randrange(2**31))
        count = len(configurations(history))

        def draw() -> Config:
            trial = study.ask()
            return settle(space, assemble(space, lambda field: _suggest(trial, field)))

        def draw_accepted() -> Config:
            config = draw()
            for _ in range(REFUSALS):
                if accepts(space, context, config, count, rng):
                    break
                config = draw()
            return config

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            config = untried(space, tried(space, history), rng, draw_accepted)
        if config is None:
            return None
        changes = changes_between(space, history[0].config, config)
        return Proposal(changes, parent=first_trial(history), hypothesis="TPE expects the best improvement here")

    def optuna_study(self, space: Space, history: Sequence[Observation], seed: int) -> Any:
        """An Optuna study that holds the configurations of `history`."""
        optuna = self._optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # about `group`
            study = optuna.create_study(direction="maximize", sampler=self.sampler(seed))
        for configuration in configurations(history):
            study.add_trial(self._trial(space, configuration))
        return study

    def _trial(self, space: Space, configuration: Configuration) -> Any:
        """One configuration as a finished Optuna trial, whose value is the mean over its seeds.

        A bad end becomes a pruned trial, which TPE ranks last, by what it had reached. Any other failure becomes a
        failed trial, which TPE ignores.
        """
        optuna = self._optuna
        states = optuna.trial.TrialState
        mean = configuration.mean
        state = states.COMPLETE if mean is not None else states.FAIL
        if mean is None and any(trial.status in BAD for trial in configuration.trials):
            state = states.PRUNED
        params, distributions = _params(space, configuration.config, optuna.distributions)
        reached = {t.epochs: t.reached for t in configuration.trials if mean is None and t.reached is not None}
        return optuna.trial.create_trial(
            params=params, distributions=distributions, value=mean, state=state, intermediate_values=reached
        )


def _suggest(trial: Any, field: Field) -> Value:
    """Suggests one field's value. A field that may be off is a switch and, where on, a number.

    For a list of numbers the index is suggested, so that the sampler knows their order.
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
    """What `_suggest` would have had to draw to give `config`, and the distributions it would have drawn from."""
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
