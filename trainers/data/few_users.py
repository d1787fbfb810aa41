"""How much a metric says that is averaged over few users."""

from __future__ import annotations

from math import sqrt

FEW_USERS = 500
"""Users below which a metric says little."""
_SPREAD = 0.2
"""Standard deviation of one user's ndcg@10 where the mean is near .05: most users have 0, a few up to 1."""


def noise_of(users: int) -> str:
    """How far chance moves a metric that is averaged over so many users, in words."""
    return f"chance alone moves an ndcg@10 near .05 by about ±{1.96 * _SPREAD / sqrt(users):.3f} (95 %)"
