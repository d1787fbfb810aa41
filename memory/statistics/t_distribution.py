"""Quantiles of Student's t and lower tails of Fisher's F, for degrees of freedom that need not be whole."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist


def t_quantile(p: float, df: float) -> float:
    """Quantile of Student's t with `df` > 0 (any real) at 0 < p < 1. Raises ValueError outside these ranges."""
    if not 0 < p < 1 or not df > 0:
        raise ValueError(f"a t quantile needs 0 < p < 1 and df > 0; got {p=}, {df=}")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    return _upper_quantile(p, df)


@lru_cache(maxsize=1024)
def _upper_quantile(p: float, df: float) -> float:
    if df > 1e5:
        z = NormalDist().inv_cdf(p)
        return z + (z**3 + z) / (4 * df)
    low, high = 0.0, 1.0
    while _upper_tail(high, df) > 1 - p:
        low, high = high, high * 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _upper_tail(middle, df) > 1 - p else (low, middle)
    return (low + high) / 2


def _upper_tail(t: float, df: float) -> float:
    """P(T > t) for t >= 0: half the incomplete beta of df/(df + t²) at (df/2, 1/2)."""
    return _incomplete_beta(df / (df + t * t), df / 2, 0.5) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised I_x(a, b) by its continued fraction, on the side where the fraction converges fast."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    return front / _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + …)) of the incomplete beta (DLMF 8.17.22), by Lentz's method."""
    value, numerator, denominator = 1.0, 1.0, 0.0
    for step in range(1, 2000):
        m = step // 2
        if step % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1 / ((1 + d * denominator) or 1e-300)
        numerator = (1 + d / numerator) or 1e-300
        value *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-15:
            break
    return value


def f_below(value: float, df: float, other: float) -> float:
    """P(F < value) of Fisher's F with `df` over `other` degrees of freedom."""
    return _incomplete_beta(df * value / (df * value + other), df / 2, other / 2)
