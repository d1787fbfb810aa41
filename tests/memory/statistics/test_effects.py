"""memory.statistics.effects: evidence and verdicts on claims, by answers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memory.statistics.effects import (
    ALPHA,
    SERIES,
    Evidence,
    Verdict,
    anytime_half_width,
    evidence_of,
    judge,
    share_of_alpha,
)
from memory.statistics.landscape import Landscape, Run, Setting
from memory.statistics.noise import PAIRED_SHARE, Sigma
from tests.support.claims import SPACE, claim
from tests.support.examples import FACTS

METRIC = "ndcg@10"
MANY = 1e9
"""So many degrees of freedom that Student's quantile is the normal one."""


def seen(effect: float, variance: float = 0.01, df: float = MANY, dataset: str = "d1", pairs: int = 1) -> Evidence:
    return Evidence(dataset, "sasrec", pairs, effect, variance, df)


# The interval


@pytest.mark.parametrize(
    ("variance", "df", "alpha", "half"),
    [
        (0.01, MANY, 0.05, 0.557433),  # ratio 0.8: sqrt(0.01 / 0.2 (2 ln 20 - ln 0.8))
        (0.0001, MANY, 0.05, 0.031016),  # ratio 1 / 26
        (0.01, MANY, 0.01, 0.686785),  # sqrt(0.05 (2 ln 100 + 0.223144))
        (0.01, 4, 0.05, 0.789647),  # times 2.776445 / 1.959964
        (0.01, 1, 0.05, 3.613763),  # times 12.706205 / 1.959964
        (0.0, 4, 0.05, 0.0),
    ],
)
def test_an_anytime_interval_by_hand(variance: float, df: float, alpha: float, half: float) -> None:
    assert anytime_half_width(variance, df, alpha) == pytest.approx(half, abs=2e-6)


# The verdict


@pytest.mark.parametrize(
    ("effect", "min_effect", "verdict"),
    [
        (0.558, 0.0, "supported"), (0.557, 0.0, "insufficient"), (-0.557, 0.0, "insufficient"),
        (-0.558, 0.0, "refuted"), (0.653, 0.1, "supported"), (0.652, 0.1, "insufficient"),  # ln 1.1 further
        (-0.462, 0.1, "insufficient"), (-0.463, 0.1, "refuted"),
    ],
)  # fmt: skip
def test_a_verdict_near_its_borders_for_both_signs(effect: float, min_effect: float, verdict: str) -> None:
    assert judge(claim(min_effect=min_effect), [seen(effect)]).verdict == verdict
    assert judge(claim(min_effect=min_effect, sign="-"), [seen(-effect)]).verdict == verdict


def approx(verdict: Verdict) -> Verdict:
    """The same verdict with its logs as shares, to compare by six digits."""
    shares = {name: math.expm1(getattr(verdict, name)) for name in ("effect", "low", "high")}
    near: dict[str, Any] = {name: pytest.approx(share, abs=2e-6) for name, share in shares.items()}
    return replace(verdict, **near)


def test_datasets_that_agree_are_pooled_by_their_precision() -> None:
    """Weights 100 and 25: mean 0.2, variance 1 / 125, half sqrt(0.008 / (1 - 16/21) (2 ln 20 - ln(16/21)))."""
    found = judge(claim(), [seen(0.2, 0.01, pairs=3), seen(0.2, 0.04, dataset="d2", pairs=2)])
    half = 0.458748
    assert found == approx(Verdict("insufficient", "insufficient", 5, 2, 0.2, 0.2 - half, 0.2 + half))


def test_datasets_that_differ_widen_the_interval_by_the_variance_between_them() -> None:
    """Q = 1.8, scale 40, so 0.02 between them: weights 100/3 and 50/3, mean 0.2, variance 0.02, half 1.048649."""
    found = judge(claim(), [seen(0.1, 0.01), seen(0.4, 0.04, dataset="d2")])
    assert found == approx(Verdict("insufficient", "insufficient", 2, 2, 0.2, 0.2 - 1.048649, 0.2 + 1.048649))


def test_a_dataset_counts_once_for_two_backbones_and_the_fewest_degrees_of_freedom_count() -> None:
    found = judge(claim(), [seen(0.1, df=MANY), replace(seen(0.1, df=4), backbone="hstu")])
    half = 0.309764 * 2.776445 / 1.959964
    assert found == approx(Verdict("insufficient", "insufficient", 2, 1, 0.1, 0.1 - half, 0.1 + half))


def test_an_effect_without_variance_is_certain() -> None:
    assert judge(claim(), [seen(0.001, 0.0)]).verdict == "supported"
    assert judge(claim(), [seen(0.001, 0.0), seen(-0.001, 0.0, dataset="d2")]).verdict == "mixed"
    assert judge(claim(min_effect=0.001), [seen(math.log(1.001), 0.0)]).verdict == "insufficient"


@pytest.mark.parametrize(
    ("effect", "datasets", "transfer"),
    [(0.0862, 5, "supported"), (0.0860, 5, "insufficient"), (-0.0862, 5, "refuted"), (0.0862, 4, "insufficient")],
)
def test_transfer_is_a_t_interval_over_five_datasets(effect: float, datasets: int, transfer: str) -> None:
    """Variance 0.0001 together, so 8.610302 x 0.01 with 4 degrees of freedom at alpha 0.001; anytime it is 0.0421."""
    evidence = [seen(effect, 0.0001 * datasets, dataset=f"d{number}") for number in range(datasets)]
    found = judge(claim(), evidence, alpha=0.001)
    assert (found.transfer, found.verdict) == (transfer, "refuted" if effect < 0 else "supported")


# What a claim may spend


def test_the_series_that_shares_alpha_sums_to_one() -> None:
    n = np.arange(2, 1_000_001, dtype=np.float64)
    rest = 1 / np.log(1_000_000.5)
    assert float((1 / (n * np.log(n) ** 2)).sum() + rest) == pytest.approx(SERIES, abs=1e-6)


def test_the_share_of_a_claim_by_hand() -> None:
    assert share_of_alpha(0, []) == pytest.approx(0.0246638, abs=1e-6)  # 0.05 / (S 2 ln² 2)
    assert share_of_alpha(2, []) == pytest.approx(0.0030830, abs=1e-6)  # 0.05 / (S 4 ln² 4)
    with_one = pytest.approx(0.0096283, abs=1e-6)  # and 0.05 / (S 3 ln² 3), for the first claim was settled
    assert share_of_alpha(2, [1]) == with_one
    assert share_of_alpha(2, [1, 3, 7]) == with_one
    assert share_of_alpha(4, [1, 2, 3, 4]) < ALPHA
    assert share_of_alpha(40, [40, 40, 40]) == ALPHA


# The evidence of one dataset

NOISE = Sigma(0.1, 30.0)
SETTING = Setting("yes", "2")


class Land:
    """A landscape of SASRec whose noise is known. Each run is planned after the runs before it."""

    def __init__(self, patch: pytest.MonkeyPatch, noise: Sigma = NOISE) -> None:
        self.land = Landscape("d1", "sasrec", FACTS)
        self.count = 0
        patch.setattr(self.land, "noise", lambda metric: noise)

    def run(
        self, dropout: float, score: float, *, parent: str | None = None, seed: int = 0, weights: str | None = None,
        is_default: bool = False, setting: Setting = SETTING, blocks: int = 2,
    ) -> str:  # fmt: skip
        """Adds a run whose log score is ten times `score`; returns the hash of its configuration. Of 0 it scores 0."""
        config = SPACE.apply(SPACE.default(), {"dropout": dropout, "num_blocks": blocks})
        name = f"t-{self.count}"
        run = Run(
            name,
            setting,
            SPACE.hash(config),
            seed,
            self.count,
            parent,
            is_default,
            weights or name,
            {METRIC: score and 0.01 * math.exp(10 * score)},
        )
        self.land.add(run, config, SPACE.rests(config))
        self.count += 1
        return run.config_hash

    def evidence(self, written_from: tuple[str, ...] = (), advice: bool = False, **given: Any) -> Evidence | None:
        return evidence_of(claim(**given), self.land, written_from, advice=advice)


def near(effect: float, variance: float, pairs: int) -> Evidence:
    about: dict[str, Any] = {"effect": pytest.approx(effect), "variance": pytest.approx(variance)}
    return Evidence("d1", "sasrec", pairs, **about, df=NOISE.df)


@pytest.fixture
def land(monkeypatch: pytest.MonkeyPatch) -> Land:
    return Land(monkeypatch)


@pytest.mark.parametrize("order", [1, -1])
def test_a_pair_is_read_in_the_direction_of_the_claim(land: Land, order: int) -> None:
    for dropout, score in ((0.5, 0.10), (0.2, 0.12))[::order]:
        land.run(dropout, score)
    assert land.evidence() == near(0.2, 0.02, 1)
    assert land.evidence(change={"field": "dropout", "direction": "up"}) == near(-0.2, 0.02, 1)
    assert land.evidence(change={"field": "dropout", "from": 0.4, "to": 0.2}) is None
    assert land.evidence(change={"field": "hidden_dim", "direction": "up"}) is None


def test_scope_and_given_decide_which_pairs_count(land: Land) -> None:
    for blocks, gain in ((1, 0.1), (2, 0.3)):
        land.run(0.5, 0.1, blocks=blocks)
        land.run(0.2, 0.1 + gain / 10, blocks=blocks)
    assert land.evidence(given=[{"field": "num_blocks", "value": 1}]) == near(0.1, 0.02, 1)
    assert land.evidence(scope={"backbone": "hstu"}) is None


def test_pairs_that_agree_are_pooled(land: Land) -> None:
    """Two pairs of variance 0.02, Q = 1 = k - 1: nothing between them. Four sides at half weight: 4 x 0.25 x 0.01."""
    for blocks, gain in ((1, 0.1), (2, 0.3)):
        land.run(0.5, 0.1, blocks=blocks)
        land.run(0.2, 0.1 + gain / 10, blocks=blocks)
    assert land.evidence() == near(0.2, 0.01, 2)


def test_pairs_that_differ_add_the_variance_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variance 0.005 each, Q = 4, scale 200: 0.015 between them. 4 x 0.25 x 0.0025 + 0.015 x 0.5 = 0.01."""
    tight = Land(monkeypatch, Sigma(0.05, NOISE.df))
    for blocks, gain in ((1, 0.1), (2, 0.3)):
        tight.run(0.5, 0.1, blocks=blocks)
        tight.run(0.2, 0.1 + gain / 10, blocks=blocks)
    assert tight.evidence() == near(0.2, 0.01, 2)


def test_pairs_weigh_by_their_variance_and_the_variance_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variances 0.015 and 0.02: Q = 8/7, scale 400/7, so 0.0025 between. Weights 400/7 and 400/9, shares 9/16 and 7/16.

    81/256 x 0.015 + 49/256 x 0.02 + 0.0025 x 130/256 = 0.00984375.
    """
    monkeypatch.setattr("memory.statistics.effects.of_configuration", lambda logs, noise, factor: noise)
    land = Land(monkeypatch)
    for blocks, gain in ((1, 0.1), (2, 0.3)):
        land.run(0.5, 0.1, blocks=blocks)
        land.run(0.2, 0.1 + gain / 10, blocks=blocks)
    land.run(0.2, 0.11, blocks=1, seed=1)
    assert land.evidence() == near(0.1875, 0.00984375, 2)


def test_the_noise_of_a_shared_configuration_counts_once(land: Land) -> None:
    """Both pairs end at dropout 0.2, at weight 1 together: 0.01, and two beginnings at half weight: 0.005."""
    for dropout in (0.5, 0.3):
        land.run(dropout, 0.1)
    land.run(0.2, 0.11)
    assert land.evidence() == near(0.1, 0.015, 2)


def test_a_second_seed_halves_the_variance_of_its_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.statistics.effects.of_configuration", lambda logs, noise, factor: noise)
    land = Land(monkeypatch)
    land.run(0.5, 0.1)
    land.run(0.2, 0.11)
    land.run(0.2, 0.13, seed=1)
    assert land.evidence() == near(0.2, 0.015, 1)


def test_scorings_of_the_same_weights_are_compared_on_those_weights_alone(land: Land) -> None:
    """The third run has other weights and is left out: gain 0.2, variance (share x 0.1)²."""
    land.run(0.5, 0.1, weights="t-0")
    land.run(0.2, 0.12, weights="t-0")
    land.run(0.2, 0.30, seed=1)
    assert land.evidence() == near(0.2, (PAIRED_SHARE * 0.1) ** 2, 1)


def test_trials_that_a_claim_was_written_from_are_left_out(land: Land) -> None:
    land.run(0.5, 0.1)
    land.run(0.2, 0.2)
    assert land.evidence() == near(1.0, 0.02, 1)
    assert land.evidence(("t-1",)) is None
    land.run(0.2, 0.12, seed=1)
    assert land.evidence(("t-1",)) == near(0.2, 0.02, 1)
    assert land.evidence(("t-9",)) == land.evidence()


def test_a_parent_loses_the_runs_for_which_it_was_chosen(land: Land) -> None:
    parent = land.run(0.5, 0.15)
    land.run(0.2, 0.12, parent=parent)
    assert land.evidence() is None
    assert land.evidence(advice=True) == near(-0.3, 0.02, 1)
    land.run(0.5, 0.1, seed=1)
    assert land.evidence() == near(0.2, 0.02, 1)
    assert land.evidence(advice=True) == near(0.2, 0.02, 1)


def test_the_default_keeps_the_runs_from_before_its_children(land: Land) -> None:
    parent = land.run(0.5, 0.1, is_default=True)
    land.run(0.2, 0.12, parent=parent)
    assert land.evidence() == near(0.2, 0.02, 1)


def test_a_parent_that_scored_nothing_and_other_settings_are_no_pair(land: Land) -> None:
    land.run(0.5, 0.0)
    land.run(0.2, 0.12)
    land.run(0.3, 0.1, setting=Setting("no", "2"))
    assert land.evidence() is None
    assert land.evidence(metric="recall@10") is None


def test_a_pair_is_computed_again_with_another_run_or_noise_alone(land: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    land.run(0.5, 0.1)
    land.run(0.2, 0.12)
    first = land.evidence()
    kept = list(land.land.effects.values())
    assert land.evidence() == first
    assert [one is other for one, other in zip(land.land.effects.values(), kept, strict=True)] == [True]
    monkeypatch.setattr(land.land, "noise", lambda metric: Sigma(0.2, NOISE.df))
    assert land.evidence() == near(0.2, 0.08, 1)
    monkeypatch.setattr(land.land, "noise", lambda metric: NOISE)
    land.run(0.5, 0.1, seed=1)
    second = land.evidence()
    assert first is not None
    assert second is not None
    assert second.variance < first.variance
