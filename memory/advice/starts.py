"""Advice before the first trial: changes that won on similar datasets, and effects that claims predict for fields."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from statistics import fmean

from memory.claim import Claim, Scope
from memory.statistics.effects import SCALE, Evidence, evidence_of
from memory.statistics.landscape import Gain, Landscape, Setting
from memory.statistics.noise import relative
from memory.statistics.retrieval import similar
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Config, Field, Space, SpaceError, Value

STARTS = 4
"""The most configurations that are advised."""
UNSEEN = 0.5
"""Weight of the prior that a change does nothing on the new dataset, in units of one fully similar dataset."""
BELIEF = 0.1
"""Prior standard deviation of relative effects. Gains are shrunk towards 0 by it."""


@dataclass(frozen=True)
class Start:
    """Changes from the default that won on other datasets, and the relative gain to expect here, shrunk towards 0."""

    changes: Config
    gain: float
    datasets: tuple[str, ...] = ()
    """The content hashes of the datasets on which the changes won."""


@dataclass(frozen=True)
class Belief:
    """The relative gain that a claim predicts here for setting a field to a value; shrunk, whatever its verdict."""

    field: str
    value: Value
    gain: float
    cites: tuple[str, ...] = ()


@dataclass
class _TriedChanges:
    """One set of changes, and its relative gain by dataset hash."""

    changes: Config
    gains: dict[str, float] = field(default_factory=dict[str, float])


def starts_of(lands: Sequence[Landscape], facts: DatasetFacts, space: Space, metric: str) -> list[Start]:
    """The changes to train first: a portfolio whose best member gains the most over similar datasets.

    It is built greedily. Each next member adds the most to the best gain so far, weighted by similarity (as the
    portfolios of auto-sklearn 2.0, Feurer et al. 2022).
    """
    weights = {land.dataset_hash: similar(facts, land.facts) for land in lands}
    tried_changes: dict[str, _TriedChanges] = {}
    for land in lands:
        for (key, changes), gain in _gains(land, metric):
            gains = tried_changes.setdefault(key, _TriedChanges(changes)).gains
            gains[land.dataset_hash] = max(gain, gains.get(land.dataset_hash, -1.0))
    chosen: list[Start] = []
    best = dict.fromkeys(weights, 0.0)
    # A chosen member can only lower the worth of the others, so a leader with an up-to-date worth is the best.
    queue = [(-_worth(tried, weights, best), place, key) for place, (key, tried) in enumerate(tried_changes.items())]
    heapify(queue)
    while queue and len(chosen) < STARTS:
        _, place, key = heappop(queue)
        tried = tried_changes[key]
        worth = _worth(tried, weights, best)
        if queue and (-worth, place) > queue[0][:2]:
            heappush(queue, (-worth, place, key))
            continue
        if worth <= 0:
            break
        typed = _typed_changes(space, tried.changes)
        if typed is None:
            continue
        won = tuple(name for name, gain in tried.gains.items() if gain > best[name])
        chosen.append(Start(typed, _worth(tried, weights, dict.fromkeys(weights, 0.0), floor=False), won))
        for name, gain in tried.gains.items():
            best[name] = max(best[name], gain)
    return chosen


def _worth(tried: _TriedChanges, weights: Mapping[str, float], best: Mapping[str, float], floor: bool = True) -> float:
    """How much these changes add to the best gains so far, over all datasets. Datasets without them add 0."""
    total = sum(weights.values()) + UNSEEN
    added = ((name, gain - best[name]) for name, gain in tried.gains.items())
    return sum(weights[name] * (max(extra, 0.0) if floor else extra) for name, extra in added) / total


def _gains(land: Landscape, metric: str) -> Sequence[Gain]:
    """Each configuration's changes from the default, and its relative gain, shrunk by its noise; cached in `land`."""
    cached = land.gains.get(metric)
    if cached is None or cached[0] != len(land.trial_ids):
        cached = land.gains[metric] = (len(land.trial_ids), _compute_gains(land, metric))
    return cached[1]


def _compute_gains(land: Landscape, metric: str) -> list[Gain]:
    noise = land.noise(metric)
    gains: list[Gain] = []
    for setting in land.settings:
        means = _means(land, setting, metric)
        default = _default(land, setting)
        if default is None or default not in means or means[default][0] <= 0:
            continue
        base, seeds = means[default]
        for name, (mean, count) in means.items():
            if name == default:
                continue
            variance = noise.sigma**2 * (1 / count + 1 / seeds)
            gain = relative(math.log(mean / base) * BELIEF**2 / (BELIEF**2 + variance)) if mean > 0 else -1.0
            gains.append((_changes(land, default, name), gain))
    return gains


def _means(land: Landscape, setting: Setting, metric: str) -> dict[str, tuple[float, int]]:
    """By configuration hash: the mean score over seeds, and the number of seeds."""
    means: dict[str, tuple[float, int]] = {}
    for (other, name), runs in land.runs.items():
        scores = [run.scores[metric] for run in runs if metric in run.scores]
        if other == setting and scores:
            means[name] = (fmean(scores), len(scores))
    return means


def _default(land: Landscape, setting: Setting) -> str | None:
    """The default configuration with the most trainings, since studies of one dataset may start from several."""
    counts = {
        name: len(runs)
        for (other, name), runs in land.runs.items()
        if other == setting and any(run.is_default for run in runs)
    }
    return max(counts, key=lambda name: counts[name], default=None)


def _changes(land: Landscape, default: str, name: str) -> tuple[str, Config]:
    """The changes from the default, as JSON text and as a dict; cached in `land`."""
    if (default, name) not in land.changes:
        base = land.values[default]
        changes = {field: value for field, value in land.values[name].items() if base.get(field) != value}
        land.changes[default, name] = (json.dumps(changes, sort_keys=True), changes)
    return land.changes[default, name]


def _typed_changes(space: Space, changes: Config) -> Config | None:
    """The changes in the types of this space; None if it refuses one, or if they do not change its default."""
    try:
        typed = {name: typed_value(space.field(name), value) for name, value in changes.items()}
        config = space.apply(space.default(), {name: space.field(name).check(value) for name, value in typed.items()})
    except SpaceError:
        return None
    return typed if space.hash(config) != space.hash(space.default()) else None


def typed_value(field: Field, value: Value) -> Value:
    """Converts a stored number to the type of the field."""
    if field.kind == "bool" and not isinstance(value, (bool, str)):
        return bool(value)
    if field.kind == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def beliefs_of(
    claims: Sequence[tuple[str, Claim]], lands: Sequence[Landscape], facts: DatasetFacts, space: Space, metric: str
) -> list[Belief]:
    """The gains that claims predict for single fields, from claims whose scope holds here; the largest gain first.

    The effect of a claim on a new dataset is its mean over the datasets with evidence, weighted by similarity and
    precision, and shrunk towards 0. Trials that a claim was written from count: this is advice, not a verdict.
    """
    default = space.default()
    beliefs: dict[tuple[str, str], Belief] = {}
    seen: dict[tuple[Claim, str], Evidence | None] = {}
    for heuristic_id, claim in claims:
        change = claim.change
        if claim.metric != metric or not claim.scope.holds(space.backbone, facts):
            continue
        gain = _expected_gain(claim, lands, facts, seen)
        for value, sign in _targets(claim, space):
            if gain is None or value == default[change.field]:
                continue
            previous = beliefs.get((change.field, json.dumps(value)))
            belief = Belief(change.field, value, relative(sign * gain), (heuristic_id,))
            if previous is None or abs(belief.gain) > abs(previous.gain):
                beliefs[change.field, json.dumps(value)] = belief
    return sorted(beliefs.values(), key=lambda belief: -belief.gain)


def _expected_gain(
    claim: Claim, lands: Sequence[Landscape], facts: DatasetFacts, seen: dict[tuple[Claim, str], Evidence | None]
) -> float | None:
    """The log effect of a claim's change here, None without evidence; `seen` caches evidence by change."""
    step = claim.model_copy(update={"scope": Scope(), "sign": "+", "min_effect": 0.0})
    precision, weighted, measured = 1 / BELIEF**2, 0.0, False
    for land in lands:
        if not claim.scope.holds(land.backbone, land.facts):
            continue
        key = (step, land.dataset_hash)
        if key not in seen:
            seen[key] = evidence_of(step, land, advice=True)
        if (evidence := seen[key]) is not None:
            weight = similar(facts, land.facts) / (evidence.variance + SCALE**2)
            precision, weighted, measured = precision + weight, weighted + weight * evidence.effect, True
    return weighted / precision if measured else None


def _targets(claim: Claim, space: Space) -> list[tuple[Value, int]]:
    """The values that the claim leads to from this default, each with 1, or -1 where it undoes the claimed change."""
    change, default = claim.change, space.default()
    try:
        field = space.field(change.field)
    except SpaceError:
        return []
    current = default[change.field]
    if field.fixed or not all(given.holds({**default}) for given in claim.given):
        return []
    if change.to is not None:
        to = typed_value(field, change.to)
        if to == current and change.before is not None:
            return [(typed_value(field, change.before), -1)]  # the default is `to` already
        return [(to, 1)] if change.before in (None, current) else []
    return _neighbour(field, current, 1 if change.direction == "up" else -1)


def _neighbour(field: Field, now: Value, direction: int) -> list[tuple[Value, int]]:
    """The next value up (1) or down (-1): the next choice, or else a fifth of the range on the field's scale."""
    if isinstance(now, (bool, str)):
        return []
    numbers = sorted(value for value in field.choices if not isinstance(value, (bool, str)))
    ahead = [value for value in numbers if (value - now) * direction > 0]
    if numbers:
        return [(min(ahead, key=lambda value: abs(value - now)), 1)] if ahead else []
    low, high = field.low or 0.0, field.high or 0.0
    if field.scale == "log" and now > 0 and low > 0:
        moved = now * math.exp(direction * 0.2 * math.log(high / low))
    else:
        moved = now + direction * 0.2 * (high - low)
    clipped = min(max(moved, low), high)
    value: Value = round(clipped) if field.kind == "int" else float(f"{clipped:.3g}")
    return [(value, 1)] if value != now else []
