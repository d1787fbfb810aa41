"""memory.statistics.final: the last interval, by hand and by simulation."""

import math

import numpy as np
import pytest

from memory.statistics.final import FinalGain, final_gain, noise_of_test, user_variance
from memory.statistics.noise import PAIRED_SHARE, Sigma
from memory.statistics.recorded import recorded
from memory.statistics.t_distribution import t_quantile

NOISE = Sigma(0.03, 12)
FLAT = recorded().model_copy(update={"excess": ((0.0, 0.0),)})
"""A prior by which noise is the same at every level."""


def logs(found: FinalGain) -> tuple[float, float, float]:
    return math.log1p(found.gain), math.log1p(found.low), math.log1p(found.high)


def test_the_interval_is_that_of_one_comparison_of_mean_logs() -> None:
    found = final_gain([0.06, 0.06 * math.exp(0.02)], [0.05], NOISE, 5000, known=FLAT)
    gain = math.log(0.06 / 0.05) + 0.01
    half = t_quantile(0.975, 12) * 0.03 * math.sqrt(1 / 2 + 1)
    assert logs(found) == pytest.approx((gain, gain - half, gain + half))


def test_chosen_and_default_are_not_interchanged() -> None:
    up, down = (
        final_gain(*sides, NOISE, 5000, known=FLAT) for sides in (([0.06, 0.06], [0.05]), ([0.05], [0.06, 0.06]))
    )
    assert up.gain == pytest.approx(0.2)
    assert down.gain == pytest.approx(-1 / 6)
    assert logs(up)[1] == pytest.approx(-logs(down)[2])


def test_users_widen_it_and_are_known_better_than_seeds() -> None:
    # Seeds 0.0018, users 0.0009: half as much again; degrees of freedom 12 * (3 / 2)^2 = 27.
    found = final_gain([0.05], [0.05], NOISE, 5000, user_variance=0.0009)
    assert math.log1p(found.high) == pytest.approx(t_quantile(0.975, 27) * math.sqrt(0.0027))
    assert found.gain == 0


@pytest.mark.parametrize(
    ("score", "beats"),
    [(0.09, True), (0.055, True), (0.0547, None), (0.05, None), (0.0457, None), (0.0454, False), (0.03, False)],
)
def test_it_says_whether_the_chosen_beats_the_default(score: float, beats: bool | None) -> None:
    # Half width 2.1788 * 0.03 * sqrt(2) = 0.0924 in logs: from 0.04559 to 0.05484.
    assert final_gain([score], [0.05], NOISE, 5000, known=FLAT).beats is beats


def test_a_side_far_below_the_other_scatters_more() -> None:
    known = recorded().model_copy(update={"excess": ((-0.5, 2 * math.sqrt(3) * 0.03), (0.0, 0.0))})
    scores = [0.05], [0.05 * math.exp(-0.3)]
    found = final_gain(*scores, NOISE, 5000, below=(0.0, -0.25), known=known)
    half = t_quantile(0.975, 12) * 0.03 * math.sqrt(1 + 2**2)  # half-way down on validation: twice the noise
    assert logs(found) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert final_gain(*scores, NOISE, 5000, below=(-0.25, 0.0), known=known).low == pytest.approx(found.low)
    assert final_gain(*scores, NOISE, 5000, known=known).low > found.low


def test_scores_of_the_same_weights_are_compared_in_pairs() -> None:
    found = final_gain([0.066, 0.055], [0.06, 0.05], NOISE, 5000, paired=True)
    # Both gain 10 %, so nothing scatters: the prior of 12 degrees of freedom with one more of none.
    sigma = PAIRED_SHARE * 0.03 * math.sqrt(12 / 13)
    half = t_quantile(0.975, 13) * sigma / math.sqrt(2)
    assert logs(found) == pytest.approx((math.log(1.1), math.log(1.1) - half, math.log(1.1) + half), rel=1e-3)


def test_a_test_score_of_nothing_still_has_an_interval() -> None:
    found = final_gain([0.05], [0.0], NOISE, 200)
    assert found.gain == pytest.approx(0.05 / 0.0025 - 1)
    assert found.low > -1


def test_the_noise_of_a_test_is_that_of_validation_scaled_to_its_users_and_corrected_by_its_replicates() -> None:
    scaled = noise_of_test(NOISE, 5000, 1250, [])
    assert (scaled.sigma, scaled.df) == (pytest.approx(0.06), 12)
    # Two pairs, 0.12 apart each: squares 2 * 0.12^2 / 2 with 2 degrees of freedom.
    pairs = [[0.05, 0.05 * math.exp(0.12)], [0.04, 0.04 * math.exp(0.12)]]
    found = noise_of_test(Sigma(0.06, 12), 5000, 5000, pairs)
    assert found.sigma < 0.12 / math.sqrt(2)
    assert found.df == 14


def test_by_hand_a_user_counts_by_its_value_over_the_mean() -> None:
    # Means 0.5 and 0.25: over their means 2 2 0 0 and 4 0 0 0; differences -2 2 0 0, variance 8 / 3 of four users.
    first, second = np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 0, 0])
    assert user_variance([first], [second]) == pytest.approx(8 / 3 / 4)
    # What two seeds of one side disagree about is seed noise: w = 4 0 0 0 and 0 4 0 0, mean 2 2 0 0, residual
    # (8 + 8) / 4 / 2 = 2; differences from 4 0 0 0 are -2 2 0 0 again, so 8 / 3 - 2 is left.
    third = np.array([0.0, 1, 0, 0])
    assert user_variance([second, third], [second]) == pytest.approx((8 / 3 - 2) / 4)
    # A tested seed that is not reported tells of it, too, on either side.
    assert user_variance([first], [second], more=([first], [])) == pytest.approx(8 / 3 / 4)
    assert user_variance([third], [first], more=([second], [])) == 0  # (8 / 3 - 4) / 4 is none
    assert user_variance([first], [third], more=([], [second])) == 0
    assert user_variance([second, third], [second, third], paired=True) == 0


def test_a_side_without_a_hit_counts_as_half_a_hit() -> None:
    nothing, some = np.zeros(100), np.concatenate([np.ones(25), np.zeros(75)])
    assert user_variance([some], [nothing]) == pytest.approx(2 + 3 * 100 / 99 / 100)


def test_a_deterministic_trainer_does_not_win_by_four_hits() -> None:
    # Recall: 55 and 59 hits among 986 users, 40 of them the same; no seed scatters, so only users can tell.
    default, chosen = np.zeros(986), np.zeros(986)
    default[:55] = chosen[15:74] = 1
    replicates = [[59 / 986] * 3, [55 / 986] * 3]
    noise = noise_of_test(Sigma(0.005, 30), 986, 986, replicates)
    spread = user_variance([chosen] * 3, [default] * 3)
    found = final_gain([59 / 986] * 3, [55 / 986] * 3, noise, 986, spread)
    assert found.beats is None
    assert spread == pytest.approx((15 / 55**2 + 19 / 59**2), rel=0.1)  # what is hit by one side alone


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_the_variance_of_users_is_that_of_drawing_them_anew(seeds: int) -> None:
    # score = 1 + user + seed x user; the two sides differ for each user with a standard deviation of 0.8.
    random = np.random.default_rng(seeds)
    found: list[float] = []
    for _ in range(300):
        shift = random.normal(0, 0.8, 400)
        base = random.normal(0, 0.5, 400)
        chosen = [5 + base + shift + random.normal(0, 1, 400) for _ in range(seeds)]
        default = [5 + base + random.normal(0, 1, 400) for _ in range(seeds)]
        found.append(user_variance(chosen, default))
    residual = 2 / seeds if seeds == 1 else 0.0  # what one seed alone cannot tell from users stays in
    assert np.mean(found) == pytest.approx((0.8**2 + residual) / 25 / 400, rel=0.05)


def test_seeds_crossed_with_users_cover_the_truth() -> None:
    # Hits of 1,000 users, 30 % noise of each side's own taste by user, 5 % by seed; two reported seeds and one more.
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        base = random.beta(0.8, 7.2, 1000)
        sides: list[list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = []
        for _ in range(2):
            taste = np.clip(base * np.exp(random.normal(-0.045, 0.3, 1000)), 0, 1)
            sides.append(
                [(random.random(1000) < taste * math.exp(random.normal(0, 0.05))).astype(float) for _ in range(3)]
            )
        by_chance = math.sqrt(float((base * (1 - base)).sum())) / float(base.sum())
        replicates = [[float(values.mean()) for values in side] for side in sides]
        noise = noise_of_test(Sigma(math.hypot(0.05, by_chance), 20), 1000, 1000, replicates)
        users = user_variance(sides[0][:2], sides[1][:2], more=(sides[0][2:], sides[1][2:]))
        covered += final_gain(replicates[0][:2], replicates[1][:2], noise, 1000, users).beats is None
    assert 0.92 <= covered / 300 <= 0.98
