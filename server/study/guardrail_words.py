"""What a study's guardrails mean for its configurations, in sentences that every answer and page shares."""

from __future__ import annotations

from collections.abc import Sequence

from server.study.guardrails import violated, violations
from server.study.history import StudyHistory
from server.study.standings import Standing

SHOWN = 6
"""How many configurations are named in one sentence."""


def guardrail_words(history: StudyHistory) -> str | None:
    """Which configurations violate a guardrail, and what the study goes on from; None where none does."""
    study = history.study
    violating = [standing for standing in history.ranked if violations(study.guardrails, standing.trials)]
    if not violating:
        return None
    names = violated_names(history, violating)
    if history.incumbent is None:
        return f"Every configuration violates a guardrail ({names})"
    numbers = sorted(standing.number for standing in violating)
    if history.default is not None and history.default in violating:
        limits = "; ".join(violations(study.guardrails, history.default.trials))
        base = history.incumbent
        words = f"The default violates a guardrail ({limits})"
        words += f", so the study builds on number {base.number}" if base else ""
        numbers.remove(history.default.number)
        if len(numbers) == 1:
            return f"{words}; so does number {numbers[0]}"
        return f"{words}; so do numbers {_listed(numbers)}" if numbers else words
    if len(numbers) == 1:
        limits = "; ".join(violations(study.guardrails, violating[0].trials))
        return f"Number {numbers[0]} violates a guardrail ({limits}) and is never chosen"
    return f"Numbers {_listed(numbers)} violate a guardrail ({names}) and are never chosen"


def violated_names(history: StudyHistory, standings: Sequence[Standing]) -> str:
    """The names of the guardrails that some of these configurations violate."""
    guardrails = history.study.guardrails
    found = {name for standing in standings for name in violated(guardrails, standing.trials)}
    return ", ".join(name for name in guardrails if name in found)


def _listed(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return ", ".join(map(str, numbers[:SHOWN])) + more
