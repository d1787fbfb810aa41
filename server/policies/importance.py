"""How much each field set good configurations apart from the others: PED-ANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from memory.records import Study
from server.policies.base import MissingExtra, Observation, configurations
from server.policies.tpe import TPE

FEWEST = 8
"""Least number of scored configurations from which the importance of fields is computed."""


def importance(study: Study, history: Sequence[Observation]) -> list[tuple[str, float]]:
    """Share of each varied field in what set good configurations apart, by PED-ANOVA (Watanabe et al. 2023) in Optuna.

    Empty without Optuna, or if too little was tried. Fields that were inactive in a configuration have no share.
    """
    scored = [configuration.config for configuration in configurations(history) if configuration.mean is not None]
    if len(scored) < FEWEST:
        return []
    try:
        optuna_study = TPE().optuna_study(study.space, history, 0)
    except MissingExtra:
        return []
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    default = study.space.default()
    with warnings.catch_warnings(action="ignore"):  # about fields that few trials varied: their shares are small
        shares = get_param_importances(optuna_study, evaluator=PedAnovaImportanceEvaluator())
    varied = {
        name: share for name, share in shares.items() if any(config.get(name) != default.get(name) for config in scored)
    }
    total = sum(varied.values())
    ranked = sorted(varied.items(), key=lambda pair: -pair[1])
    return [(name, share / total) for name, share in ranked if share > 0]
