"""How sure a difference between two trainings is as far as users go: a paired bootstrap of per-user values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class OverUsers:
    """`delta` is the relative gain of the mean, with its interval over users; the shares are of all users."""

    delta: float
    low: float
    high: float
    gained: float
    lost: float

    @property
    def words(self) -> str:
        """One sentence; what it leaves out is said, for seed noise is another matter and never added."""
        return (
            f"{self.delta:+.1%}, {self.low:+.1%} to {self.high:+.1%} over users of these two trainings: "
            f"{self.gained:.1%} of users gain and {self.lost:.1%} lose. Other seeds would differ, too."
        )


def over_users(own: npt.NDArray[np.floating], other: npt.NDArray[np.floating], seed: int = 0) -> OverUsers:
    """Compare two trainings user by user: `own` and `other` (users,) are what each user adds to the metric's mean.

    Users with equal pairs of values are drawn together (a multinomial over the distinct pairs), which is the same
    bootstrap and takes milliseconds. A mean of 0 on the other side makes every gain relative to the own one.
    Raises ValueError where the sides have different users.
    """
    if own.shape != other.shape or not len(own):
        raise ValueError(f"both trainings need the same users; got {len(own)} and {len(other)}")
    pairs, counts = np.unique(np.stack([own, other], axis=1), axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(own), counts / len(own), size=RESAMPLES)  # (resamples, pairs)
    means = np.vstack([counts[None], draws]) @ pairs / len(own)  # (1 + resamples, 2), the sample itself first
    scale = np.where(means[:, 1] > 0, means[:, 1], np.maximum(means[:, 0], 1e-300))
    gains = (means[:, 0] - means[:, 1]) / scale
    low, high = np.quantile(gains[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return OverUsers(float(gains[0]), float(low), float(high), float(np.mean(own > other)), float(np.mean(own < other)))
