"""memory.claims.book: which claims a new trial judges again, and what is refused or answered with an earlier claim."""

from __future__ import annotations

import pytest

from memory.claim import ClaimError
from memory.claims import book
from memory.claims.book import ClaimBook, refusal
from memory.errors import MemoryFault
from memory.statistics.effects import Verdict
from tests.support.claims import House, claim, house

__all__ = ["house"]


def pairs(house: House, *note_ids: str) -> list[int | None]:
    return [house.memory.note(note_id).n_pairs for note_id in note_ids]


def test_a_trial_judges_the_claims_on_its_steps_that_hold_there_and_are_not_superseded(house: House) -> None:
    study_id = house.study("a", users=1000)
    few = {"dataset": [{"fact": "users", "op": "<", "value": 5000}]}
    many = {"dataset": [{"fact": "users", "op": ">=", "value": 5000}]}
    written = [
        house.claim(study_id, "One.").note_id,
        house.claim(study_id, "Two.", sign="-").note_id,
        house.claim(study_id, "Three.", scope=few).note_id,
        house.claim(study_id, "Four.", scope=many).note_id,
        house.claim(study_id, "Five.", scope={"backbone": "hstu"}).note_id,
        house.claim(study_id, "Six.", change={"field": "num_blocks", "to": 1}).note_id,
        house.claim(study_id, "Seven.", change={"field": "dropout", "from": 0.4, "to": 0.2}).note_id,
        house.claim(study_id, "Eight.", change={"field": "dropout", "direction": "up"}).note_id,
        house.claim(study_id, "Nine.", metric="recall@10").note_id,
    ]
    house.memory.add_note(study_id, "heuristic", "Instead.", (), [written[1]])
    house.train(study_id, {}, 0.05)
    house.train(study_id, {"dropout": 0.2}, 0.06)
    assert pairs(house, *written) == [1, 0, 1, 0, 0, 0, 0, 1, 0]
    house.train(study_id, {"num_blocks": 1}, 0.05)
    assert pairs(house, *written) == [1, 0, 1, 0, 0, 1, 0, 1, 0]
    house.train(study_id, {"num_blocks": 1, "dropout": 0.2}, 0.06)
    assert pairs(house, *written) == [2, 0, 2, 0, 0, 2, 0, 2, 0]


def test_a_refused_claim_is_stored_by_force_alone_and_only_then_marked(house: House) -> None:
    study_id = house.study("a")
    house.pair(study_id, -0.4)
    assert house.claim(study_id, "It lowers the metric.", sign="-", force=True).forced is False
    with pytest.raises(ClaimError, match=r"\(any backbone: dropout → 0.2 raises ndcg@10\)\. force=true writes it"):
        house.claim(study_id)
    assert house.claim(study_id, force=True).forced is True


def test_a_text_keeps_its_claim_and_a_superseded_claim_can_be_made_again(house: House) -> None:
    study_id = house.study("a")
    note = house.claim(study_id)
    with pytest.raises(MemoryFault, match=rf"^'{note.note_id}' says this already with another claim; supersede it\.$"):
        house.claim(study_id, min_effect=0.1)
    assert house.claim(study_id, "In other words.").note_id == note.note_id
    renewed = house.memory.add_note(study_id, "heuristic", "Renewed.", (), [note.note_id], claim())
    assert renewed.note_id != note.note_id
    assert house.memory.note(note.note_id).superseded_by == renewed.note_id


def test_landscapes_are_kept_up_to_a_number_and_none_without_a_study(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dataset in ("a", "b"):
        house.train(house.study(dataset), {}, 0.05)
    monkeypatch.setattr(book, "KEPT", 1)
    kept = ClaimBook()
    with house.memory._connection.read() as cursor:
        assert kept.land(cursor, "nowhere", "sasrec") is None
        assert kept.land(cursor, "a", "hstu") is None
        first = kept.land(cursor, "a", "sasrec")
        assert first is not None
        assert (first.dataset_hash, first.backbone, len(first.trial_ids)) == ("a", "sasrec", 1)
        assert kept.land(cursor, "later", "sasrec") is None
        assert kept.land(cursor, "a", "sasrec") is first
        kept.land(cursor, "b", "sasrec")
        assert kept.land(cursor, "a", "sasrec") is not first
    house.study("later")
    with house.memory._connection.read() as cursor:
        assert kept.land(cursor, "later", "sasrec") is not None


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (
            Verdict("refuted", "insufficient", 1, 1, -0.2, -0.25, -0.15),
            "The data refute this already: over 1 matched pair dropout did -25.0 % to -15.0 % (any backbone: dropout → "
            "0.2 raises ndcg@10).",
        ),
        (
            Verdict("refuted", "insufficient", 2, 1, -0.2, -0.25, 0.0),
            "The data refute this already: over 2 matched pairs dropout did -25.0 % to +0.0 % (any backbone: dropout → "
            "0.2 raises ndcg@10).",
        ),
    ],
)
def test_a_refusal_says_over_how_many_pairs_and_how_much(verdict: Verdict, words: str) -> None:
    assert refusal(claim(), verdict) == words
