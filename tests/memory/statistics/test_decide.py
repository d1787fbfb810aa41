"""memory.statistics.decide: the rule, worked by hand with a flat prior, and as it is shipped."""

import math
from collections.abc import Sequence

import pytest

from memory.statistics.decide import MOST, OPEN, SURE, Contender, Rule, Verdict, measured
from memory.statistics.noise import PAIRED_SHARE, Sigma
from memory.statistics.recorded import Gains, Recorded, recorded
from memory.statistics.t_distribution import t_quantile

BEST = math.log(0.05)
FLAT = Recorded(
    version=1, command="by hand", metric="ndcg@10", tables=(), sigma=0.03, df=8.0, excess=((-0.5, 0.04), (-0.1, 0.0)),
    gains=Gains(scales=(50.0,), down=(0.5,), up=(0.5,)),
)  # fmt: skip
NOISE = Sigma(0.03, 12)


def one(number: int, *gains: float, family: str = "") -> Contender:
    """A configuration whose trainings lie by `gains` (logs) above the best of the study."""
    scores = {f"t-{number}-{seed}": BEST + gain for seed, gain in enumerate(gains)}
    return Contender(number, family or str(number), scores)


def rule(known: Recorded = FLAT, noise: Sigma = NOISE, min_gain: float | None = None) -> Rule:
    return Rule(noise, BEST, min_gain, known)


def share(log: float) -> float:
    return math.expm1(log)


def test_a_gain_is_that_of_the_mean_logs_with_students_interval() -> None:
    found = rule().compare(one(1, 0.04, 0.06), one(0, 0.0, 0.01, -0.01))
    half = t_quantile(0.95, 12) * 0.03 * math.sqrt(1 / 2 + 1 / 3)
    assert found.observed == pytest.approx(share(0.05))
    assert found.gain == pytest.approx(share(0.05), abs=1e-3)
    assert found.low == pytest.approx(share(0.05 - half), abs=1.5e-3)
    assert found.high == pytest.approx(share(0.05 + half), abs=1.5e-3)
    assert (found.trainings, found.paired) == ((2, 3), False)


def test_the_other_way_round_is_the_opposite() -> None:
    ahead, behind = one(1, 0.04, 0.06), one(0, 0.0)
    for known in (FLAT, recorded()):  # what was recorded leans, and by which was tried first, not by which is asked
        there, back = rule(known).compare(ahead, behind), rule(known).compare(behind, ahead)
        assert math.log1p(back.gain) == pytest.approx(-math.log1p(there.gain), abs=1e-4)
        assert math.log1p(back.low) == pytest.approx(-math.log1p(there.high), abs=1e-4)
        assert back.chance == pytest.approx(1 - there.chance, abs=1e-4)


def test_what_was_tried_later_has_to_show_that_it_is_better() -> None:
    ahead, behind = one(1, 0.03), one(0, 0.0)
    later, earlier = one(1, 0.0), one(0, 0.03)
    assert rule(recorded()).compare(ahead, behind).chance < rule(recorded()).compare(earlier, later).chance


@pytest.mark.parametrize(
    ("chance", "verdict"),
    [
        (SURE + 0.006, "better"), (SURE - 0.006, "likely better"), (0.806, "likely better"), (0.794, "undecided"),
        (0.5, "undecided"), (0.206, "undecided"), (0.194, "likely worse"), (1.006 - SURE, "likely worse"),
        (0.994 - SURE, "worse"),
    ],
)  # fmt: skip
def test_each_verdict_begins_at_its_chance(chance: float, verdict: Verdict) -> None:
    gain = math.copysign(t_quantile(max(chance, 1 - chance), 12), chance - 0.5) * 0.03 * math.sqrt(2)
    found = rule(min_gain=1e-6).compare(one(1, gain), one(0, 0.0))
    assert found.chance == pytest.approx(chance, abs=0.005)
    assert found.verdict == verdict


def test_equivalent_is_an_interval_inside_what_matters_whatever_its_sign() -> None:
    same, small = ([0.0] * 40, [0.02] * 40)
    half = t_quantile(0.95, 12) * 0.03 * math.sqrt(2 / 40)
    edge = share(0.02 + half)
    for sign in (1, -1):
        pair = one(1, *[sign * gain for gain in small]), one(0, *same)
        assert rule(min_gain=1.1 * edge).compare(*pair).verdict == "equivalent"
        assert rule(min_gain=0.9 * edge).compare(*pair).verdict == ("better" if sign > 0 else "worse")


def test_what_matters_is_two_sigmas_and_at_least_two_per_cent_unless_the_study_says() -> None:
    assert rule(noise=Sigma(0.03, 9)).matters == 0.06
    assert rule(noise=Sigma(0.006, 9)).matters == 0.02
    assert rule(min_gain=0.001).matters == 0.001


def test_a_configuration_far_below_the_best_has_the_noise_of_its_level() -> None:
    near, far = rule().compare(one(1, -0.05), one(0, 0.0)), rule().compare(one(1, -0.5), one(0, 0.0))
    width = [math.log1p(found.high) - math.log1p(found.low) for found in (near, far)]
    assert (
        1.2 < width[1] / width[0] < math.sqrt((0.05**2 / 0.03**2 + 1) / 2)
    )  # it narrows upwards, where noise is smaller


def test_a_rival_whose_own_seeds_scatter_too_widely_has_a_noise_of_its_own() -> None:
    found = rule().compare(one(1, 0.3), one(0, -0.1, 0.0, 0.1))
    # Squares of 0.02 on 2 df beside 4 df of 0.03: 0.0627 on 6 df. With 0.03 on 12 df, Welch: 0.0470 on 13.8 df.
    half = t_quantile(0.95, 13.8) * math.sqrt(0.03**2 + (4 * 0.03**2 + 0.02) / 6 / 3)
    assert found.low == pytest.approx(share(0.3 - half), abs=3e-3)
    assert found.high == pytest.approx(share(0.3 + half), abs=3e-3)


def test_a_lead_far_beyond_the_noise_near_the_best_is_no_luck_of_a_wide_level() -> None:
    # At a level where a seed scatters by 23 %, a lead of 80 % on one seed each is sure all the same.
    wide = FLAT.model_copy(update={"excess": ((-0.5, 0.23), (-0.1, 0.0))})
    found = rule(wide).compare(one(1, 0.0), one(0, -math.log(1.8)))
    assert found.verdict == "better"
    assert found.chance > 0.999


def test_a_seed_that_never_started_does_not_count() -> None:
    stuck = one(1, 0.05, 0.06, -2.0)
    assert stuck.not_started == 1
    assert rule().compare(stuck, one(0, 0.0)) == rule().compare(one(1, 0.05, 0.06), one(0, 0.0))


def scorings(*shifts: float) -> tuple[Contender, Contender]:
    """A configuration of three seeds, and a scoring of its best weights that gains `shifts` on each of them."""
    trained = {"t-a": BEST - 0.03, "t-b": BEST + 0.03, "t-c": BEST}
    scored = {name: trained[name] + shift for name, shift in zip(("t-b", "t-c"), shifts, strict=False)}
    first, second = measured([Contender(0, "f", trained), Contender(1, "f", scored)])
    return first, second


def test_scorings_of_the_same_weights_are_compared_by_pairs() -> None:
    trained, scored = scorings(0.02, 0.04)
    found = rule().compare(scored, trained)
    half = t_quantile(0.95, 12) * PAIRED_SHARE * 0.03 / math.sqrt(2)
    assert (found.trainings, found.paired) == ((2, 2), True)
    assert found.observed == pytest.approx(share(0.03))
    assert found.high == pytest.approx(share(0.03 + half), abs=1.5e-3)


def test_a_scoring_of_lucky_weights_is_not_taken_for_their_luck() -> None:
    trained, scored = scorings(0.001)
    assert scored.mean == pytest.approx(trained.mean + 0.001)
    other = one(2, 0.01, 0.02, 0.015)
    assert rule().compare(scored, other).observed < 0
    assert rule(recorded()).leader([trained, scored]) is trained


def test_the_level_of_a_scoring_is_known_less_well_than_that_of_its_weights() -> None:
    trained, scored = scorings(0.0)
    other = one(2, 0.0, 0.0, 0.0)
    widths = [found.high - found.low for found in (rule().compare(side, other) for side in (trained, scored))]
    assert widths[1] / widths[0] == pytest.approx(math.sqrt((2 / 3 + 0.25) / (2 / 3)), rel=0.02)


def test_configurations_of_other_trainings_are_no_family() -> None:
    first, second = measured([one(0, 0.0), one(1, 0.1)])
    assert (first.like, second.like) == (None, None)
    assert not rule().compare(first, second).paired


def leads(*found: Contender, known: Recorded | None = None) -> int:
    leader = rule(known or recorded()).leader(found)
    assert leader is not None
    return leader.number


def test_a_lead_on_one_seed_inside_the_noise_is_no_lead() -> None:
    default = one(0, 0.0, 0.001, -0.001)
    assert leads(default, one(1, 0.02)) == 0
    assert leads(default, one(1, 0.15)) == 1
    assert leads(default, one(1, 0.012), known=FLAT) == 1  # by Student's t alone its chance is 0.63
    assert leads(default, one(1, 0.006), known=FLAT) == 0  # and here 0.57


def test_the_lead_passes_on_in_the_order_of_trial() -> None:
    default = one(0, 0.0, 0.0, 0.0)
    assert leads(default, one(1, 0.2, 0.2), one(2, 0.1, 0.1), one(3, 0.21)) == 1
    assert leads(default, one(1, 0.2, 0.2), one(2, 0.5, 0.5), one(3, -0.2)) == 2
    assert rule().leader([]) is None


def settled(candidate: Sequence[float], rival: Sequence[float], min_gain: float = 0.01) -> tuple[int, int] | None:
    found = rule(min_gain=min_gain).settling(one(1, *candidate), one(0, *rival))
    assert found is None or found.verdict == ("better" if min_gain < 0.05 else "equivalent")
    return None if found is None else (found.candidate, found.rival)


def test_settling_takes_the_fewest_trainings_that_decide_if_the_gain_stays() -> None:
    # By Student's t the gain of 0.05 is beyond SURE once 0.05 / (0.03 sqrt(1/a + 1/b)) > t(SURE, 12).
    needed = (0.03 * t_quantile(SURE, 12) / 0.05) ** 2
    assert 1 / (1 / 2 + 1 / 3) < needed < 1 / (1 / 3 + 1 / 3)
    assert settled([0.05], [0.0, 0.0, 0.0]) == (2, 0)
    assert settled([0.05, 0.05, 0.05], [0.0]) == (0, 2)
    assert settled([0.05, 0.05, 0.05], [0.0, 0.0, 0.0]) is None  # better already
    assert settled([0.05], [0.0]) == (2, 2)
    assert settled([0.001], [0.0], min_gain=0.06) is not None  # it would be shown equivalent


def test_nothing_settles_what_is_decided_hopeless_or_endless() -> None:
    assert settled([0.5], [0.0]) is None
    behind = -t_quantile(1 - OPEN, 12) * 0.03 * math.sqrt(2)
    assert settled([behind - 0.002], [0.0]) is None
    assert settled([behind + 0.002], [0.0]) is not None or MOST < 40
    assert settled([0.004], [0.0]) is None


def test_pairs_are_settled_by_pairs() -> None:
    trained, scored = scorings(0.025)
    found = rule(min_gain=0.001).settling(scored, trained)
    needed = math.ceil((PAIRED_SHARE * 0.03 * t_quantile(SURE, 12) / 0.025) ** 2)
    assert needed > 1
    assert found is not None
    assert (found.candidate, found.rival) == (needed - 1, needed - 1)


def following(*found: Contender) -> int | None:
    one_more = rule(min_gain=0.02).next_training(found)
    return None if one_more is None else one_more.number


def test_the_next_training_is_of_the_side_that_is_known_least() -> None:
    assert following(one(0, 0.0, 0.0, 0.0), one(1, -0.01)) == 1
    assert following(one(0, 0.0), one(1, -0.01, -0.01, -0.01)) == 0


def test_the_next_training_is_for_the_rival_that_may_best_be_better_still() -> None:
    default = one(0, *[0.0] * 9)
    assert following(default, one(1, -0.03), one(2, -0.01), one(3, -0.03)) == 2


def test_nothing_is_trained_for_what_is_decided_or_hopeless() -> None:
    default = one(0, *[0.0] * 30)
    assert following() is None
    assert following(default) is None
    assert following(default, one(1, -0.2), one(2, *[0.0] * 30)) is None  # one is worse, the other equivalent
    default = one(0, *[0.0] * 9)
    assert following(default, one(1, -0.06)) is None  # a chance of 0.041
    assert following(default, one(1, -0.055)) == 1  # and of 0.054
