"""memory.statistics.noise: sigma by hand, and which trainings it is measured on."""

import math

import pytest

from memory.statistics.noise import (
    EARLIER_DF,
    FLOOR,
    Sigma,
    estimate,
    excess,
    half_width,
    log_score,
    of_configuration,
    prior,
    relative,
    rescaled,
    started,
)
from memory.statistics.recorded import Gains, Recorded
from memory.statistics.t_distribution import f_below, t_quantile

KNOWN = Recorded(
    version=1, command="by hand", metric="ndcg@10", tables=(), sigma=0.03, df=8.0,
    excess=((-1.0, 0.16), (-0.5, 0.04), (-0.1, 0.0)), gains=Gains(scales=(1.0,), down=(0.5,), up=(0.5,)),
)  # fmt: skip


def scattered(centre: float, *logs: float) -> list[float]:
    """Scores around `centre` whose logs differ from its own by `logs`."""
    return [centre * math.exp(log) for log in logs]


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


def test_the_prior_is_stated_at_5000_users_and_falls_with_their_root_down_to_a_floor() -> None:
    assert prior(5000, KNOWN) == Sigma(0.03, 8)
    assert prior(20_000, KNOWN).sigma == pytest.approx(0.015)
    assert prior(1250, KNOWN).sigma == pytest.approx(0.06)
    assert prior(10_000_000, KNOWN).sigma == FLOOR == 0.005
    assert math.isfinite(prior(0, KNOWN).sigma)


@pytest.mark.parametrize(
    ("below", "beyond"), [(0.0, 0), (-0.1, 0), (-0.3, 0.02), (-0.5, 0.04), (-0.75, 0.1), (-9.0, 0.16)]
)
def test_below_the_best_noise_grows_along_the_recorded_line(below: float, beyond: float) -> None:
    assert excess(below, KNOWN) == pytest.approx(beyond)


def test_a_configuration_below_the_best_has_that_beyond_the_noise_of_the_study() -> None:
    found = of_configuration([-3.0], Sigma(0.03, 8), 0.04)
    assert (found.sigma, found.df) == (pytest.approx(0.05), 8)


def test_without_replicates_sigma_is_the_prior() -> None:
    assert estimate([], 5000, known=KNOWN) == prior(5000, KNOWN)
    assert estimate([[0.05], []], 5000, known=KNOWN) == prior(5000, KNOWN)


def test_replicates_that_agree_are_pooled_with_the_whole_prior() -> None:
    # Logs -0.03, 0, 0.03: squares 0.0018 on 2 df, as large as the prior says.
    found = estimate([scattered(0.05, -0.03, 0, 0.03), [7]], 5000, best=0.05, known=KNOWN)
    assert (found.sigma, found.df) == (pytest.approx(0.03), 10)
    # And logs -0.02, 0.02: squares 0.0026 on 3 df.
    found = estimate([scattered(0.05, -0.03, 0, 0.03), scattered(0.05, -0.02, 0.02)], 5000, known=KNOWN)
    assert (found.sigma, found.df) == (pytest.approx(math.sqrt((8 * 0.0009 + 0.0026) / 11)), 11)


def test_a_prior_that_replicates_contradict_fades_by_how_much_they_do() -> None:
    # Logs -0.06, 0, 0.06 four times: squares 0.0288 on 8 df, an F ratio of 4 on 8 and 8 df.
    groups = [scattered(0.05, -0.06, 0, 0.06)] * 4
    kept = 2 * (1 - f_below(4.0, 8, 8)) / 0.1
    assert 0.6 < kept < 0.7
    found = estimate(groups, 5000, known=KNOWN)
    assert found.df == pytest.approx(8 * kept + 8)
    assert found.sigma == pytest.approx(math.sqrt((8 * kept * 0.0009 + 0.0288) / (8 * kept + 8)))


def test_noise_far_below_the_best_is_measured_in_the_noise_that_is_usual_there() -> None:
    # At exp(-0.5) of the best 0.03 and 0.04 give 0.05: logs of +-0.05 there say what +-0.03 say near the best.
    low = scattered(0.05 * math.exp(-0.5), -0.05, 0, 0.05)
    assert estimate([low], 5000, best=0.05, known=KNOWN).sigma == pytest.approx(0.03)
    assert estimate([low], 5000, known=KNOWN).sigma > 0.03  # on its own it is the best


def test_a_seed_that_never_started_says_nothing_of_the_noise() -> None:
    assert started([-3.0, -3.01, -4.02, -9.0]) == (-3.0, -3.01)
    assert started([-3.0, -3.99]) == (-3.0, -3.99)
    assert started([]) == ()
    calm, stuck = scattered(0.05, -0.03, 0, 0.03), [*scattered(0.05, -0.03, 0, 0.03), 0.001]
    assert estimate([stuck], 5000, known=KNOWN) == estimate([calm], 5000, known=KNOWN)


def test_sigma_is_relative_so_the_unit_of_the_metric_is_nothing() -> None:
    groups = [[0.050, 0.052, 0.051], [0.060, 0.058]]
    hundredfold = [[100 * score for score in group] for group in groups]
    assert estimate(groups, 9000).sigma == pytest.approx(estimate(hundredfold, 9000).sigma)


def test_earlier_studies_count_for_so_many_degrees_of_freedom_at_most() -> None:
    groups = [scattered(0.05, -0.03, 0.03)] * 40  # squares of 0.0018 on 1 df each
    few, many = (estimate([], 5000, groups[:count], known=KNOWN) for count in (3, 40))
    assert few.df == pytest.approx(8 + 3)
    assert few.sigma == pytest.approx(math.sqrt((8 * 0.0009 + 3 * 0.0018) / 11))
    assert many.df <= 8 + EARLIER_DF
    assert many.sigma**2 * many.df == pytest.approx((many.df - EARLIER_DF) * 0.0009 + EARLIER_DF * 0.0018)


def test_groups_that_say_nothing_change_nothing() -> None:
    found = estimate([[0.0, 0.0], [math.nan, 0.5], [math.inf]], 5000, [[0.1]], known=KNOWN)
    assert found.df == pytest.approx(8 * min(1, 2 * f_below(1e-300, 1, 8) / 0.1) + 1, abs=0.5)
    assert estimate([[math.nan, 0.5], [math.inf]], 5000, [[0.1]], known=KNOWN) == prior(5000, KNOWN)


def test_equal_replicates_lower_sigma_but_never_below_the_floor_that_few_users_leave() -> None:
    equal = [[0.05] * 9] * 9
    assert estimate(equal, 5000, known=KNOWN).sigma == FLOOR
    assert 0 < estimate(equal, 200_000, known=KNOWN).sigma < FLOOR


def test_a_score_of_nothing_counts_as_half_a_hit() -> None:
    assert log_score(0.0, 200) == pytest.approx(math.log(0.0025))
    assert log_score(0.05, 200) == pytest.approx(math.log(0.05))
    assert math.isfinite(log_score(0.0, 0))


def test_a_configuration_has_the_noise_of_its_level_unless_its_own_seeds_contradict_it() -> None:
    noise = Sigma(0.03, 10)
    assert of_configuration([-3.0], noise, 0.0) == noise
    assert of_configuration([-3.0, -2.95, -3.04], noise, 0.04) == Sigma(0.05, 10)
    wild = [-3.2, -3.0, -2.8]  # squares 0.08 on 2 df: an F ratio of 44
    assert of_configuration(wild, noise, 0.0).sigma == pytest.approx(math.sqrt((4 * 0.0009 + 0.08) / 6))
    assert of_configuration(wild, noise, 0.0).df == 6
    edge = math.sqrt(2) * 0.03  # two seeds this far from their mean have an F ratio of 4: usual for 1 and 10 df
    assert of_configuration([-3 - edge, -3 + edge], noise, 0.0) == noise
    calm = [-3.0, -3.0001, -3.0002]
    assert of_configuration(calm, noise, 0.0) == noise


def test_replicates_of_more_users_scatter_wider_on_fewer() -> None:
    assert rescaled((0.9, 1.0, 1.1), 20_000, 5000) == pytest.approx((0.8, 1.0, 1.2))


def test_the_half_width_is_students_quantile_times_the_standard_error() -> None:
    noise = Sigma(0.01, 8)
    assert half_width(noise, 1, 3) == pytest.approx(t_quantile(0.95, 8) * 0.01 * math.sqrt(4 / 3))
    assert half_width(noise, 2, 2, 0.99) == pytest.approx(t_quantile(0.995, 8) * 0.01)


def test_a_log_gain_is_a_share_and_never_below_all() -> None:
    assert relative(math.log(1.05)) == pytest.approx(0.05)
    assert relative(-50.0) == pytest.approx(-1)
    assert relative(-50.0) >= -1
