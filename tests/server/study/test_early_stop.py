"""server.study.early_stop: what a training must have reached by each epoch, worked by hand."""

from __future__ import annotations

import pytest

from server.study.early_stop import RULE, Curve, Rule, curve, stop_below, stop_message
from trainers.contract.wire import TrialResult, TrialSpec

PLAIN = Rule(slack=0.4, lengths=1.0, sigmas=2.0, grace=1, needed=2)
FAST = (0.02, 0.04, 0.06, 0.07, 0.075, 0.08, 0.08, 0.08, 0.08, 0.08, 0.08, 0.08)
SLOW = (0.01, 0.02, 0.03, 0.039, 0.046, 0.053, 0.06, 0.067, 0.074, 0.081, 0.087, 0.091)
"""Half as good as FAST at first, and in the end better by a seventh."""


def whole(name: str, *validation: float) -> Curve:
    found = curve(name, validation, complete=True)
    assert found is not None
    return found


PAIR = [whole("a", 0.1, 0.2, 0.3, 0.4), whole("b", 0.2, 0.4, 0.4, 0.4)]
QUICK = [whole(str(number), *FAST) for number in range(RULE.needed)]


def ended_at(asked: tuple[float, ...], validation: tuple[float, ...]) -> int | None:
    """The epoch after which the trainer stops such a training."""
    bests = [max(validation[:epoch]) for epoch in range(1, len(validation) + 1)]
    return next((epoch for epoch, (best, least) in enumerate(zip(bests, asked, strict=True), 1) if best < least), None)


def test_a_curve_is_the_best_so_far() -> None:
    assert curve("a", [0.1, 0.3, 0.2], complete=False) == Curve("a", (0.1, 0.3, 0.3), False)
    assert curve("a", [], complete=True) is None


def test_the_median_at_equal_epochs_less_what_is_forgiven() -> None:
    """Both are 4 epochs long. At epoch 2 the median is 0.3, and 0.4 * (1 - 2/4) + 2 * 0.05 = 0.3 of it is forgiven."""
    asked = stop_below(PAIR, 0.05, 6, PLAIN)
    assert asked == pytest.approx((0, 0.3 * 0.7, 0.35 * 0.8, 0.4 * 0.9, 0.4 * 0.9, 0.4 * 0.9))


def test_more_noise_asks_less_and_great_noise_nothing() -> None:
    asked = [stop_below(PAIR, sigma, 4, PLAIN)[1:] for sigma in (0.0, 0.05, 0.1)]
    assert all(a > b > c for a, b, c in zip(*asked, strict=True))
    assert stop_below(PAIR, 0.5, 4, PLAIN) == ()


def test_too_few_configurations_ask_nothing() -> None:
    """Seeds of one configuration are one; what was stopped is none."""
    stopped = Curve("c", (0.1, 0.1), complete=False)
    assert stop_below([], 0.01, 5, PLAIN) == ()
    assert stop_below([whole("a", 0.1, 0.2), whole("a", 0.1, 0.3), stopped], 0.01, 5, PLAIN) == ()
    assert stop_below(QUICK[1:], 0.01, 12) == ()
    assert stop_below(QUICK, 0.01, 12) != ()


def test_the_first_epochs_are_free() -> None:
    asked = stop_below(QUICK, 0.01, 12)
    assert asked[: RULE.grace] == (0.0,) * RULE.grace
    assert all(asked[RULE.grace :])
    assert stop_below(QUICK, 0.01, RULE.grace) == ()


def test_seeds_of_a_configuration_count_as_their_mean() -> None:
    earlier = [whole("a", 0.1, 0.2), whole("a", 0.1, 0.4), whole("b", 0.1, 0.5)]
    assert stop_below(earlier, 0.0, 2, PLAIN)[1] == pytest.approx((0.3 + 0.5) / 2)


def test_a_stopped_training_counts_as_far_as_it_came_and_is_not_drawn_out() -> None:
    earlier = [whole("a", 0.4, 0.4, 0.4, 0.4), whole("b", *(0.6,) * 4), Curve("c", (0.1, 0.1), complete=False)]
    assert stop_below(earlier, 0.0, 4, PLAIN) == pytest.approx((0, 0.4 * 0.8, 0.5 * 0.9, 0.5))


def test_a_seed_that_ran_to_its_end_stands_for_one_that_was_stopped() -> None:
    stopped = Curve("b", (0.1, 0.1), complete=False)
    assert stop_below([*PAIR, stopped], 0.0, 2, PLAIN) == stop_below(PAIR, 0.0, 2, PLAIN)


def test_a_slow_starter_that_wins_in_the_end_goes_on() -> None:
    assert ended_at(stop_below(QUICK, 0.03, len(SLOW)), SLOW) is None


def test_a_training_that_never_comes_near_is_stopped() -> None:
    asked = stop_below(QUICK, 0.03, len(FAST))
    assert ended_at(asked, tuple(score * 0.4 for score in FAST)) == RULE.grace + 1
    assert ended_at(asked, tuple(score * 0.8 for score in FAST)) is None


def test_scores_of_zero_ask_nothing() -> None:
    assert stop_below([whole(name, 0.0, 0.0, 0.0) for name in "abcd"], 0.01, 3, PLAIN) == ()


def test_the_reason_names_the_epoch_and_both_numbers() -> None:
    spec = TrialSpec(
        trial_id="t-1", backbone="sasrec", config={}, seed=0, dataset_hash="abc", threads=1, stop_below=(0.0, 0.05)
    )
    result = TrialResult(trial_id="t-1", status="stopped", validation={"ndcg@10": 0.02}, best_epoch=1, epochs=2)
    assert stop_message(spec, result) == (
        "stopped early at epoch 2: ndcg@10 was 0.0200 at best, below the 0.0500 that the study's earlier trainings ask "
        "for by then"
    )
