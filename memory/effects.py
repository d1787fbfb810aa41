"""What a claim's matched pairs say: one dataset's evidence, and the verdict over all of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Literal

from memory.claims import Claim, fits
from memory.landscape import Landscape, Pair, Run
from memory.noise import PAIRED_SHARE, Sigma, of_configuration
from memory.records import ClaimVerdict
from memory.student import t_quantile

ALPHA = 0.05
SCALE = 0.05
"""Effects are thought to be about this large, relative: where the intervals are at their narrowest."""
TRANSFER_DATASETS = 5
SERIES = 2.1097428
"""The sum of 1 / (n log² n) from n = 2 on."""
Side = Literal["above", "below"]


@dataclass(frozen=True)
class Evidence:
    """Of one claim on one dataset and backbone: the mean relative effect of its pairs, and its variance by noise."""

    dataset_hash: str
    backbone: str
    n_pairs: int
    effect: float
    variance: float
    df: float


@dataclass(frozen=True)
class Verdict:
    """Of one claim over everything known. The interval is anytime-valid: it may be looked at after every trial."""

    verdict: ClaimVerdict
    transfer: ClaimVerdict
    """Whether it holds on datasets that were not seen: random effects over at least five."""
    n_pairs: int
    n_datasets: int
    effect: float | None = None
    low: float | None = None
    high: float | None = None


NOTHING = Verdict("insufficient", "insufficient", 0, 0)


def evidence_of(
    claim: Claim, land: Landscape, written_from: Collection[str] = (), *, advice: bool = False
) -> Evidence | None:
    """What the pairs of one dataset say of the claim, without the trials that it was written from; None without any.

    For `advice`, which decides nothing, a parent loses its first run only, and not that where it has no other.
    """
    if not claim.scope.holds(land.backbone, land.facts):
        return None
    noise = land.noise(claim.metric)
    found: list[_Effect] = []
    for step, pairs in land.steps(claim.change.field).items():
        for way in (1, -1):
            if claim.change.covers(*step[::way]):
                for pair in pairs:
                    before, after = (pair.first, pair.second)[::way]
                    if fits(claim, land.values[before], land.values[after]):
                        effect = _pair_effect(claim.metric, land, pair, noise, written_from, advice, way)
                        found += [effect] if effect else []
    return _pooled(land, found, noise) if found else None


@dataclass(frozen=True)
class _Effect:
    """One pair: a gain, and the variances of the two means that it is made of. Paired ones share their weights."""

    gain: float
    before: str
    after: str
    before_variance: float
    after_variance: float
    paired: bool

    @property
    def variance(self) -> float:
        return self.before_variance + self.after_variance


@dataclass(frozen=True)
class _Known:
    """An effect with all that it depends on beside the runs themselves, of which none ever changes."""

    noise: Sigma
    counts: tuple[int, int]
    effect: _Effect | None


def _pair_effect(
    metric: str, land: Landscape, pair: Pair, noise: Sigma, written_from: Collection[str], advice: bool, way: int
) -> _Effect | None:
    """The effect of one step; kept for the next claim that asks, unless the claim was written from the pair's runs."""
    before, after = (pair.first, pair.second)[::way]
    both = (land.runs[pair.setting, before], land.runs[pair.setting, after])
    if written_from and any(one.trial_id in written_from for runs in both for one in runs):
        runs = {name: _usable(metric, land, pair, name, written_from, advice) for name in (before, after)}
        return _effect(metric, runs, before, after, noise)
    key = (pair, f"{metric} {way} {advice}")
    counts = (len(both[0]), len(both[1]))
    known = land.effects.get(key)
    if isinstance(known, _Known) and known.noise is noise and known.counts == counts:
        return known.effect
    runs = {name: _usable(metric, land, pair, name, (), advice) for name in (before, after)}
    effect = _effect(metric, runs, before, after, noise)
    land.effects[key] = _Known(noise, counts, effect)
    return effect


def _effect(metric: str, runs: dict[str, list[Run]], before: str, after: str, noise: Sigma) -> _Effect | None:
    shared = {one.weights for one in runs[before]} & {one.weights for one in runs[after]}
    if shared:
        runs = {name: [one for one in known if one.weights in shared] for name, known in runs.items()}
    if not all(runs.values()):
        return None
    means = {name: fmean(one.scores[metric] for one in known) for name, known in runs.items()}
    if means[before] <= 0:
        return None
    if shared:
        variance = (PAIRED_SHARE * noise.sigma) ** 2 / len(runs[after])
        return _Effect(means[after] / means[before] - 1, before, after, 0.0, variance, True)
    parts = {
        name: of_configuration([one.scores[metric] for one in known], noise).sigma ** 2 / len(known)
        for name, known in runs.items()
    }
    return _Effect(means[after] / means[before] - 1, before, after, parts[before], parts[after], False)


def _usable(
    metric: str, land: Landscape, pair: Pair, name: str, written_from: Collection[str], advice: bool
) -> list[Run]:
    """The runs of a configuration that may speak in this pair.

    Where the other configuration was planned from it, the runs until then had selected it for their luck.
    """
    other = pair.second if name == pair.first else pair.first
    known = [one for one in land.runs[pair.setting, name] if metric in one.scores]
    children = [one.order for one in land.runs[pair.setting, other] if one.parent == name]
    if children and known and not known[0].is_default:
        known = (known[1:] or known) if advice else [one for one in known if one.order > min(children)]
    return [one for one in known if one.trial_id not in written_from]


def _pooled(land: Landscape, found: Sequence[_Effect], noise: Sigma) -> Evidence:
    """The precision-weighted mean. Pairs that share a configuration share its noise, so that is counted once."""
    weights = [1 / one.variance for one in found] if all(one.variance > 0 for one in found) else [1.0] * len(found)
    spread = _between([one.gain for one in found], [one.variance for one in found])
    weights = [1 / (1 / weight + spread) for weight in weights]
    total = sum(weights)
    shares = [weight / total for weight in weights]
    effect = sum(share * one.gain for share, one in zip(shares, found, strict=True))
    of_noise: dict[tuple[str, bool], float] = {}
    variances: dict[tuple[str, bool], float] = {}
    for share, one in zip(shares, found, strict=True):
        for name, sign, variance in ((one.after, 1, one.after_variance), (one.before, -1, one.before_variance)):
            key = (name, one.paired)
            of_noise[key] = of_noise.get(key, 0.0) + sign * share
            variances[key] = max(variances.get(key, 0.0), variance)
    variance = sum(coefficient**2 * variances[name] for name, coefficient in of_noise.items())
    variance += spread * sum(share**2 for share in shares)
    return Evidence(land.dataset_hash, land.backbone, len(found), effect, variance, noise.df)


def _between(effects: Sequence[float], variances: Sequence[float]) -> float:
    """Variance between true effects, by the method of moments (DerSimonian and Laird 1986); 0 where none shows."""
    if len(effects) < 2 or not all(variance > 0 for variance in variances):
        return 0.0
    weights = [1 / variance for variance in variances]
    total = sum(weights)
    mean = sum(weight * effect for weight, effect in zip(weights, effects, strict=True)) / total
    excess = sum(weight * (effect - mean) ** 2 for weight, effect in zip(weights, effects, strict=True))
    scale = total - sum(weight**2 for weight in weights) / total
    return max(0.0, (excess - (len(effects) - 1)) / scale) if scale > 0 else 0.0


def anytime_half_width(variance: float, df: float, alpha: float) -> float:
    """Half of an interval that holds at all times at once with chance 1 - alpha: a normal mixture (Robbins 1970).

    `variance` is that of the estimate now. Where it was estimated on `df` degrees of freedom, the interval is wider by
    the ratio of Student's quantile to the normal one.
    """
    if variance <= 0:
        return 0.0
    ratio = variance / (variance + SCALE**2)
    normal = math.sqrt(variance / (1 - ratio) * (2 * math.log(1 / alpha) - math.log(ratio)))
    tail = 1 - alpha / 2
    return normal * max(1.0, t_quantile(tail, df) / NormalDist().inv_cdf(tail))


def judge(claim: Claim, evidence: Sequence[Evidence], alpha: float = ALPHA) -> Verdict:
    """The verdict over the datasets there are; `alpha` is what this claim may spend on being wrong."""
    if not evidence:
        return NOTHING
    effects, variances = [one.effect for one in evidence], [one.variance for one in evidence]
    spread = _between(effects, variances)
    weights = [1 / (variance + spread) if variance + spread > 0 else 1e12 for variance in variances]
    total = sum(weights)
    mean = sum(weight * effect for weight, effect in zip(weights, effects, strict=True)) / total
    df = min(one.df for one in evidence)
    half = anytime_half_width(1 / total, df, alpha)
    sides = {_side(claim, one.effect, anytime_half_width(one.variance, one.df, alpha)) for one in evidence}
    verdict: ClaimVerdict = _verdict(_side(claim, mean, half))
    if {"above", "below"} <= sides:
        verdict = "mixed"
    count = sum(one.n_pairs for one in evidence)
    datasets = len({one.dataset_hash for one in evidence})
    transfer = _transfer(claim, mean, 1 / total, df, datasets, alpha)
    return Verdict(verdict, transfer, count, datasets, mean, mean - half, mean + half)


def _side(claim: Claim, effect: float, half: float) -> Side | None:
    """Where the whole interval lies: above what the claim says at least, or below it."""
    turned = claim.turn * effect
    if turned - half > claim.min_effect:
        return "above"
    return "below" if turned + half < claim.min_effect else None


def share_of_alpha(claims_before: int, settled: Sequence[int]) -> float:
    """What the next claim may spend on being wrong, so that false discoveries stay below ALPHA of all settled ones.

    As online testing spends it (LORD++, Ramdas et al. 2017): a series that sums to 1 over the claims in their order,
    begun anew by each claim that was settled, whose places from 1 on are `settled`. Fixed when a claim is written, so
    that no later claim changes an earlier verdict.
    """
    place = claims_before + 1
    ages = [place, *(place - earlier for earlier in settled if earlier < place)]
    return min(ALPHA, ALPHA * sum(1 / (SERIES * (age + 1) * math.log(age + 1) ** 2) for age in ages))


def _verdict(side: Side | None) -> ClaimVerdict:
    return "insufficient" if side is None else ("supported" if side == "above" else "refuted")


def _transfer(claim: Claim, mean: float, variance: float, df: float, datasets: int, alpha: float) -> ClaimVerdict:
    """A t interval over datasets, on as many degrees of freedom as there are datasets less one."""
    if datasets < TRANSFER_DATASETS:
        return "insufficient"
    half = max(anytime_half_width(variance, df, alpha), t_quantile(1 - alpha / 2, datasets - 1) * math.sqrt(variance))
    return _verdict(_side(claim, mean, half))
