"""memory.advice.queries: advice as it is read from a memory, from the nearest datasets and up to a number."""

from __future__ import annotations

import pytest

from memory.advice import queries
from memory.advice.starts import Belief, Start
from tests.support.claims import SPACE, House, house
from tests.support.examples import FACTS
from tests.support.near import near

__all__ = ["house"]

METRIC = "ndcg@10"
FAR = FACTS.model_copy(update={"users": 500_000, "items": 90_000, "mean_length": 90.0})


def landscapes(house: House) -> tuple[str, str]:
    """Less dropout wins on a dataset like FACTS, and one block on one like FAR; three configurations of each."""
    like, unlike = house.study("like"), house.study("unlike", **FAR.model_dump())
    for study_id, dropout, blocks in ((like, 0.08, 0.04), (unlike, 0.04, 0.08)):
        for seed in range(3):
            house.train(study_id, {}, 0.05, seed=seed)
            house.train(study_id, {"dropout": 0.2}, dropout, seed=seed)
            house.train(study_id, {"num_blocks": 1}, blocks, seed=seed)
    return like, unlike


def test_advice_comes_from_the_nearest_datasets_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    landscapes(house)
    advice = house.memory.advice
    both = advice.starts(SPACE, FACTS, METRIC)
    assert [(start.changes, start.datasets) for start in both] == [
        ({"dropout": 0.2}, ("like",)), ({"num_blocks": 1}, ("unlike",)),
    ]  # fmt: skip
    assert [one.dataset_hash for one in advice.elsewhere("sasrec", FACTS, METRIC)] == ["like", "unlike"]
    monkeypatch.setattr(queries, "NEAREST", 1)
    assert [start.changes for start in advice.starts(SPACE, FACTS, METRIC)] == [{"dropout": 0.2}]
    assert [start.changes for start in advice.starts(SPACE, FAR, METRIC)] == [{"num_blocks": 1}]
    (one,) = advice.elsewhere("sasrec", FAR, METRIC)
    assert (one.dataset_hash, one.similarity) == ("unlike", 1.0)
    assert sorted((point.mean, point.seeds) for point in one.points) == [
        (near(0.04), 3),
        (near(0.05), 3),
        (near(0.08), 3),
    ]
    own = [trial.trial_id for trial in house.memory.trials("s-1")]
    assert advice.elsewhere("sasrec", FAR, METRIC, own) == []
    assert advice.starts(SPACE, FACTS, "recall@10") == []
    assert advice.elsewhere("hstu", FACTS, METRIC) == []


def test_beliefs_cite_their_claims_and_the_largest_are_kept_whatever_their_sign(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    like, _ = landscapes(house)
    less = house.claim(like)
    fewer = house.claim(like, "One block is enough.", change={"field": "num_blocks", "to": 1})
    scope = {"dataset": [{"fact": "users", "op": "<", "value": 6000}]}
    here = house.claim(
        like, "Less dropout on few users.", change={"field": "dropout", "from": 0.5, "to": 0.2}, scope=scope
    )
    found = house.memory.advice.beliefs(SPACE, FACTS, METRIC)
    assert [(one.field, one.value, one.cites) for one in found] == [
        ("dropout", 0.2, (here.note_id,)), ("num_blocks", 1, (fewer.note_id,)),
    ]  # fmt: skip
    assert found[0].gain > 0.2 > 0 > found[1].gain
    assert house.memory.advice.beliefs(SPACE.restrict({"dropout": 0.5}), FACTS, METRIC) == found[1:]
    monkeypatch.setattr(queries, "BELIEFS", 1)
    assert house.memory.advice.beliefs(SPACE, FACTS, METRIC) == found[:1]
    assert less.note_id not in found[0].cites


def test_without_records_there_is_no_advice(house: House) -> None:
    advice = house.memory.advice
    no_starts: list[Start] = []
    no_beliefs: list[Belief] = []
    assert advice.starts(SPACE, FACTS, METRIC) == no_starts
    assert advice.beliefs(SPACE, FACTS, METRIC) == no_beliefs
    assert (advice.questions(), advice.varied("sasrec"), advice.calibration("client")) == ([], [], None)


def test_claims_that_contradict_each_other_are_a_question(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    like, unlike = landscapes(house)
    more = house.claim(like, force=True)
    fewer = house.claim(unlike, "It hurts.", sign="-", force=True)
    (question,) = house.memory.advice.questions()
    assert {question.one, question.other} == {more.note_id, fewer.note_id}
    assert "To separate them, train both sides of dropout → 0.2 with the same two seeds, nothing else" in question.text
    monkeypatch.setattr(queries, "CONTRADICTIONS", 0)
    assert house.memory.advice.questions() == []


def test_the_fields_that_trials_changed_come_by_how_often(house: House) -> None:
    study_id = house.study("a")
    house.train(study_id, {"num_blocks": 1}, 0.05)
    for dropout in (0.2, 0.3):
        house.train(study_id, {"dropout": dropout}, 0.05)
    assert house.memory.advice.varied("sasrec") == ["dropout", "num_blocks"]
    assert house.memory.advice.varied("hstu") == []
