"""Open questions: claims that contradict each other, what would separate them, and what may explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from memory.claims import Claim, Predicate
from memory.effects import Evidence
from trainers.spec import DatasetFacts

SEPARABLE = 10
"""Datasets from which on a meta-feature is looked for that separates two claims."""
PERMUTATIONS = 999
FEATURES = ("users", "items", "mean_length", "density", "item_gini", "repeat_rate")


@dataclass(frozen=True)
class Question:
    """Two heuristics that cannot both be true everywhere."""

    one: str
    other: str
    text: str


@dataclass(frozen=True)
class Separation:
    """The meta-feature that goes best with the effect, and how often chance does as well (over all features)."""

    feature: str
    p: float


def question(ids: tuple[str, str], claims: tuple[Claim, Claim], evidence: Mapping[str, Evidence],
             facts: Mapping[str, DatasetFacts]) -> Question | None:  # fmt: skip
    """What two claims of opposite sign leave open; None where their scopes do not meet.

    `evidence` is that of the first claim by dataset, `facts` the datasets' meta-features.
    """
    if not meet(claims[0].scope.dataset, claims[1].scope.dataset):
        return None
    change = claims[0].change
    where = " and ".join(f"{one.fact} {one.op} {one.value:g}" for claim in claims for one in claim.scope.dataset)
    step = f"{change.field} {change.direction or f'→ {change.to}'}"
    text = (
        f"{ids[0]} says {claims[0].words()}; {ids[1]} says {claims[1].words()}. To separate them, train both sides of "
        f"{step} with the same two seeds{f' on a dataset with {where}' if where else ''}, nothing else changed."
    )
    found = separation([(facts[name], one.effect) for name, one in evidence.items() if name in facts])
    if found is not None:
        text += f" {found.feature} goes best with the effect (permutation p {found.p:.3f})."
    return Question(*ids, text)


def meet(one: Sequence[Predicate], other: Sequence[Predicate]) -> bool:
    """Whether a dataset can be in both scopes."""
    for fact in {predicate.fact for predicate in (*one, *other)}:
        limits = [predicate for predicate in (*one, *other) if predicate.fact == fact]
        low = max((p for p in limits if p.op in (">", ">=")), key=lambda p: (p.value, p.op == ">"), default=None)
        high = min((p for p in limits if p.op in ("<", "<=")), key=lambda p: (p.value, p.op == "<="), default=None)
        if low is None or high is None:
            continue
        if low.value > high.value or (low.value == high.value and (low.op == ">" or high.op == "<")):
            return False
    return True


def separation(seen: Sequence[tuple[DatasetFacts, float]]) -> Separation | None:
    """The feature whose ranks agree most with the effect's, from ten datasets on; p counts all features at once."""
    if len(seen) < SEPARABLE:
        return None
    columns = {name: _ranks([float(getattr(facts, name)) for facts, _ in seen]) for name in FEATURES}
    effects = _ranks([effect for _, effect in seen])
    strength = {name: abs(_correlation(ranks, effects)) for name, ranks in columns.items()}
    feature = max(strength, key=lambda name: strength[name])
    draw, as_strong = Random(0), 0
    for _ in range(PERMUTATIONS):
        shuffled = draw.sample(effects, len(effects))
        as_strong += max(abs(_correlation(ranks, shuffled)) for ranks in columns.values()) >= strength[feature] - 1e-12
    return Separation(feature, (as_strong + 1) / (PERMUTATIONS + 1))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0, equal values sharing their mean."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    first, second = fmean(one), fmean(other)
    shared = sum((a - first) * (b - second) for a, b in zip(one, other, strict=True))
    scale = sum((a - first) ** 2 for a in one) * sum((b - second) ** 2 for b in other)
    return shared / scale**0.5 if scale > 0 else 0.0
