"""server.study.confirming: how many fresh seeds, which, what is kept for them, and what the test is reported over."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from memory.records import Closing, NewTrial, Reveal, Study, Trial
from memory.statistics.final import FinalGain
from server.study import admission, confirming
from server.study.admission import ProtocolError, training_fingerprint
from server.study.history import StudyHistory
from tests.support.examples import BEGAN, study, trial
from trainers.contract.space import Config

LESS: Config = {"dropout": 0.1}
RESCORED: Config = {"transition_alpha": 0.5}
"""Differs from the default in scoring only."""


def timed(number: int, seconds: float = 8.0, **values: Any) -> Trial:
    return trial(number, 0.05, seconds=seconds, eval_seconds=2.0, **values)


def printed(number: int, score: float | None, changes: Config, seed: int = 0, **values: Any) -> Trial:
    """A trial with the fingerprint that the server would give it."""
    made = trial(number, score, changes=changes, seed=seed, **values)
    return made.model_copy(update={"fingerprint": training_fingerprint(study(), made.config, seed)})


def chosen_config(changes: Config = LESS) -> Config:
    space = study().space
    return space.apply(space.default(), changes)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({}, 0.0),
        ({"budget_seconds": 160.0}, 40.0),  # two of either side, ten seconds each
        ({"budget_seconds": 159.0}, 20.0),  # more than a quarter: one
        ({"budget_seconds": 79.0}, 0.0),
        ({"gpu_seconds": 100.0, "budget_seconds": 1000.0}, 20.0),
        ({"budget_seconds": 30.0, "confirm_seeds": 3}, 60.0),
        ({"budget_seconds": 1000.0, "confirm_seeds": 0}, 0.0),
        ({"budget_seconds": 1000.0, "closing": True}, 0.0),
    ],
)
def test_an_open_study_keeps_room_for_its_fresh_seeds(limits: dict[str, Any], kept: float) -> None:
    trials = [timed(0), timed(1, 6.0, changes=LESS), timed(2, 900.0, changes={"dropout": 0.3})]
    assert confirming.kept_seconds(study(**limits), trials) == kept


def test_what_reused_weights_crashed_or_was_replayed_says_nothing_of_a_training_s_seconds() -> None:
    trials = [
        timed(0), timed(1, 1.0, changes=LESS, weights_of="t-0"), trial(2, None, seconds=900.0, changes={"dropout": 0.3})
    ]  # fmt: skip
    assert confirming.usual_seconds(study(), trials) == 10.0
    assert confirming.usual_seconds(study(), [timed(0, versions={"replay": "recorded"})]) == 0.0


def test_a_trial_is_refused_once_the_rest_is_kept_and_the_line_says_so() -> None:
    of, trials = study(budget_seconds=160.0), [timed(0)]
    kept = confirming.kept_seconds(of, trials)
    late = BEGAN + timedelta(seconds=119)
    admission.check_open(of, trials, "other", late, 0.0, kept)
    assert admission.seconds_left(of, late, kept) == 1.0
    with pytest.raises(ProtocolError) as refused:
        admission.check_open(of, trials, "other", late + timedelta(seconds=1), 0.0, kept)
    assert str(refused.value) == (
        "What is left of the study's seconds is kept for its fresh seeds: about 40 s (confirm_seeds of start_study); "
        "finish_study(study_id='s-1') evaluates the best configuration."
    )
    held = study(gpu_seconds=160.0)
    admission.check_open(held, trials, "other", late, 119.0, kept)
    with pytest.raises(ProtocolError, match="is kept for its fresh seeds"):
        admission.check_open(held, trials, "other", late, 120.0, kept)


@pytest.mark.parametrize(
    ("limits", "after", "held", "expected"),
    [
        ({}, 1e6, 0.0, 2),
        ({"confirm_seeds": 0}, 0.0, 0.0, 0),
        ({"confirm_seeds": 5}, 0.0, 0.0, 5),
        ({"budget_seconds": 100.0}, 60.0, 0.0, 2),
        ({"budget_seconds": 100.0}, 61.0, 0.0, 1),
        ({"budget_seconds": 100.0}, 81.0, 0.0, 0),
        ({"gpu_seconds": 100.0}, 1e6, 75.0, 1),
        ({"gpu_seconds": 100.0, "budget_seconds": 100.0}, 10.0, 85.0, 0),
    ],
)
def test_as_many_fresh_seeds_are_trained_as_the_budget_has_room_for(
    limits: dict[str, Any], after: float, held: float, expected: int
) -> None:
    trials = [timed(0), timed(1, changes=LESS)]
    now = BEGAN + timedelta(seconds=after)
    seeds = confirming.seeds_to_confirm(study(**limits), trials, chosen_config(), now, held)
    assert seeds == (tuple(range(1, expected + 1)),) * 2


def test_fresh_seeds_are_those_that_neither_side_trained_with_in_whatever_configuration() -> None:
    trials = [
        printed(0, 0.05, {}), printed(1, 0.06, LESS), printed(1, 0.06, LESS, seed=2),
        printed(2, 0.055, RESCORED, seed=4), printed(3, 0.05, {"dropout": 0.3}, seed=3),
    ]  # fmt: skip
    # Seed 4 scored the default's weights; seed 3 trained something else and is as fresh as any.
    assert confirming.seeds_to_confirm(study(confirm_seeds=3), trials, chosen_config(), BEGAN) == ((1, 3, 5), (1, 3, 5))


def test_a_default_that_was_chosen_needs_none_and_one_without_a_score_gets_at_least_one() -> None:
    default = study().space.default()
    assert confirming.seeds_to_confirm(study(), [trial(0, 0.05)], default, BEGAN) == ((), ())
    missing = [trial(0, None, status="cancelled"), trial(1, 0.06, changes=LESS)]
    assert confirming.seeds_to_confirm(study(confirm_seeds=0), missing, chosen_config(), BEGAN) == ((), (1,))
    assert confirming.seeds_to_confirm(study(confirm_seeds=2), missing, chosen_config(), BEGAN) == ((1, 2), (1, 2))


def test_the_trial_of_a_fresh_seed_is_a_replicate_and_found_again() -> None:
    trials = [trial(0, 0.05), trial(1, 0.06, changes=LESS, parent="t-0")]
    new = confirming.fresh_trial(study(), trials, chosen_config(), 1)
    assert type(new) is NewTrial
    assert (new.replicate_of, new.parent, new.changes, new.seed) == ("t-1", "t-0", LESS, 1)
    assert new.fingerprint == training_fingerprint(study(), chosen_config(), 1)
    there = trial(1, None, changes=LESS, seed=1, status="interrupted")
    assert confirming.fresh_trial(study(), [*trials, there], chosen_config(), 1) == there
    never = confirming.fresh_trial(study(), [trial(1, 0.06, changes=LESS)], study().space.default(), 0)
    assert (never.replicate_of, never.config) == (None, study().space.default())


CHOICE = Closing(study_id="s-1", chosen=("t-1",), default=("t-0",), chosen_seeds=(1, 2), default_seeds=(1, 2))


def ended(*fresh: Trial) -> list[Trial]:
    return [trial(0, 0.05), trial(1, 0.06, changes=LESS), *fresh]


def ids(sides: tuple[tuple[Trial, ...], tuple[Trial, ...]]) -> tuple[list[str], list[str]]:
    return [one.trial_id for one in sides[0]], [one.trial_id for one in sides[1]]


def test_the_test_is_reported_over_fresh_seeds_and_a_failed_one_is_left_out() -> None:
    trials = ended(
        trial(1, 0.05, changes=LESS, seed=1), trial(1, None, changes=LESS, seed=2, status="out_of_memory"),
        trial(0, 0.05, seed=1), trial(0, 0.01, seed=2),
    )  # fmt: skip
    assert ids(confirming.reported(study(), trials, CHOICE)) == (["t-1-1"], ["t-0-1"])
    left = [(of_choice, one.trial_id, why) for of_choice, one, why in confirming.left_out(study(), trials, CHOICE)]
    assert left == [(True, "t-1-2", "out_of_memory"), (False, "t-0-2", "without ever starting to learn")]


def test_where_one_side_has_no_fresh_seed_left_both_are_reported_over_all_their_seeds() -> None:
    trials = ended(trial(1, 0.05, changes=LESS, seed=1), trial(0, None, seed=1), trial(0, None, seed=2))
    assert ids(confirming.reported(study(), trials, CHOICE)) == (["t-1", "t-1-1"], ["t-0"])


def test_without_a_score_of_the_default_there_is_nothing_to_report() -> None:
    trials = [trial(0, None), trial(1, 0.06, changes=LESS), trial(0, None, seed=1)]
    choice = CHOICE.model_copy(update={"chosen_seeds": (), "default_seeds": (1,)})
    assert ids(confirming.reported(study(), trials, choice)) == (["t-1"], [])


def test_scorings_are_compared_on_the_weights_that_both_scored() -> None:
    trials = [printed(0, 0.05, {}), printed(0, 0.051, {}, seed=1), printed(1, 0.06, RESCORED, seed=1)]
    choice = Closing(study_id="s-1", chosen=("t-1-1",), default=("t-0", "t-0-1"))
    sides = confirming.reported(study(), trials, choice)
    assert ids(sides) == (["t-1-1"], ["t-0-1"])
    assert confirming.same_weights(*sides)
    assert not confirming.same_weights((trials[1],), (trials[0],))
    assert not confirming.same_weights((trial(0, 0.05),), (trial(0, 0.05),))  # own trainers have no fingerprint


def revealed(trials: list[Trial], scores: dict[str, float], **values: Any) -> Reveal:
    given: dict[str, Any] = {
        "study_id": "s-1", "dataset_hash": "abc", "chosen": ("t-1-1", "t-1-2"), "default": ("t-0-1", "t-0-2"),
        "test": {name: {"ndcg@10": score} for name, score in scores.items()}, "ordinal": 1, "created_at": BEGAN,
    }  # fmt: skip
    return Reveal(**{**given, **values})


TRIALS = ended(
    trial(1, 0.06, changes=LESS, seed=1), trial(1, 0.06, changes=LESS, seed=2), trial(0, 0.05, seed=1),
    trial(0, 0.05, seed=2),
)  # fmt: skip
SCORES = {"t-0": 0.02, "t-1": 0.09, "t-1-1": 0.06, "t-1-2": 0.062, "t-0-1": 0.05, "t-0-2": 0.051}


def test_the_gain_is_that_of_the_choice_over_the_default_on_the_reported_seeds() -> None:
    gain = confirming.final_gain_of(StudyHistory(study(), TRIALS), revealed(TRIALS, SCORES)).gain
    assert math.log1p(gain) == pytest.approx(math.log(0.06 * 0.062 / 0.05 / 0.051) / 2)
    swapped = revealed(TRIALS, SCORES, chosen=("t-0-1", "t-0-2"), default=("t-1-1", "t-1-2"))
    assert confirming.final_gain_of(StudyHistory(study(), TRIALS), swapped).gain == pytest.approx(1 / (1 + gain) - 1)


def test_the_gain_of_a_scoring_is_the_same_whether_its_weights_were_cached_or_trained_anew() -> None:
    def gain(weights_of: str | None) -> FinalGain:
        trials = [
            printed(0, 0.05, {}), printed(1, 0.06, RESCORED), printed(0, 0.05, {}, seed=1),
            printed(0, 0.05, {}, seed=2),
            printed(1, 0.06, RESCORED, seed=1, weights_of=weights_of and f"{weights_of}-1"),
            printed(1, 0.06, RESCORED, seed=2, weights_of=weights_of and f"{weights_of}-2"),
        ]  # fmt: skip
        return confirming.final_gain_of(StudyHistory(study(), trials), revealed(trials, SCORES))

    assert gain("t-0").gain == gain(None).gain
    assert math.log1p(gain("t-0").high) == pytest.approx(math.log1p(gain(None).high), rel=0.05)
    unpaired = confirming.final_gain_of(StudyHistory(study(), TRIALS), revealed(TRIALS, SCORES))
    assert gain(None).high < unpaired.high


def test_all_tested_seeds_and_the_users_tell_how_wide_the_interval_is() -> None:
    def width(scores: dict[str, float] = SCORES, of: Study | None = None, **values: Any) -> float:
        gain = confirming.final_gain_of(StudyHistory(of or study(), TRIALS), revealed(TRIALS, scores, **values))
        return math.log1p(gain.high) - math.log1p(gain.low)

    alike = {**SCORES, "t-0": 0.0505, "t-1": 0.061}
    assert width() > 1.5 * width(alike)  # seeds that are not reported tell of noise
    assert width(alike, user_variance=0.01) > 1.5 * width(alike)
    assert width(alike, users=500) > 1.05 * width(alike, users=5000)
