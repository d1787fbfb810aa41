"""memory.verdict: one training gets a configuration noticed, fresh seeds decide; and what simulated studies come to."""

import pytest

from benchmarks.noise_floor import asked_for, simulate, summary
from memory.noise import Sigma
from memory.student import f_below
from memory.verdict import FRESH, MOST, Side, two_stage

CALM = Sigma(0.01, 30)
DEFAULT = Side((), (1.0, 1.001, 0.999))


def test_a_lead_of_one_training_is_noticed_and_never_better() -> None:
    assert [two_stage(Side((score,), ()), DEFAULT, CALM).verdict for score in (0.9, 1.0, 1.02, 2.0)] == [
        "worse", "tied", "retest", "retest",
    ]  # fmt: skip


def test_fresh_seeds_decide_without_the_one_that_got_it_noticed() -> None:
    found = two_stage(Side((1.5,), (1.0, 1.0)), DEFAULT, CALM)
    assert (found.verdict, found.delta) == ("tied", pytest.approx(0.0))


def test_fewer_fresh_seeds_are_enough_for_what_is_plainer() -> None:
    found = {gain: [two_stage(Side((1 + gain,), (1 + gain,) * count), DEFAULT, CALM).verdict for count in (1, 2)]
             for gain in (0.03, 0.045, 0.2)}  # fmt: skip
    assert found == {0.03: ["retest", "retest"], 0.045: ["retest", "better"], 0.2: ["better", "better"]}
    five = Side((), (1.0,) * FRESH)
    assert two_stage(Side((1.02,), (0.9,) * FRESH), five, CALM).verdict == "worse"


def test_a_side_with_fewer_fresh_seeds_leaves_it_open() -> None:
    lone = Side((), (1.0,))
    assert two_stage(Side((1.2,), (1.2, 1.19)), lone, CALM).verdict == "retest"
    assert two_stage(Side((1.2,), (1.2, 1.19)), Side((1.1,), (1.0, 1.0)), CALM).verdict == "better"


def test_a_wild_configuration_needs_more_than_a_calm_one() -> None:
    wild, calm = Side((1.2,), (1.0, 1.16)), Side((1.09,), (1.075, 1.085))
    found = [two_stage(side, DEFAULT, CALM) for side in (wild, calm)]
    assert found[0].delta == pytest.approx(found[1].delta)
    assert [one.verdict for one in found] == ["retest", "better"]


def test_it_ends_where_fresh_seeds_are_not_ahead_enough_or_too_many() -> None:
    small = 1 + 0.012
    assert two_stage(Side((small,), (small,) * 2), DEFAULT, CALM).verdict == "retest"
    assert two_stage(Side((small,), (1.001, 1.0)), DEFAULT, CALM).verdict == "tied"
    many = Side((), (1.0,) * FRESH)
    assert two_stage(Side((small,), (1.02, 0.996) * 3 + (small,)), many, CALM).verdict == "tied"
    assert MOST == 7


def test_the_words_say_what_was_compared() -> None:
    assert two_stage(Side((1.02,), ()), DEFAULT, CALM).words == (
        "+2.0 % against the incumbent on the training that got it noticed; fresh seeds decide."
    )
    words = two_stage(Side((1.02,), (1.02,)), DEFAULT, CALM).words
    assert words.startswith("+2.0 % against the incumbent is promising but not yet beyond seed noise (±")
    assert words.endswith("1 fresh seed against 3).")


def test_the_tail_of_f_agrees_with_its_closed_forms() -> None:
    assert f_below(1.0, 2, 4) == pytest.approx(5 / 9)
    assert f_below(3.0, 2, 2) == pytest.approx(0.75)
    assert f_below(1.0, 7.3, 7.3) == pytest.approx(0.5)


def test_simulated_studies_claim_little_without_an_effect_and_find_one_of_three_sigma() -> None:
    found = summary([simulate(one) for one in asked_for(40, False)], [simulate(one) for one in asked_for(40, True)])
    assert found["false"] <= 0.15
    assert found["claimed"] < 0.4
    assert (found["naive_false"], found["naive_claimed"] > 3) == (1.0, True)
    assert found["power"] >= 0.7
