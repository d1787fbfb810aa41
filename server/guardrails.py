"""Guardrails: limits on what is measured beside the metric, which a configuration must keep to be chosen."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from memory.records import Guardrail, Trial
from trainers.spec import METRICS

MEASURES = ("coverage@10", "popularity@10", "ms_per_1000_users", "parameters", "peak_memory_mb")
NAMES = (*METRICS, *MEASURES)


class GuardrailError(ValueError):
    """A limit on nothing that is measured, or no limit at all; the message says what there is."""


def checked(wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Guardrail]:
    """The guardrails of a study; raises GuardrailError."""
    found: dict[str, Guardrail] = {}
    for name, limits in wanted.items():
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1, 0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise GuardrailError(f"Nothing measured is called {name!r}.{hint} There are: {', '.join(NAMES)}.")
        numbers = {bound: value for bound, value in limits.items() if type(value) in (int, float) and value == value}
        if not numbers or set(limits) - {"min", "max"} or len(numbers) != len(limits):
            raise GuardrailError(
                f'The guardrail of {name} is {{"min": …}}, {{"max": …}} or both; got {dict(limits)!r}.'
            )
        found[name] = Guardrail.model_validate(numbers)
    return found


def violations(guardrails: Mapping[str, Guardrail], trials: Sequence[Trial]) -> list[str]:
    """What one configuration's trainings violate on average, in words; something never measured violates nothing."""
    said: list[str] = []
    for name, limit in guardrails.items():
        values = [value for trial in trials if (value := _measured(trial).get(name)) is not None]
        if not values:
            continue
        mean = sum(values) / len(values)
        if limit.min is not None and mean < limit.min:
            said.append(f"{name} is {mean:.4g}, below the least allowed {limit.min:.4g}")
        if limit.max is not None and mean > limit.max:
            said.append(f"{name} is {mean:.4g}, above the most allowed {limit.max:.4g}")
    return said


def _measured(trial: Trial) -> dict[str, float]:
    known = {"parameters": trial.parameters, "peak_memory_mb": trial.peak_memory_mb}
    return {**trial.validation, **trial.measures, **{name: value for name, value in known.items() if value is not None}}
