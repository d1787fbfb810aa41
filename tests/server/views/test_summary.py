"""server.views.summary: what is put together of a study that nobody summed up."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from memory.records import Trial
from memory.store import Memory
from server.policies.importance import importance
from server.policies.inputs import observed
from server.study.history import StudyHistory
from server.views.summary import summarize, summary_text
from tests.support.claims import House, house
from tests.support.examples import study, trial

__all__ = ["house"]
EARLIER = [(1.0, 1.0141)] * 30
"""Pairs of seeds that scatter by 1 %."""


def history(trials: list[Trial], **changed: Any) -> StudyHistory:
    """A study whose seed noise is known to be about 1 %."""
    return StudyHistory(study(**changed), trials, EARLIER)


def tried(*scores: tuple[float, dict[str, float]]) -> list[Trial]:
    """The default with 0.05, and its children."""
    children = [
        trial(number, score, changes=dict(changes), parent="t-0") for number, (score, changes) in enumerate(scores, 1)
    ]
    return [trial(0, 0.05), *children]


def test_it_tells_what_won_what_helped_what_hurt_and_what_was_never_tried() -> None:
    trials = tried((0.06, {"dropout": 0.2}), (0.03, {"num_blocks": 1}), (0.0501, {"hidden_dim": 96}))
    text = summary_text(history(trials), [])
    assert "4 configurations of sasrec in 4 trainings." in text
    assert "Best: dropout 0.2, ndcg@10 0.0600 over 1 training. That is +20.0% on validation" in text
    assert "Helped beyond noise: dropout 0.5 → 0.2 (+20.0%)." in text
    assert "Hurt beyond noise: num_blocks 2 → 1 (-40.0%)." in text
    assert "Never tried: max_length, num_heads, tie_embeddings," in text
    assert "PED-ANOVA" not in text


def test_a_study_without_a_score_says_how_it_ended() -> None:
    assert summary_text(history([trial(0, None)]), []).endswith("None scored (crashed).")


@pytest.fixture
def many() -> list[Trial]:
    """Dropout decides; the width does not matter."""
    scores = [
        (0.03 + 0.03 * (dropout == 0.2) + 0.0001 * (width % 7), {"dropout": dropout, "hidden_dim": width})
        for dropout in (0.2, 0.4)
        for width in (32, 48, 96, 128, 160, 192)
    ]
    return tried(*scores)


def test_of_enough_configurations_it_tells_which_field_mattered(many: list[Trial]) -> None:
    shares = dict(importance(study(), observed(history(many))))
    assert shares["dropout"] > 0.7
    assert set(shares) <= {"dropout", "hidden_dim"}
    assert "set good configurations apart (PED-ANOVA): dropout" in summary_text(history(many), [])
    assert importance(study(), observed(history(many[:7]))) == []


def test_without_optuna_nothing_is_said_of_importance(many: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert importance(study(), observed(history(many))) == []


def test_a_summary_is_written_once_and_only_where_something_was_trained(house: House) -> None:
    memory: Memory = house.memory
    study_id = house.study("a")
    summarize(memory, memory.study(study_id))
    assert memory.notes(kind="summary") == []
    house.pair(study_id, 0.3)
    note = house.claim(study_id)
    assert note.verdict == "supported"
    summarize(memory, memory.study(study_id))
    summarize(memory, memory.study(study_id))
    (summary,) = memory.notes(kind="summary")
    assert f"Claims supported so far: {note.note_id}." in summary.text
    other = house.study("b")
    house.pair(other, 0.1)
    memory.add_note(other, "summary", "In my own words.")
    summarize(memory, memory.study(other))
    assert [one.text for one in memory.notes(study_id=other, kind="summary")] == ["In my own words."]
