"""Open questions: pairs of claims that contradict each other, how to decide between them, what may explain them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from memory.claim import Claim, Predicate
from memory.statistics.effects import Evidence
from trainers.contract.facts import DatasetFacts

SEPARABLE = 10
"""A meta-feature that separates two claims is sought only among at least this many datasets."""
PERMUTATIONS = 999
FEATURES = ("users", "items", "mean_length", "density", "item_gini", "repeat_rate")


@dataclass(frozen=True)
class Question:
    """Two heuristics that cannot both hold everywhere, and how to decide between them."""

    one: str
    other: str
    text: str


@dataclass(frozen=True)
class Separation:
    """The meta-feature that correlates best with the effect, and its permutation p-value over all features."""

    feature: str
    p: float


def question(ids: tuple[str, str], claims: tuple[Claim, Claim], evidence: Mapping[str, Evidence],
             facts: Mapping[str, DatasetFacts]) -> Question | None:  # fmt: skip
    """The question that two claims of opposite sign leave open; None where their scopes do not overlap.

    `evidence` is the evidence for the first claim by dataset hash, `facts` the meta-features by dataset hash.
    """
    if not meet(claims[0].scope.dataset, claims[1].scope.dataset):
        return None
    change = claims[0].change
    where = " and ".join(f"{part.fact} {part.op} {part.value:g}" for claim in claims for part in claim.scope.dataset)
    step = f"{change.field} {change.direction or f'→ {change.to}'}"
    text = (
        f"{ids[0]} says {claims[0].words()}; {ids[1]} says {claims[1].words()}. To separate them, train both sides of "
        f"{step} with the same two seeds{f' on a dataset with {where}' if where else ''}, nothing else changed."
    )
    best = separation([(facts[name], item.effect) for name, item in evidence.items() if name in facts])
    if best is not None:
        text += f" {best.feature} goes best with the effect (permutation p {best.p:.3f})."
    return Question(*ids, text)


def meet(first: Sequence[Predicate], second: Sequence[Predicate]) -> bool:
    """Whether some dataset can satisfy the predicates of both scopes."""
    for fact in {predicate.fact for predicate in (*first, *second)}:
        limits = [predicate for predicate in (*first, *second) if predicate.fact == fact]
        low = max((p for p in limits if p.op in (">", ">=")), key=lambda p: (p.value, p.op == ">"), default=None)
        high = min((p for p in limits if p.op in ("<", "<=")), key=lambda p: (p.value, p.op == "<="), default=None)
        if low is None or high is None:
            continue
        if low.value > high.value or (low.value == high.value and (low.op == ">" or high.op == "<")):
            return False
    return True


def separation(seen: Sequence[tuple[DatasetFacts, float]]) -> Separation | None:
    """The feature with the strongest rank correlation with the effect; None with fewer than SEPARABLE datasets.

    `p` is corrected for the choice among all features (Spearman, by permutation of the effects).
    """
    if len(seen) < SEPARABLE:
        return None
    columns = {name: _ranks([float(getattr(facts, name)) for facts, _ in seen]) for name in FEATURES}
    effects = _ranks([effect for _, effect in seen])
    strength = {name: abs(_correlation(ranks, effects)) for name, ranks in columns.items()}
    feature = max(strength, key=lambda name: strength[name])
    random, as_strong = Random(0), 0
    for _ in range(PERMUTATIONS):
        shuffled = random.sample(effects, len(effects))
        as_strong += max(abs(_correlation(ranks, shuffled)) for ranks in columns.values()) >= strength[feature] - 1e-12
    return Separation(feature, (as_strong + 1) / (PERMUTATIONS + 1))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0. Equal values share the mean of their ranks."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def _correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    x_mean, y_mean = fmean(xs), fmean(ys)
    shared = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    scale = sum((x - x_mean) ** 2 for x in xs) * sum((y - y_mean) ** 2 for y in ys)
    return shared / scale**0.5 if scale > 0 else 0.0
