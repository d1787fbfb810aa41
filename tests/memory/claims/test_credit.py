"""memory.claims.credit: who is told of a heuristic is drawn once; its worth is told once enough studies are in."""

from __future__ import annotations

import random

import pytest

from memory.claims.credit import CONTROLS, Credit, is_withheld, measured
from memory.records import NewTrial
from memory.store import Memory
from server.views.brief import relevant_notes, write_brief
from server.views.digest import digest
from tests.support.claims import SPACE, House, house
from tests.support.examples import study
from tests.support.near import near
from trainers.contract.wire import TrialResult

__all__ = ["house"]


def heuristics(house: House, count: int) -> list[str]:
    """Notes of a study that has ended."""
    first = house.study("a")
    words = ("dropout", "learning_rate", "num_blocks", "loss", "hidden_dim", "patience", "weight_decay", "pooling")
    return [house.memory.add_note(first, "heuristic", f"Mind {word}.").note_id for word in words[:count]]


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
        assert {note.note_id for note in write_brief(house.memory, half).memory} == set(names) - kept
        assert len(relevant_notes(house.memory, half)) == 8
        house.memory.mark_finished(study_id)
        kept_back += len(kept)
    assert 0 < kept_back < 48
    assert house.memory.exposures.credits() == []  # they trained nothing


def test_claims_that_are_kept_back_are_in_neither_digest_nor_beliefs(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chance withholds it from about 20 of 40 studies. Both sides are measured from five on, which never fails."""
    monkeypatch.setattr("memory.claims.credit.CONTROLS", 5)
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
    (credit,) = house.memory.exposures.credits()
    held_back = sum(is_withheld(house.memory.study(study_id), note) for study_id in ids)
    # Gains of 20 % with it and of 10 % without it, in every study alike.
    assert credit == Credit(note.note_id, 40 - held_back, held_back, 0, near(0.1), near(0.1), near(0.1), near(0.0))
    assert credit.words == "+10.0% (+10.0% to +10.0%; 0.0% would be seen)"


def test_the_credit_of_studies_that_failed_or_go_on_is_not_measured(house: House) -> None:
    """The best mean counts, over seeds, and only from the end of a study; a gain needs a default above 0."""
    (name,) = heuristics(house, 1)
    note = house.memory.note(name)
    for number, (default, seeds, ends) in enumerate(
        ((0.05, (0.06, 0.08), True), (0.05, (0.04,), True), (0.0, (0.06,), True), (0.05, (0.09,), False))
    ):
        begin(house.memory, f"s-n{number}", 1e-9)
        house.memory.exposures.expose(house.memory.study(f"s-n{number}"), [note])
        house.train(f"s-n{number}", {}, default)
        for seed, score in enumerate(seeds):
            house.train(f"s-n{number}", {"dropout": 0.2}, score, seed=seed)
        if ends:
            house.memory.mark_finished(f"s-n{number}")
    (credit,) = house.memory.exposures.credits()
    assert (credit.shown, credit.withheld) == (2, 0)
    with pytest.MonkeyPatch.context() as patch:
        gains: list[tuple[list[float], list[float]]] = []
        patch.setattr(
            "memory.claims.credit.measured",
            lambda name, shown, withheld, cited: gains.append((shown, withheld)) or credit,
        )
        house.memory.exposures.credits()
    assert gains == [([near(0.4), 0.0], [])]  # 0.07 over 0.05, and no better than its default


def test_citations_are_counted_by_heuristic_and_most_studies_come_first(house: House) -> None:
    names = heuristics(house, 3)
    begin(house.memory, "s-c", 1e-9)
    for seed, cites in enumerate(((names[0], names[1]), (names[0],))):
        config = SPACE.default()
        new = NewTrial(
            study_id="s-c", parent=None, changes={}, config=config, config_hash=SPACE.hash(config), seed=seed,
            cites=cites,
        )  # fmt: skip
        trial = house.memory.start_trial(new)
        house.memory.finish_trial(TrialResult(trial_id=trial.trial_id, status="ok", validation={"ndcg@10": 0.05}))
    house.memory.exposures.expose(house.memory.study("s-c"), [house.memory.note(names[1])])
    house.memory.mark_finished("s-c")
    assert house.memory.exposures.credits() == [Credit(names[1], 1, 0, 1), Credit(names[0], 0, 0, 2)]


def test_credit_by_hand() -> None:
    """Effect 0.08 - 0.03; variances 2.809e-5 and 3.6e-5 of the means; Welch's 67.66 degrees of freedom; t 1.9957."""
    found = measured("h-1", [0.03] * 45 + [0.13] * 45, [0.0, 0.06] * 13, 4)
    assert found == Credit("h-1", 90, 26, 4, near(0.05), near(0.0340236), near(0.0659764), near(0.0227569))
    assert found.words == "+5.0% (+3.4% to +6.6%; 2.3% would be seen)"
    assert measured("h-1", [0.03] * CONTROLS, [0.01] * (CONTROLS - 1), 0).effect is None
    assert measured("h-1", [0.03] * CONTROLS, [0.01] * CONTROLS, 0).effect == near(0.02)
    assert measured("h-1", [0.03], [0.01] * 30, 0) == Credit("h-1", 1, 30, 0)
    assert measured("h-1", [0.0, 0.2], [0.1, 0.1], 0).detectable == near(0.1 * (12.7062047 + 1.3763819))


def test_what_is_read_after_the_end_is_no_exposure(house: House) -> None:
    heuristics(house, 3)
    begin(house.memory, "s-late", 0.5)
    house.train("s-late", {}, 0.05)
    house.memory.mark_finished("s-late")
    write_brief(house.memory, house.memory.study("s-late"))
    assert house.memory.exposures.credits() == []


def test_own_heuristics_and_reflections_are_no_exposure(house: House) -> None:
    (name,) = heuristics(house, 1)
    begin(house.memory, "s-e", 1e-9)
    own = house.memory.add_note("s-e", "heuristic", "Mine.")
    reflection = house.memory.add_note(house.study("c"), "reflection", "That did not help.")
    house.memory.exposures.expose(house.memory.study("s-e"), [own, reflection, house.memory.note(name)])
    house.train("s-e", {}, 0.05)
    house.memory.mark_finished("s-e")
    assert house.memory.exposures.credits() == [Credit(name, 1, 0, 0)]


def test_studies_that_withhold_nothing_are_no_evidence(house: House) -> None:
    heuristics(house, 2)
    begin(house.memory, "s-all", 0.0)
    write_brief(house.memory, house.memory.study("s-all"))
    house.train("s-all", {}, 0.05)
    house.memory.mark_finished("s-all")
    assert house.memory.exposures.credits() == []


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
