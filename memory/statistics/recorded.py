"""What recorded trainings say of seed noise and of the gains that changes bring: the prior of every verdict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel, ConfigDict

FILE = Path(__file__).with_name("recorded.json")


class Gains(BaseModel):
    """Log gains over the incumbent, as a mixture of half-normals: `down` and `up` are the weights of each of `scales`.

    Most changes do a little harm, a few do much, and a few help: the mixture has heavy tails and leans downwards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scales: tuple[float, ...]
    down: tuple[float, ...]
    up: tuple[float, ...]

    @property
    def reversed(self) -> Gains:
        """The gains of the incumbent over what was tried after it."""
        return Gains(scales=self.scales, down=self.up, up=self.down)


class Table(BaseModel):
    """The provenance of the prior: one recorded table that it was fitted to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    backbone: str
    trainings: int
    users: int


class Recorded(BaseModel):
    """The prior, with what it was made from. `python -m benchmarks.recorded` makes it from recorded tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    command: str
    metric: str
    tables: tuple[Table, ...]
    sigma: float
    """Relative seed noise of one training near the best, at 5,000 users; it goes as users^-1/2."""
    df: float
    """Degrees of freedom that `sigma` is worth, by how much it differs between tables."""
    excess: tuple[tuple[float, float], ...]
    """(log of the score over the best, relative noise beyond `sigma`), ascending, to be interpolated.

    Further below the best, trainings differ by how far they came, too: more users do not lessen that.
    """
    gains: Gains


@cache
def recorded() -> Recorded:
    """The prior that is shipped."""
    return Recorded.model_validate_json(FILE.read_bytes())


def interpolated(points: Sequence[tuple[float, float]], x: float) -> float:
    """The value at `x` of the line through ascending `points`, flat beyond its ends."""
    if x <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in pairwise(points):
        if x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return points[-1][1]
