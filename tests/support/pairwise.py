"""Cases in which every pair of values of any two factors occurs, without all combinations."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any


def pairwise(factors: Mapping[str, Sequence[Any]], tries: int = 40) -> list[dict[str, Any]]:
    """A value for every factor in each case; the same factors give the same cases."""
    draw = random.Random(0)
    open_pairs = {
        (first, i, second, j)
        for first, second in combinations(factors, 2)
        for i in range(len(factors[first]))
        for j in range(len(factors[second]))
    }
    cases: list[dict[str, int]] = []
    while open_pairs:
        case = max(
            (_candidate(factors, open_pairs, draw) for _ in range(tries)), key=lambda c: len(_pairs(c) & open_pairs)
        )
        open_pairs -= _pairs(case)
        cases.append(case)
    return [{name: factors[name][index] for name, index in case.items()} for case in cases]


def _pairs(case: Mapping[str, int]) -> set[tuple[str, int, str, int]]:
    return {(first, case[first], second, case[second]) for first, second in combinations(case, 2)}


def _candidate(
    factors: Mapping[str, Sequence[Any]], open_pairs: set[tuple[str, int, str, int]], draw: random.Random
) -> dict[str, int]:
    """A case that starts with an open pair and takes, factor by factor, the value that closes most open pairs."""
    first, i, second, j = draw.choice(sorted(open_pairs))
    chosen = {first: i, second: j}
    for name in draw.sample(sorted(factors), len(factors)):
        if name not in chosen:
            order = draw.sample(range(len(factors[name])), len(factors[name]))
            chosen[name] = max(order, key=lambda index: _closed(factors, {**chosen, name: index}, open_pairs))
    return {name: chosen[name] for name in factors}


def _closed(
    factors: Mapping[str, Sequence[Any]], chosen: Mapping[str, int], open_pairs: set[tuple[str, int, str, int]]
) -> int:
    return len(_pairs({name: chosen[name] for name in factors if name in chosen}) & open_pairs)
