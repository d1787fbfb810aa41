"""The base of every answer, and what several kinds of answers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from trainers.contract.space import Config


class Answer(BaseModel):
    """Optional facts that are absent are left out of both forms, so that no client reads nulls."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Noise(Answer):
    """Relative seed noise of one training near the best (0.03: 3 % of the score), and its degrees of freedom."""

    sigma: float
    df: float


class Gain(Answer):
    """A relative gain (0.05 is 5 %): what may be expected, the 90 % interval, and the chance that it is above 0."""

    expected: float
    low: float
    high: float
    chance: float


class Score(Answer):
    """A configuration's standing: the mean over its seeds."""

    trial_ids: list[str]
    number: int
    mean: float
    changes: Config
    """From the default."""
    why: str | None = None
    """Why it leads, where another configuration has the higher mean."""


def rounded(value: Any) -> Any:
    """Numbers to five significant digits: what a reader can use."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def rounded_all(values: Mapping[str, float]) -> dict[str, float]:
    """`rounded`, over the values of a mapping."""
    return {name: rounded(value) for name, value in values.items()}
