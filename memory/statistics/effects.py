"""Evidence for a claim from the matched pairs of one dataset, and its verdict over all datasets. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Literal

from memory.claim import Claim, fits
from memory.records import ClaimVerdict
from memory.statistics.landscape import Landscape, Pair, Run
from memory.statistics.noise import PAIRED_SHARE, Sigma, of_configuration, relative
from memory.statistics.t_distribution import t_quantile

ALPHA = 0.05
SCALE = 0.05
"""The log effect, as a standard deviation, around which the anytime-valid intervals are narrowest."""
TRANSFER_DATASETS = 5
"""The verdict on unseen datasets needs evidence from at least this many datasets."""
SERIES = 2.1097428
"""The sum of 1 / (n log² n) over n >= 2. It scales the series of `share_of_alpha` to 1."""
Side = Literal["above", "below"]


@dataclass(frozen=True)
class Evidence:
    """Evidence for a claim from one dataset and backbone: the mean log effect of its pairs, and its variance."""

    dataset_hash: str
    backbone: str
    n_pairs: int
    effect: float
    variance: float
    df: float


@dataclass(frozen=True)
class Verdict:
    """The verdict on one claim over all evidence. Its interval is anytime-valid: it may be read after every trial.

    The effect and its interval are relative: 0.05 is 5 %.
    """

    verdict: ClaimVerdict
    transfer: ClaimVerdict
    """Whether the claim holds on unseen datasets, by random effects over at least TRANSFER_DATASETS of them."""
    n_pairs: int
    n_datasets: int
    effect: float | None = None
    low: float | None = None
    high: float | None = None


NOTHING = Verdict("insufficient", "insufficient", 0, 0)


def evidence_of(
    claim: Claim, land: Landscape, written_from: Collection[str] = (), *, advice: bool = False
) -> Evidence | None:
    """The evidence for a claim from the pairs of one dataset, without the trials in `written_from`; None without pairs.

    With `advice`, which decides nothing, a parent loses only its first run, and keeps even that if it has no other.
    """
    if not claim.scope.holds(land.backbone, land.facts):
        return None
    noise = land.noise(claim.metric)
    effects: list[_Effect] = []
    for step, pairs in land.steps(claim.change.field).items():
        for direction in (1, -1):
            if claim.change.covers(*step[::direction]):
                for pair in pairs:
                    before, after = (pair.first, pair.second)[::direction]
                    if fits(claim, land.values[before], land.values[after]):
                        effect = _pair_effect(claim.metric, land, pair, noise, written_from, advice, direction)
                        effects += [effect] if effect else []
    return _pooled(land, effects, noise) if effects else None


@dataclass(frozen=True)
class _Effect:
    """The log gain of one pair, and the variances of its two means. `paired` sides scored the same weights."""

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
class _CachedEffect:
    """An effect, with the noise and the number of runs per side that it was computed from. Runs never change."""

    noise: Sigma
    counts: tuple[int, int]
    effect: _Effect | None


def _pair_effect(
    metric: str, land: Landscape, pair: Pair, noise: Sigma, written_from: Collection[str], advice: bool, direction: int
) -> _Effect | None:
    """The effect of one pair, cached for later claims; not cached where the claim was written from the pair's runs."""
    before, after = (pair.first, pair.second)[::direction]
    sides = (land.runs[pair.setting, before], land.runs[pair.setting, after])
    if written_from and any(run.trial_id in written_from for runs in sides for run in runs):
        runs = {name: _usable(metric, land, pair, name, written_from, advice) for name in (before, after)}
        return _effect(metric, runs, before, after, noise)
    key = (pair, f"{metric} {direction} {advice}")
    counts = (len(sides[0]), len(sides[1]))
    cached = land.effects.get(key)
    if isinstance(cached, _CachedEffect) and cached.noise is noise and cached.counts == counts:
        return cached.effect
    runs = {name: _usable(metric, land, pair, name, (), advice) for name in (before, after)}
    effect = _effect(metric, runs, before, after, noise)
    land.effects[key] = _CachedEffect(noise, counts, effect)
    return effect


def _effect(metric: str, runs: dict[str, list[Run]], before: str, after: str, noise: Sigma) -> _Effect | None:
    shared = {run.weights for run in runs[before]} & {run.weights for run in runs[after]}
    if shared:
        runs = {name: [run for run in side if run.weights in shared] for name, side in runs.items()}
    if not all(runs.values()):
        return None
    if not all(run.scores[metric] > 0 for side in runs.values() for run in side):
        return None
    logs = {name: [math.log(run.scores[metric]) for run in side] for name, side in runs.items()}
    gain = fmean(logs[after]) - fmean(logs[before])
    if shared:
        variance = (PAIRED_SHARE * noise.sigma) ** 2 / len(runs[after])
        return _Effect(gain, before, after, 0.0, variance, True)
    variances = {name: of_configuration(side, noise, 0.0).sigma ** 2 / len(side) for name, side in logs.items()}
    return _Effect(gain, before, after, variances[before], variances[after], False)


def _usable(
    metric: str, land: Landscape, pair: Pair, name: str, written_from: Collection[str], advice: bool
) -> list[Run]:
    """The runs of configuration `name` that count in this pair.

    Where the other configuration was planned from it, its earlier runs are left out: it was selected for their luck.
    The default is not selected, so it keeps them.
    """
    other = pair.second if name == pair.first else pair.first
    runs = [run for run in land.runs[pair.setting, name] if metric in run.scores]
    children = [run.order for run in land.runs[pair.setting, other] if run.parent == name]
    if children and runs and not runs[0].is_default:
        runs = (runs[1:] or runs) if advice else [run for run in runs if run.order > min(children)]
    return [run for run in runs if run.trial_id not in written_from]


def _pooled(land: Landscape, effects: Sequence[_Effect], noise: Sigma) -> Evidence:
    """The precision-weighted mean effect. Pairs that share a configuration share its noise, which is counted once."""
    weights = (
        [1 / effect.variance for effect in effects]
        if all(effect.variance > 0 for effect in effects)
        else [1.0] * len(effects)
    )
    spread = _between([effect.gain for effect in effects], [effect.variance for effect in effects])
    weights = [1 / (1 / weight + spread) for weight in weights]
    total = sum(weights)
    shares = [weight / total for weight in weights]
    mean = sum(share * effect.gain for share, effect in zip(shares, effects, strict=True))
    coefficients: dict[tuple[str, bool], float] = {}
    variances: dict[tuple[str, bool], float] = {}
    for share, effect in zip(shares, effects, strict=True):
        sides = ((effect.after, 1, effect.after_variance), (effect.before, -1, effect.before_variance))
        for name, sign, variance in sides:
            key = (name, effect.paired)
            coefficients[key] = coefficients.get(key, 0.0) + sign * share
            variances[key] = max(variances.get(key, 0.0), variance)
    variance = sum(coefficient**2 * variances[key] for key, coefficient in coefficients.items())
    variance += spread * sum(share**2 for share in shares)
    return Evidence(land.dataset_hash, land.backbone, len(effects), mean, variance, noise.df)


def _between(effects: Sequence[float], variances: Sequence[float]) -> float:
    """Variance between true effects, by the method of moments (DerSimonian and Laird 1986); 0 where none is visible."""
    if len(effects) < 2 or not all(variance > 0 for variance in variances):
        return 0.0
    weights = [1 / variance for variance in variances]
    total = sum(weights)
    mean = sum(weight * effect for weight, effect in zip(weights, effects, strict=True)) / total
    excess = sum(weight * (effect - mean) ** 2 for weight, effect in zip(weights, effects, strict=True))
    scale = total - sum(weight**2 for weight in weights) / total
    return max(0.0, (excess - (len(effects) - 1)) / scale) if scale > 0 else 0.0


def anytime_half_width(variance: float, df: float, alpha: float) -> float:
    """Half the width of an interval that holds at all times at once with probability 1 - alpha (Robbins 1970).

    It is a normal mixture. `variance` is the current variance of the estimate. Since that was estimated with `df`
    degrees of freedom, the interval is wider by the ratio of Student's quantile to the normal one.
    """
    if variance <= 0:
        return 0.0
    ratio = variance / (variance + SCALE**2)
    normal = math.sqrt(variance / (1 - ratio) * (2 * math.log(1 / alpha) - math.log(ratio)))
    tail = 1 - alpha / 2
    return normal * max(1.0, t_quantile(tail, df) / NormalDist().inv_cdf(tail))


def judge(claim: Claim, evidence: Sequence[Evidence], alpha: float = ALPHA) -> Verdict:
    """The verdict over all datasets in `evidence`; `alpha` is the error rate that this claim may spend."""
    if not evidence:
        return NOTHING
    effects, variances = [item.effect for item in evidence], [item.variance for item in evidence]
    spread = _between(effects, variances)
    weights = [1 / (variance + spread) if variance + spread > 0 else 1e12 for variance in variances]
    total = sum(weights)
    mean = sum(weight * effect for weight, effect in zip(weights, effects, strict=True)) / total
    df = min(item.df for item in evidence)
    half = anytime_half_width(1 / total, df, alpha)
    sides = {_side(claim, item.effect, anytime_half_width(item.variance, item.df, alpha)) for item in evidence}
    verdict: ClaimVerdict = _verdict(_side(claim, mean, half))
    if {"above", "below"} <= sides:
        verdict = "mixed"
    count = sum(item.n_pairs for item in evidence)
    datasets = len({item.dataset_hash for item in evidence})
    transfer = _transfer(claim, mean, 1 / total, df, datasets, alpha)
    interval = relative(mean), relative(mean - half), relative(mean + half)
    return Verdict(verdict, transfer, count, datasets, *interval)


def _side(claim: Claim, effect: float, half: float) -> Side | None:
    """Whether the whole interval lies above or below the least effect that the claim states; None where it does not."""
    signed, least = claim.turn * effect, math.log1p(claim.min_effect)
    if signed - half > least:
        return "above"
    return "below" if signed + half < least else None


def share_of_alpha(claims_before: int, settled: Sequence[int]) -> float:
    """The error rate that the next claim may spend, so that false discoveries stay below ALPHA of all settled claims.

    This is LORD++ (Ramdas et al. 2017): a series that sums to 1 over the claims in order and restarts at each settled
    claim. `settled` holds the places of the settled claims, counted from 1. The rate is fixed when a claim is written,
    so no later claim changes an earlier verdict.
    """
    place = claims_before + 1
    ages = [place, *(place - earlier for earlier in settled if earlier < place)]
    return min(ALPHA, ALPHA * sum(1 / (SERIES * (age + 1) * math.log(age + 1) ** 2) for age in ages))


def _verdict(side: Side | None) -> ClaimVerdict:
    return "insufficient" if side is None else ("supported" if side == "above" else "refuted")


def _transfer(claim: Claim, mean: float, variance: float, df: float, datasets: int, alpha: float) -> ClaimVerdict:
    """The verdict on unseen datasets: a t interval over datasets, with one degree of freedom fewer than datasets."""
    if datasets < TRANSFER_DATASETS:
        return "insufficient"
    half = max(anytime_half_width(variance, df, alpha), t_quantile(1 - alpha / 2, datasets - 1) * math.sqrt(variance))
    return _verdict(_side(claim, mean, half))
