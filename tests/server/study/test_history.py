"""server.study.history: what belongs to the configuration of a trial, and what earlier studies lend."""

from datetime import timedelta

import pytest

from server.study.guardrails import check_guardrails
from server.study.history import StudyHistory, read_history
from tests.support.claims import House
from tests.support.examples import BEGAN, study, trial
from trainers.contract.space import Config

LESS: Config = {"dropout": 0.1}
COVERED = study(guardrails=check_guardrails({"coverage@10": {"min": 0.2}}))


def test_the_replicates_of_an_earlier_study_scatter_as_on_this_study_s_users(house: House) -> None:
    earlier = house.study("small", users=1250)
    for seed, score in enumerate((0.04, 0.06)):
        house.train(earlier, {}, score, seed=seed)
    house.memory.add_study(study(study_id="s-later", created_at=BEGAN + timedelta(days=1)))
    (scores,) = read_history(house.memory, "s-later").earlier
    assert scores == pytest.approx((0.045, 0.055))  # four times the users, so half as far from the mean


def test_a_training_without_a_score_neither_counts_nor_speaks_for_a_guardrail() -> None:
    good = trial(1, 0.05, changes=LESS, measures={"coverage@10": 0.25})
    stopped = trial(1, 0.01, changes=LESS, seed=1, status="stopped", measures={"coverage@10": 0.05})
    history = StudyHistory(COVERED, [good, stopped])
    assert (history.trainings(good), history.trainings(stopped)) == ([good], [good])
    assert (history.violations(good), history.violations(stopped)) == ([], [])


def test_a_configuration_without_any_score_is_held_to_what_the_trial_itself_measured() -> None:
    stopped = trial(1, 0.01, changes=LESS, status="stopped", measures={"coverage@10": 0.05})
    history = StudyHistory(COVERED, [stopped])
    assert history.trainings(stopped) == []
    assert history.violations(stopped) == ["coverage@10 is 0.05, below the least allowed 0.2"]
