"""memory.credit: who is told of a heuristic is drawn once, and what it is worth is said when enough studies tell."""

from __future__ import annotations

import random

import pytest

from memory.credit import CONTROLS, Credit, is_withheld, measured
from memory.store import Memory
from server.brief import relevant_notes, write_brief
from server.digest import digest
from tests.examples import study
from tests.test_claims import SPACE, House, house

__all__ = ["house"]


def heuristics(house: House, count: int) -> list[str]:
    """Notes of a study that has ended."""
    first = house.study("a")
    words = ("dropout", "learning_rate", "num_blocks", "loss", "hidden_dim", "patience", "weight_decay", "pooling")
    return [house.memory.add_note(first, "heuristic", f"Mind {word}.").heuristic_id for word in words[:count]]


def begin(memory: Memory, study_id: str, withhold: float) -> None:
    memory.add_study(study(study_id=study_id, withhold=withhold, dataset="b", dataset_hash="b"))


def test_chance_decides_once_for_a_study_and_a_heuristic(house: House) -> None:
    (name,) = heuristics(house, 1)
    note = house.memory.note(name)
    drawn = [is_withheld(study(study_id=f"s-{number}", withhold=0.1), note) for number in range(2000)]
    assert 150 < sum(drawn) < 250
    assert drawn == [is_withheld(study(study_id=f"s-{number}", withhold=0.1), note) for number in range(2000)]
    wider = [is_withheld(study(study_id=f"s-{number}", withhold=0.3), note) for number in range(2000)]
    assert all(later for early, later in zip(drawn, wider, strict=True) if early)
    assert not any(is_withheld(study(study_id=f"s-{number}"), note) for number in range(2000))


def test_a_study_is_told_its_own_notes_and_all_reflections(house: House) -> None:
    begin(house.memory, "s-own", 0.9)
    own = house.memory.add_note("s-own", "heuristic", "Mine.")
    other = house.memory.add_note(house.study("a"), "reflection", "That did not help.")
    assert not is_withheld(house.memory.study("s-own"), own)
    assert not is_withheld(house.memory.study("s-own"), other)


def test_a_brief_and_a_digest_keep_back_what_was_drawn_and_the_books_say_so(house: House) -> None:
    names = heuristics(house, 8)
    kept_back = 0
    for study_id in ("s-1", "s-2", "s-3", "s-4", "s-5", "s-6"):
        begin(house.memory, study_id, 0.5)
        half = house.memory.study(study_id)
        kept = {name for name in names if is_withheld(half, house.memory.note(name))}
        assert {note.heuristic_id for note in write_brief(house.memory, half).memory} == set(names) - kept
        assert len(relevant_notes(house.memory, half)) == 8
        house.memory.mark_finished(study_id)
        kept_back += len(kept)
    assert 0 < kept_back < 48
    assert house.memory.ledger.credits() == []  # they trained nothing


def test_claims_that_are_kept_back_are_in_neither_digest_nor_beliefs(house: House) -> None:
    house.pair(house.study("a"), 0.3)
    note = house.claim(house.study("c"))
    assert note.verdict == "supported"
    ids = [f"s-k{number}" for number in range(40)]
    for study_id in ids:
        begin(house.memory, study_id, 0.5)
        made = house.memory.study(study_id)
        brief = write_brief(house.memory, made)
        found = digest(
            house.memory, SPACE, made.facts, "ndcg@10", house.memory.studies(), house.memory.notes(), made
        )  # fmt: skip
        told = not is_withheld(made, note)
        assert bool(brief.beliefs) == bool(found.supported) == told
    for study_id in ids:
        told = not is_withheld(house.memory.study(study_id), note)
        house.train(study_id, {}, 0.05)
        house.train(study_id, {"dropout": 0.2}, 0.06 if told else 0.055)
        house.memory.mark_finished(study_id)
    (credit,) = house.memory.ledger.credits()
    assert (credit.heuristic_id, credit.shown + credit.withheld) == (note.heuristic_id, 40)
    assert credit.effect is None or credit.effect == pytest.approx(0.1)


def test_what_is_read_after_the_end_is_no_exposure(house: House) -> None:
    heuristics(house, 3)
    begin(house.memory, "s-late", 0.5)
    house.train("s-late", {}, 0.05)
    house.memory.mark_finished("s-late")
    write_brief(house.memory, house.memory.study("s-late"))
    assert house.memory.ledger.credits() == []


def test_studies_that_withhold_nothing_are_no_evidence(house: House) -> None:
    heuristics(house, 2)
    begin(house.memory, "s-all", 0.0)
    write_brief(house.memory, house.memory.study("s-all"))
    house.train("s-all", {}, 0.05)
    house.memory.mark_finished("s-all")
    assert house.memory.ledger.credits() == []


def test_below_enough_controls_credit_is_unmeasured_but_says_what_could_be_seen() -> None:
    dice = random.Random(0)
    shown = [dice.gauss(0.1, 0.05) for _ in range(200)]
    few = measured("h-1", shown, shown[: CONTROLS - 1], 3)
    assert (few.effect, few.cited) == (None, 3)
    assert few.detectable is not None
    assert 0.02 < few.detectable < 0.06
    assert few.words.startswith("unmeasured (200 studies with it, 19 without; ")
    assert measured("h-1", shown, [0.1], 0) == Credit("h-1", 200, 1, 0)


def test_the_interval_holds_the_truth_as_often_as_it_says_and_the_detectable_effect_is_found() -> None:
    dice = random.Random(1)
    held = found = 0
    for _ in range(400):
        shown = [dice.gauss(0.03, 0.05) for _ in range(90)]
        withheld = [dice.gauss(0.0, 0.03) for _ in range(25)]
        credit = measured("h-1", shown, withheld, 0)
        assert credit.low is not None
        assert credit.high is not None
        held += credit.low <= 0.03 <= credit.high
        found += credit.low > 0
    assert 0.92 < held / 400 < 0.98
    assert found / 400 > 0.9
    large = measured("h-1", [0.03] * 45 + [0.13] * 45, [0.0, 0.06] * 13, 0)
    assert large.detectable == pytest.approx(0.024, abs=0.004)
