"""memory.noise: sigma by hand, t quantiles by the tables, verdicts by what noise allows."""

import math
import random

import pytest

from memory.noise import PAIRED_SHARE, Sigma, compare, compare_paired, estimate, half_width, prior, rescaled, t_quantile

# One-sided quantiles from printed tables of Student's t, to their printed digits.
TABLE = [
    (0.75, 1, 1.0), (0.95, 1, 6.313752), (0.975, 1, 12.706205), (0.995, 1, 63.656741), (0.9995, 1, 636.619249),
    (0.90, 2, 1.885618), (0.975, 2, 4.302653), (0.95, 3, 2.353363), (0.90, 4, 1.533206), (0.975, 4, 2.776445),
    (0.9995, 4, 8.610302), (0.975, 5, 2.570582), (0.975, 10, 2.228139), (0.99, 10, 2.763769), (0.95, 30, 1.697261),
    (0.975, 120, 1.979930), (0.975, 1000, 1.962339),
]  # fmt: skip


@pytest.mark.parametrize(("p", "df", "wanted"), TABLE)
def test_quantiles_agree_with_the_tables(p: float, df: float, wanted: float) -> None:
    assert t_quantile(p, df) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("p", [0.5001, 0.6, 0.9, 0.9965, 0.99999])
def test_quantiles_agree_with_the_closed_forms_of_one_and_two_degrees(p: float) -> None:
    assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9)
    assert t_quantile(p, 2) == pytest.approx((2 * p - 1) / math.sqrt(2 * p * (1 - p)), rel=1e-9)


@pytest.mark.parametrize("df", [1.3, 2.5, 4.0, 7.75, 61.2])
def test_a_quantile_of_broken_degrees_inverts_the_integral_of_the_density(df: float) -> None:
    t = t_quantile(0.97, df)
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    steps = 4000  # Simpson's rule over 0..t
    heights = [scale * (1 + (t * i / steps) ** 2 / df) ** (-(df + 1) / 2) for i in range(steps + 1)]
    area = (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])) * t / steps / 3
    assert area == pytest.approx(0.47, abs=1e-10)


def test_quantiles_are_symmetric_zero_at_the_middle_and_normal_at_the_end() -> None:
    assert t_quantile(0.5, 3.3) == pytest.approx(0, abs=1e-9)
    assert t_quantile(0.02, 3.3) == -t_quantile(0.98, 3.3)
    assert t_quantile(0.975, 1e9) == pytest.approx(1.959963985, abs=1e-8)
    assert t_quantile(0.9965, 99_999) == pytest.approx(t_quantile(0.9965, 100_001), abs=1e-7)


@pytest.mark.parametrize(("p", "df"), [(0, 4), (1, 4), (0.5, 0), (0.9, -1), (math.nan, 4), (0.9, math.nan)])
def test_a_quantile_outside_its_domain_is_refused(p: float, df: float) -> None:
    with pytest.raises(ValueError, match="a t quantile needs 0 < p < 1 and df > 0; got"):
        t_quantile(p, df)


def test_the_prior_is_three_per_cent_at_5000_users_and_falls_with_their_root() -> None:
    assert prior(5000) == Sigma(0.03, 4)
    assert prior(20_000).sigma == pytest.approx(0.015)
    assert prior(1250).sigma == pytest.approx(0.06)
    assert math.isfinite(prior(0).sigma)


def test_without_replicates_sigma_is_the_prior() -> None:
    assert estimate([], 5000) == prior(5000)
    assert estimate([[0.05], []], 5000) == prior(5000)


def test_replicates_are_pooled_with_the_prior() -> None:
    # [0.97, 1.0, 1.03]: relative squares 0.0018, 2 df, as large as the prior says: an F ratio of 1 on 2 and 4 df.
    # P(F < 1) = 1 - (1 + 1/2)^-2 = 5/9, so the prior counts for 2 x 4/9 of its 4 df.
    found = estimate([[0.97, 1.0, 1.03], [7]], 5000)
    assert (found.sigma, found.df) == (pytest.approx(0.03), pytest.approx(4 * 8 / 9 + 2))
    # With [0.98, 1.02] the squares are 0.0026 on 3 df.
    agreed = estimate([[0.97, 1.0, 1.03], [0.98, 1.02]], 5000)
    believed = agreed.df - 3
    assert 0 < believed < 4
    assert agreed.sigma == pytest.approx(math.sqrt((believed * 0.0009 + 0.0026) / (believed + 3)))


def test_a_prior_that_replicates_contradict_fades() -> None:
    calm = [[1.0, 1.001, 0.999], [2.0, 2.002, 1.998]]
    wild = [[1.0, 1.2, 0.8], [2.0, 2.4, 1.6]]
    assert [estimate(groups, 5000).df < 4.1 for groups in (calm, wild)] == [True, True]
    assert estimate(calm, 5000).sigma < 0.004
    assert estimate(wild, 5000).sigma > 0.19


def test_sigma_is_relative_so_the_unit_of_the_metric_is_nothing() -> None:
    groups = [[0.050, 0.052, 0.051], [0.060, 0.058]]
    hundredfold = [[100 * score for score in group] for group in groups]
    assert estimate(groups, 9000).sigma == pytest.approx(estimate(hundredfold, 9000).sigma)


def test_earlier_studies_sharpen_sigma_but_for_twenty_degrees_at_most() -> None:
    # [0.9, 1.1] has relative squares 0.02 on 1 df; forty of them weigh as twenty.
    few = estimate([[0.9, 1.1]], 5000, [[0.9, 1.1]])
    assert 2 < few.df < 3
    assert few.sigma == pytest.approx(math.sqrt(((few.df - 2) * 0.0009 + 0.04) / few.df))
    many = estimate([[0.9, 1.1]], 5000, [[0.9, 1.1]] * 40)
    assert 21 < many.df < 21.1
    assert many.sigma == pytest.approx(math.sqrt(((many.df - 21) * 0.0009 + 0.02 + 0.4) / many.df))


def test_groups_that_say_nothing_change_nothing() -> None:
    assert estimate([[0.0, 0.0], [math.nan, 0.5], [math.inf]], 5000, [[0.1]]) == prior(5000)


def test_equal_replicates_lower_sigma_but_never_to_nothing() -> None:
    found = estimate([[0.05] * 9], 5000)
    assert (found.sigma, found.df) == (pytest.approx(0.03 * math.sqrt(0.04 / 8.04)), pytest.approx(8.04))


def test_replicates_of_more_users_scatter_wider_on_fewer() -> None:
    assert rescaled((0.9, 1.0, 1.1), 20_000, 5000) == pytest.approx((0.8, 1.0, 1.2))


def test_the_half_width_is_the_critical_value_times_the_standard_error() -> None:
    # 10 % false studies of 30 trials: 1 - 0.9^(1/30) = 0.3506 % a trial.
    noise = Sigma(0.01, 8)
    level = 1 - 0.9 ** (1 / 30)
    assert level == pytest.approx(0.003506, abs=1e-6)
    assert half_width(noise, 1, 3) == pytest.approx(t_quantile(1 - level, 8) * 0.01 * math.sqrt(4 / 3))
    assert half_width(noise, 2, 3) < half_width(noise, 1, 3) < half_width(noise, 1, 1)
    assert half_width(noise, 1, 1, false_studies=0.5, trials=1) == pytest.approx(0, abs=1e-9)


def test_a_gain_inside_the_noise_is_tied_and_says_what_would_be_needed() -> None:
    noise = Sigma(0.02, 40)
    needed = half_width(noise, 1, 3)
    found = compare([0.0510], [0.0495, 0.0500, 0.0505], noise)
    assert found.delta == pytest.approx(0.02)
    assert (found.low, found.high) == (pytest.approx(0.02 - needed), pytest.approx(0.02 + needed))
    assert found.verdict == "tied"
    assert found.words == (
        f"+2.0 % against the incumbent is inside seed noise (±{100 * needed:.1f} % needed with 1 against 3 trainings)."
    )


def test_verdicts_change_at_the_loose_and_at_the_critical_value() -> None:
    noise = Sigma(0.02, 40)
    needed = half_width(noise, 1, 1)
    loose = t_quantile(0.9, 40) * 0.02 * math.sqrt(2)
    assert loose < needed
    deltas = [
        -needed - 1e-6,
        -needed + 1e-6,
        -loose - 1e-6,
        0.0,
        loose - 1e-6,
        loose + 1e-6,
        needed - 1e-6,
        needed + 1e-6,
    ]
    verdicts = [compare([1 + delta], [1.0], noise).verdict for delta in deltas]
    assert verdicts == ["worse", "tied", "tied", "tied", "tied", "retest", "retest", "better"]


def test_each_verdict_has_its_sentence() -> None:
    noise = Sigma(0.02, 1000)
    needed = f"±{100 * half_width(noise, 1, 1):.1f} % needed with 1 against 1 training"
    said = {score: compare([score], [1.0], noise).words for score in (0.8, 1.05, 1.2)}
    assert said == {
        0.8: f"-20.0 % against the incumbent is beyond seed noise ({needed}).",
        1.05: f"+5.0 % against the incumbent is promising but not yet beyond seed noise ({needed}).",
        1.2: f"+20.0 % against the incumbent is beyond seed noise ({needed}).",
    }


def test_means_over_seeds_are_compared_and_their_order_is_nothing() -> None:
    noise = Sigma(0.01, 20)
    assert compare([0.04, 0.06], [0.05], noise).delta == pytest.approx(0)
    assert compare([0.05, 0.06], [0.05, 0.04], noise) == compare([0.06, 0.05], [0.04, 0.05], noise)


def test_two_scorings_of_the_same_weights_are_compared_by_pairs() -> None:
    noise = Sigma(0.03, 4)
    found = compare_paired([(0.052, 0.050), (0.045, 0.043)], noise)
    assert found.delta == pytest.approx(0.097 / 0.093 - 1)
    needed = t_quantile(0.9 ** (1 / 30), 4) * 0.03 * PAIRED_SHARE / 2**0.5
    assert found.high - found.delta == pytest.approx(needed)
    assert found.words == (
        "+4.3 % against the incumbent is promising but not yet beyond seed noise (±5.4 % needed with 2 pairs on the "
        "same weights)."
    )
    alone = compare([0.052, 0.045], [0.050, 0.043], noise)
    assert (found.verdict, alone.verdict) == ("retest", "tied")


def test_an_incumbent_at_zero_is_beaten_by_anything_and_tied_by_zero() -> None:
    found = compare([0.05], [0.0], Sigma(0.03, 4))
    assert (found.delta, found.verdict) == (1.0, "better")
    assert compare([0.0], [0.0], Sigma(0.03, 4)).verdict == "tied"
    assert compare([0.0], [0.05], Sigma(0.03, 4)).delta == -1.0
    assert compare_paired([(0.05, 0.0)], Sigma(0.03, 4)).delta == 1.0


@pytest.mark.parametrize(
    ("candidate", "incumbent"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([1.0], [math.inf])]
)
def test_a_side_without_finite_scores_is_refused(candidate: list[float], incumbent: list[float]) -> None:
    with pytest.raises(ValueError, match="a comparison needs finite scores on both sides"):
        compare(candidate, incumbent, Sigma(0.03, 4))


def test_a_study_of_thirty_trials_without_effect_rarely_ends_with_a_false_gain() -> None:
    # Known noise, an incumbent of many seeds, fresh candidates: the chance per study is 10 %; 300 studies, 3 sd = 5 %.
    draw = random.Random(0)
    noise = Sigma(0.02, 1e9)
    needed = half_width(noise, 1, 1000)
    false = sum(any(draw.gauss(0, 0.02) > needed for _ in range(30)) for _ in range(300))
    assert false / 300 == pytest.approx(0.10, abs=0.053)
