"""How certain a difference between two trainings is across users: a paired bootstrap of per-user values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class OverUsers:
    """The relative gain of the mean, its interval over users, and the shares of users that gain and that lose."""

    delta: float
    low: float
    high: float
    gained: float
    lost: float

    @property
    def words(self) -> str:
        """One sentence. It warns that other seeds would differ, because the interval leaves out seed noise."""
        return (
            f"{self.delta:+.1%}, {self.low:+.1%} to {self.high:+.1%} over users of these two trainings: "
            f"{self.gained:.1%} of users gain and {self.lost:.1%} lose. Other seeds would differ, too."
        )


def over_users(candidate: npt.NDArray[np.floating], baseline: npt.NDArray[np.floating], seed: int = 0) -> OverUsers:
    """Compare two trainings user by user: both arrays (users,) hold what each user adds to the metric's mean.

    Users with the same pair of values are drawn together, as a multinomial over the distinct pairs: the same bootstrap,
    but in milliseconds. Where the baseline's mean is 0, gains are relative to the candidate's mean.
    Raises ValueError where the two differ in their number of users, or have none.
    """
    if candidate.shape != baseline.shape or not len(candidate):
        raise ValueError(f"both trainings need the same users; got {len(candidate)} and {len(baseline)}")
    pairs, counts = np.unique(np.stack([candidate, baseline], axis=1), axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(
        len(candidate), counts / len(candidate), size=RESAMPLES
    )  # (resamples, pairs)
    means = np.vstack([counts[None], draws]) @ pairs / len(candidate)  # (1 + resamples, 2); row 0 is the sample itself
    scale = np.where(means[:, 1] > 0, means[:, 1], np.maximum(means[:, 0], 1e-300))
    gains = (means[:, 0] - means[:, 1]) / scale
    low, high = np.quantile(gains[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return OverUsers(
        float(gains[0]),
        float(low),
        float(high),
        float(np.mean(candidate > baseline)),
        float(np.mean(candidate < baseline)),
    )
