"""server.policies.inputs: what policies see of a study's trainings, and of its brief and budget."""

import pytest

from memory.advice.starts import Belief, Start
from memory.statistics.elsewhere import Elsewhere, Point
from memory.statistics.noise import Sigma
from server import answers
from server.policies.base import Lesson, Observation, PolicyContext
from server.policies.inputs import observed, policy_context
from server.study.guardrails import check_guardrails
from server.study.history import StudyHistory
from tests.support.examples import study, trial

BRIEF = answers.Brief(
    dataset={"users": 5000, "mean_length": 8.5, "name": "demo", "synthetic": True}, backbone="hstu", metric="recall@10",
    filter_seen="yes", space={}, default={}, baselines={}, noise=answers.Noise(sigma=0.03, df=4.0),
    min_gain=0.06, budget={}, starts=[answers.StartLine(changes={"dropout": 0.1}, gain=0.2, datasets=["abc"])],
    beliefs=[answers.BeliefLine(field="dropout", value=0.2, gain=0.05, cites=["h-1"])],
    memory=[answers.NoteLine(note_id="h-1", kind="heuristic", text="Less.", dataset="a", backbone="sasrec")],
)  # fmt: skip


def test_a_policy_is_told_what_memory_says_and_what_is_left_of_both_budgets() -> None:
    elsewhere = Elsewhere("abc", 0.9, 0.03, (Point({"dropout": 0.1}, 0.07, 1),))
    assert policy_context(BRIEF, [elsewhere], 5, 60.5) == PolicyContext(
        metric="recall@10", backbone="hstu", facts={"users": 5000.0, "mean_length": 8.5},
        memory=(Lesson("h-1", "heuristic", "Less.", "a", "sasrec"),),
        starts=(Start({"dropout": 0.1}, 0.2, ("abc",)),), beliefs=(Belief("dropout", 0.2, 0.05, ("h-1",)),),
        elsewhere=(elsewhere,), trials_left=5, seconds_left=60.5, noise=Sigma(0.03, 4.0), min_gain=0.06,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "score", "reached"),
    [
        ("ok", 0.05, None),
        ("timed_out", 0.05, None),
        ("stopped", None, 0.05),
        ("diverged", None, None),
        ("cancelled", None, None),
    ],
)
def test_only_what_ran_to_its_end_or_out_of_time_has_a_score(
    status: str, score: float | None, reached: float | None
) -> None:
    ended = trial(1, 0.05, changes={"dropout": 0.1}, status=status, seconds=3.0, eval_seconds=0.5, epochs=4)
    assert observed(StudyHistory(study(), [ended])) == [
        Observation(
            trial_id="t-1", number=1, config=ended.config, seed=0, status=status, score=score, reached=reached,
            changes={"dropout": 0.1}, seconds=3.5, epochs=4,
        )
    ]  # fmt: skip


def test_what_violates_a_guardrail_has_no_score_and_what_has_not_ended_is_not_seen() -> None:
    covered = study(guardrails=check_guardrails({"coverage@10": {"min": 0.2}}))
    narrow = trial(0, 0.05, measures={"coverage@10": 0.1})
    under_way = trial(1, None, changes={"dropout": 0.1}, status="running")
    (seen,) = observed(StudyHistory(covered, [narrow, under_way]))
    assert (seen.trial_id, seen.status, seen.score) == ("t-0", "ok", None)
