"""What memory advises before the first trial: changes that won on similar datasets, and what claims say of fields."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from statistics import fmean

from memory.claims import Claim, Scope
from memory.effects import SCALE, Evidence, evidence_of
from memory.landscape import Gain, Landscape, Setting
from memory.retrieval import similar
from trainers.space import Config, Field, Space, SpaceError, Value
from trainers.spec import DatasetFacts

STARTS = 4
"""Configurations that are advised, at most."""
UNSEEN = 0.5
"""Weight of the belief that a change does nothing on the new dataset, in units of one wholly similar dataset."""
BELIEF = 0.1
"""Standard deviation, relative, of effects that are worth a claim."""


@dataclass(frozen=True)
class Start:
    """Changes from the default that won elsewhere; `gain` is what they may bring here, relative, shrunk."""

    changes: Config
    gain: float
    datasets: tuple[str, ...] = ()
    """Content hashes of where they won."""


@dataclass(frozen=True)
class Belief:
    """What a claim lets one expect here of setting a field to a value; shrunk, whatever the claim's verdict."""

    field: str
    value: Value
    gain: float
    cites: tuple[str, ...] = ()


@dataclass
class _Tried:
    """One set of changes, by dataset: what it gained there."""

    changes: Config
    gains: dict[str, float] = field(default_factory=dict[str, float])


def starts_of(lands: Sequence[Landscape], facts: DatasetFacts, space: Space, metric: str) -> list[Start]:
    """The changes to train first: a portfolio whose best member is as good as can be over similar datasets.

    Greedy: each next one adds most to the best gain so far, weighted by similarity (as portfolios of auto-sklearn 2.0,
    Feurer et al. 2022).
    """
    weights = {land.dataset_hash: similar(facts, land.facts) for land in lands}
    tried: dict[str, _Tried] = {}
    for land in lands:
        for (key, changes), gain in _gains(land, metric):
            known = tried.setdefault(key, _Tried(changes))
            known.gains[land.dataset_hash] = max(gain, known.gains.get(land.dataset_hash, -1.0))
    chosen: list[Start] = []
    best = dict.fromkeys(weights, 0.0)
    # What one adds only shrinks as others are chosen, so that who leads by an old value and a new one has won.
    queue = [(-_worth(one, weights, best), place, key) for place, (key, one) in enumerate(tried.items())]
    heapify(queue)
    while queue and len(chosen) < STARTS:
        _, place, key = heappop(queue)
        one = tried[key]
        worth = _worth(one, weights, best)
        if queue and (-worth, place) > queue[0][:2]:
            heappush(queue, (-worth, place, key))
            continue
        if worth <= 0:
            break
        admitted = _admitted(space, one.changes)
        if admitted is None:
            continue
        won = tuple(name for name, gain in one.gains.items() if gain > best[name])
        chosen.append(Start(admitted, _worth(one, weights, dict.fromkeys(weights, 0.0), floor=False), won))
        for name, gain in one.gains.items():
            best[name] = max(best[name], gain)
    return chosen


def _worth(one: _Tried, weights: Mapping[str, float], best: Mapping[str, float], floor: bool = True) -> float:
    """How much these changes add to the best so far, over all datasets; where they were not tried, they add nothing."""
    total = sum(weights.values()) + UNSEEN
    added = ((name, gain - best[name]) for name, gain in one.gains.items())
    return sum(weights[name] * (max(more, 0.0) if floor else more) for name, more in added) / total


def _gains(land: Landscape, metric: str) -> Sequence[Gain]:
    """Of each configuration here: what differs from its default, and its relative gain, shrunk by its noise."""
    known = land.gains.get(metric)
    if known is None or known[0] != len(land.trial_ids):
        known = land.gains[metric] = (len(land.trial_ids), _work_out_gains(land, metric))
    return known[1]


def _work_out_gains(land: Landscape, metric: str) -> list[Gain]:
    noise = land.noise(metric)
    found: list[Gain] = []
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
            gain = (mean / base - 1) * BELIEF**2 / (BELIEF**2 + variance)
            found.append((_changes(land, default, name), gain))
    return found


def _means(land: Landscape, setting: Setting, metric: str) -> dict[str, tuple[float, int]]:
    """By configuration: its mean over seeds, and how many there are."""
    found: dict[str, tuple[float, int]] = {}
    for (other, name), runs in land.runs.items():
        scores = [one.scores[metric] for one in runs if metric in one.scores]
        if other == setting and scores:
            found[name] = (fmean(scores), len(scores))
    return found


def _default(land: Landscape, setting: Setting) -> str | None:
    """The default that most trainings were of: studies of one dataset may begin at several."""
    counts = {
        name: len(runs)
        for (other, name), runs in land.runs.items()
        if other == setting and any(one.is_default for one in runs)
    }
    return max(counts, key=lambda name: counts[name], default=None)


def _changes(land: Landscape, default: str, name: str) -> tuple[str, Config]:
    """What differs from the default, and the same as text; worked out once."""
    if (default, name) not in land.changes:
        base = land.values[default]
        changes = {field: value for field, value in land.values[name].items() if base.get(field) != value}
        land.changes[default, name] = (json.dumps(changes, sort_keys=True), changes)
    return land.changes[default, name]


def _admitted(space: Space, changes: Config) -> Config | None:
    """The changes as this space takes them; None where it refuses one, or they do nothing on its default."""
    try:
        typed = {name: typed_value(space.field(name), value) for name, value in changes.items()}
        config = space.apply(space.default(), {name: space.field(name).check(value) for name, value in typed.items()})
    except SpaceError:
        return None
    return typed if space.hash(config) != space.hash(space.default()) else None


def typed_value(one: Field, value: Value) -> Value:
    """A stored number as the field's own type."""
    if one.kind == "bool" and not isinstance(value, (bool, str)):
        return bool(value)
    if one.kind == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def beliefs_of(
    claims: Sequence[tuple[str, Claim]], lands: Sequence[Landscape], facts: DatasetFacts, space: Space, metric: str
) -> list[Belief]:
    """What claims whose scope holds here lead one to expect of single fields, the largest gain first.

    The effect of a claim on a new dataset is the mean over the datasets that speak of it, weighted by similarity and
    precision, and shrunk towards nothing. Trials that a claim was written from count: this is advice, not a verdict.
    """
    default = space.default()
    found: dict[tuple[str, str], Belief] = {}
    seen: dict[tuple[Claim, str], Evidence | None] = {}
    for heuristic_id, claim in claims:
        change = claim.change
        if claim.metric != metric or not claim.scope.holds(space.backbone, facts):
            continue
        gain = _expected(claim, lands, facts, seen)
        for value, sign in _targets(claim, space):
            if gain is None or value == default[change.field]:
                continue
            known = found.get((change.field, json.dumps(value)))
            belief = Belief(change.field, value, sign * gain, (heuristic_id,))
            if known is None or abs(belief.gain) > abs(known.gain):
                found[change.field, json.dumps(value)] = belief
    return sorted(found.values(), key=lambda one: -one.gain)


def _expected(
    claim: Claim, lands: Sequence[Landscape], facts: DatasetFacts, seen: dict[tuple[Claim, str], Evidence | None]
) -> float | None:
    """The relative effect of a claim's change here; `seen` holds what claims of the same change asked before."""
    step = claim.model_copy(update={"scope": Scope(), "sign": "+", "min_effect": 0.0})
    precision, weighted, spoken = 1 / BELIEF**2, 0.0, False
    for land in lands:
        if not claim.scope.holds(land.backbone, land.facts):
            continue
        key = (step, land.dataset_hash)
        if key not in seen:
            seen[key] = evidence_of(step, land, advice=True)
        if (one := seen[key]) is not None:
            weight = similar(facts, land.facts) / (one.variance + SCALE**2)
            precision, weighted, spoken = precision + weight, weighted + weight * one.effect, True
    return weighted / precision if spoken else None


def _targets(claim: Claim, space: Space) -> list[tuple[Value, int]]:
    """Where the claim's change leads from this default: a value, and 1, or -1 where it leads away from the default."""
    change, default = claim.change, space.default()
    try:
        one = space.field(change.field)
    except SpaceError:
        return []
    now = default[change.field]
    if one.fixed or not all(given.holds({**default}) for given in claim.given):
        return []
    if change.to is not None:
        to = typed_value(one, change.to)
        if to == now and change.before is not None:
            return [(typed_value(one, change.before), -1)]  # what it is claimed to be better than
        return [(to, 1)] if change.before in (None, now) else []
    return _neighbour(one, now, 1 if change.direction == "up" else -1)


def _neighbour(one: Field, now: Value, way: int) -> list[tuple[Value, int]]:
    """The next value up or down: of a list the next member, else a fifth of the range on its scale."""
    if isinstance(now, (bool, str)):
        return []
    numbers = sorted(value for value in one.choices if not isinstance(value, (bool, str)))
    ahead = [value for value in numbers if (value - now) * way > 0]
    if numbers:
        return [(min(ahead, key=lambda value: abs(value - now)), 1)] if ahead else []
    low, high = one.low or 0.0, one.high or 0.0
    if one.scale == "log" and now > 0 and low > 0:
        moved = now * math.exp(way * 0.2 * math.log(high / low))
    else:
        moved = now + way * 0.2 * (high - low)
    clipped = min(max(moved, low), high)
    value: Value = round(clipped) if one.kind == "int" else float(f"{clipped:.3g}")
    return [(value, 1)] if value != now else []
