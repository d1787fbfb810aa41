"""memory.claims.calibration: when a prediction came true, and what skill is, by hand."""

from pathlib import Path
from typing import Any

import pytest

from memory.claims.calibration import Bin, Prediction, calibration, outcome
from memory.records import Expected, NewTrial
from memory.store import Memory
from tests.support.examples import study
from tests.support.near import near
from trainers.contract.fields import space_of
from trainers.contract.specs import SPECS
from trainers.contract.wire import TrialResult

SPACE = space_of(SPECS["sasrec"])


@pytest.mark.parametrize(
    ("given", "came"),
    [
        (("up", 0.06, 0.05, None), True),
        (("up", 0.05, 0.05, None), False),
        (("up", None, 0.05, "worse"), False),
        (("up", 0.06, None, None), None),
        (("down", 0.04, 0.05, None), True),
        (("down", 0.05, 0.05, None), False),
        (("down", None, 0.05, None), None),
        (("none", 0.05, 0.05, "equivalent"), True),
        (("none", 0.05, 0.05, "undecided"), None),
        (("none", 0.05, 0.05, "tied"), None),
        (("none", 0.05, 0.05, "better"), False),
        (("none", 0.05, 0.05, None), None),
    ],
)
def test_what_was_expected_came_or_not_or_nobody_knows(given: Any, came: bool | None) -> None:
    assert outcome(*given) is came


def test_skill_is_measured_against_the_base_rate() -> None:
    sure = [Prediction(0.9, True)] * 5 + [Prediction(0.1, False)] * 5
    found = calibration(sure)
    assert found is not None
    assert (found.brier, found.base_rate) == (pytest.approx(0.01), 0.5)
    assert found.skill == pytest.approx(1 - 0.01 / 0.25)
    assert found.bins == (Bin(5, near(0.1), 0.0), Bin(5, near(0.9), 1.0))
    assert found.words == "10 predictions, of which 50% came true: Brier skill +0.96, better than always saying so."
    wrong = calibration([Prediction(0.9, False)] * 5 + [Prediction(0.1, True)] * 5)
    assert wrong is not None
    assert wrong.skill == pytest.approx(1 - 0.81 / 0.25)


def test_bins_begin_with_their_lower_bound_and_the_last_holds_certainty() -> None:
    found = calibration([Prediction(confidence, True) for confidence in (0.0, 0.19, 0.2, 0.79, 0.8, 1.0)])
    assert found is not None
    assert found.bins == (
        Bin(2, near(0.095), 1.0), Bin(1, near(0.2), 1.0), Bin(1, near(0.79), 1.0), Bin(2, near(0.9), 1.0),
    )  # fmt: skip


def test_skill_is_told_from_ten_predictions_on_and_no_better_at_zero() -> None:
    even = calibration([Prediction(0.5, True), Prediction(0.5, False)] * 5)
    assert even is not None
    assert (even.skill, even.brier) == (0.0, 0.25)
    assert even.words == "10 predictions, of which 50% came true: Brier skill +0.00, no better than always saying so."
    rare = calibration([Prediction(0.4, number < 2) for number in range(10)])
    assert rare is not None
    assert rare.skill == pytest.approx(1 - (2 * 0.36 + 8 * 0.16) / 10 / 0.16)


def test_few_predictions_or_equal_ends_have_no_skill() -> None:
    few, equal = calibration([Prediction(0.5, True)] * 9), calibration([Prediction(1.0, True)] * 20)
    assert few is not None
    assert equal is not None
    assert (few.skill, equal.skill) == (None, None)
    assert calibration([]) is None
    assert few.words.endswith("too few to say how well they are calibrated.")


def test_predictions_are_read_against_the_parent_as_it_stood(tmp_path: Path) -> None:
    memory = Memory.open(tmp_path / "memory.duckdb")
    memory.add_study(study(policy="llm"))
    memory.add_study(study(study_id="s-2", policy="playbook"))

    def train(
        score: float, parent: str | None = None, seed: int = 0, direction: Any = None, dropout: float = 0.5
    ) -> str:
        config = SPACE.apply(SPACE.default(), {"dropout": dropout})
        expected = Expected(field="dropout", direction=direction, confidence=0.7) if direction else None
        new = NewTrial(
            study_id="s-1", parent=parent, changes={}, config=config, config_hash=SPACE.hash(config), seed=seed,
            expected=expected,
        )  # fmt: skip
        trial_id = memory.start_trial(new).trial_id
        memory.finish_trial(TrialResult(trial_id=trial_id, status="ok", validation={"ndcg@10": score}, epochs=1))
        return trial_id

    first = train(0.04)
    train(0.06, seed=1)
    train(0.055, parent=first, direction="up", dropout=0.2)  # above 0.05, the mean by then
    train(0.10, seed=2)
    train(0.055, parent=first, direction="up", dropout=0.3)  # below 0.0667
    found = memory.advice.calibration("llm")
    assert found is not None
    assert (found.count, found.base_rate) == (2, 0.5)
    assert memory.advice.calibration("playbook") is None
    memory.close()
