"""Guardrails: limits on metrics and measures that a configuration must keep to be chosen."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from memory.records import Guardrail, Trial
from trainers.contract.metrics import METRICS

MEASURES = ("coverage@10", "popularity@10", "ms_per_1000_users", "parameters", "peak_memory_mb")
NAMES = (*METRICS, *MEASURES)


SHARES = (*METRICS, "coverage@10")
"""What lies between 0 and 1. Nothing that is measured is below 0."""
ABOVE_ZERO = ("ms_per_1000_users", "parameters", "peak_memory_mb")
"""What is above 0 for every model."""


class GuardrailError(ValueError):
    """A guardrail on something that is not measured, or a limit that cannot be; the message lists what is allowed."""


def check_guardrails(wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Guardrail]:
    """The guardrails of a study, from the limits in its request. Raises GuardrailError."""
    guardrails: dict[str, Guardrail] = {}
    for name, limits in wanted.items():
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1, 0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise GuardrailError(f"Nothing measured is called {name[:60]!r}.{hint} There are: {', '.join(NAMES)}.")
        numbers = {bound: value for bound, value in limits.items() if _is_number(value)}
        if not numbers or set(limits) - {"min", "max"} or len(numbers) != len(limits):
            raise GuardrailError(
                f'The guardrail of {name} is {{"min": …}}, {{"max": …}} or both; got {str(dict(limits))[:80]}.'
            )
        _check_possible(name, numbers)
        guardrails[name] = Guardrail.model_validate(numbers)
    return guardrails


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _check_possible(name: str, limits: Mapping[str, float]) -> None:
    """Raises GuardrailError for limits that no configuration can keep, or that none can violate."""
    for bound, value in limits.items():
        if value < 0:
            raise GuardrailError(f"{name} is never below 0, so {bound}={value!r} limits nothing; give 0 or more.")
        if name in SHARES and value > 1:
            raise GuardrailError(f"{name} is a share between 0 and 1, and {bound}={value!r} is not; 0.2 means 20 %.")
    if name in ABOVE_ZERO and limits.get("max") == 0:
        raise GuardrailError(f"{name} is above 0 for every model, so max={limits['max']!r} admits none; give more.")
    if "min" in limits and "max" in limits and limits["min"] > limits["max"]:
        raise GuardrailError(
            f"The guardrail of {name} has min={limits['min']!r} above max={limits['max']!r}, so no configuration could "
            "be chosen; exchange them, or leave one out."
        )


def violated(guardrails: Mapping[str, Guardrail], trials: Sequence[Trial]) -> list[str]:
    """The names of the guardrails that one configuration's trainings violate on average."""
    return [name for name, limit in guardrails.items() if violations({name: limit}, trials)]


def violations(guardrails: Mapping[str, Guardrail], trials: Sequence[Trial]) -> list[str]:
    """What one configuration's trainings violate on average, in words. A measure without values violates nothing."""
    messages: list[str] = []
    for name, limit in guardrails.items():
        values = [value for trial in trials if (value := _measured(trial).get(name)) is not None]
        if not values:
            continue
        mean = sum(values) / len(values)
        if limit.min is not None and mean < limit.min:
            messages.append(f"{name} is {mean:.4g}, below the least allowed {limit.min:.4g}")
        if limit.max is not None and mean > limit.max:
            messages.append(f"{name} is {mean:.4g}, above the most allowed {limit.max:.4g}")
    return messages


def _measured(trial: Trial) -> dict[str, float]:
    sizes = {"parameters": trial.parameters, "peak_memory_mb": trial.peak_memory_mb}
    return {**trial.validation, **trial.measures, **{name: value for name, value in sizes.items() if value is not None}}
