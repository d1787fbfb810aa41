"""memory.claim, effects and their rows: what may be claimed, which pairs speak of it, and the verdict they come to."""

import json
from pathlib import Path
from typing import Any

import pytest

from memory.claim import ClaimError, checked, fits, read_claim
from memory.errors import MemoryFault
from memory.statistics.effects import NOTHING, Evidence, Verdict, anytime_half_width, judge, share_of_alpha
from memory.store import Memory
from tests.support.claims import LESS, SPACE, House, claim
from tests.support.examples import FACTS

# The grammar


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, r"cannot be read: change: Field required"),
        ({"change": {"field": "dropout"}}, "change needs either to or direction"),
        ({"change": {"field": "dropout", "to": 0.1, "direction": "up"}}, "change needs either to or direction"),
        ({"change": {"field": "drop_out", "to": 0.1}}, r"has no field 'drop_out'\. Did you mean 'dropout'"),
        ({"change": {"field": "dropout", "to": 7}}, r"dropout=7 is not allowed: dropout is"),
        ({"change": {"field": "dropout", "from": 0.2, "to": 0.2}}, "that is no change"),
        ({"change": {"field": "loss", "direction": "up"}}, "loss has no up and down"),
        ({**LESS, "metric": "auc"}, "metric='auc' is not measured"),
        ({**LESS, "sign": "?"}, "cannot be read: sign"),
        ({**LESS, "min_effect": -1}, "cannot be read: min_effect"),
        ({**LESS, "scope": {"dataset": [{"fact": "colour", "op": "<", "value": 1}]}}, "has no fact 'colour'"),
        ({**LESS, "given": [{"field": "dropout", "value": 0.2}]}, "given is about other fields"),
        ({**LESS, "given": [{"field": "loss", "op": "<", "value": 1}]}, "compares no numbers"),
        ({**LESS, "why": "because"}, "cannot be read: why: Extra inputs"),
        ("{", "is text that is not JSON"),
        ([1], "cannot be read"),
    ],
)
def test_a_claim_that_nothing_could_check_is_refused_in_one_line(given: Any, words: str) -> None:
    with pytest.raises(ClaimError, match=words) as refusal:
        checked(read_claim(given), SPACE)
    assert "\n" not in str(refusal.value)


def test_a_claim_reads_as_a_sentence_and_is_the_same_in_any_order() -> None:
    facts = [{"fact": "users", "op": ">", "value": 1000}, {"fact": "mean_length", "op": "<", "value": 10}]
    one = claim(scope={"backbone": "sasrec", "dataset": facts}, min_effect=0.02)
    assert one.words() == ("sasrec, users > 1000, mean_length < 10: dropout → 0.2 raises ndcg@10 by more than 2%")
    assert one.text() == claim(scope={"dataset": facts[::-1], "backbone": "sasrec"}, min_effect=0.02).text()
    assert read_claim(json.loads(one.text())).text() == one.text()


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"field": "dropout", "to": 0.2}, [True, False, True]),
        ({"field": "dropout", "from": 0.5, "to": 0.2}, [True, False, False]),
        ({"field": "dropout", "direction": "down"}, [True, False, False]),
        ({"field": "dropout", "direction": "up"}, [False, True, True]),
    ],
)
def test_a_change_covers_the_steps_it_names(change: Any, steps: list[bool]) -> None:
    one = checked(read_claim({"change": change}), SPACE)
    pairs = [(0.5, 0.2), (0.2, 0.5), (0.0, 0.2)]
    assert [one.change.covers(before, after) for before, after in pairs] == steps


def test_given_and_scope_limit_where_it_speaks() -> None:
    deep = claim(given=[{"field": "num_blocks", "op": ">=", "value": 2}])
    assert fits(deep, {"dropout": 0.5, "num_blocks": 2}, {"dropout": 0.2, "num_blocks": 2})
    assert not fits(deep, {"dropout": 0.5, "num_blocks": 1}, {"dropout": 0.2, "num_blocks": 1})
    assert not fits(deep, {"dropout": 0.5}, {"dropout": 0.2})  # a field that has no effect there
    scope = claim(scope={"backbone": "sasrec", "dataset": [{"fact": "users", "op": "<", "value": 6000}]}).scope
    assert [scope.holds("sasrec", FACTS), scope.holds("hstu", FACTS)] == [True, False]
    assert not scope.holds("sasrec", FACTS.model_copy(update={"users": 6000}))


# The statistics


def seen(dataset: int, effect: float, error: float) -> Evidence:
    return Evidence(f"d{dataset}", "sasrec", 1, effect, error**2, 1e6)


def test_a_verdict_needs_an_interval_beyond_what_is_claimed() -> None:
    says = claim()
    assert judge(says, []) == NOTHING
    assert [judge(says, [seen(1, effect, 0.01)]).verdict for effect in (0.2, 0.0, -0.2)] == [
        "supported", "insufficient", "refuted",
    ]  # fmt: skip
    assert judge(claim(sign="-"), [seen(1, -0.2, 0.01)]).verdict == "supported"
    assert judge(claim(min_effect=0.3), [seen(1, 0.2, 0.01)]).verdict == "refuted"


def test_datasets_that_disagree_beyond_noise_are_mixed() -> None:
    found = judge(claim(), [seen(1, 0.2, 0.01), seen(2, -0.2, 0.01)])
    assert (found.verdict, found.n_datasets) == ("mixed", 2)


def test_transfer_needs_five_datasets_and_an_interval_over_them() -> None:
    steady = [seen(number, 0.1 + 0.002 * number, 0.01) for number in range(5)]
    assert judge(claim(), steady[:4]).transfer == "insufficient"
    assert judge(claim(), steady).transfer == "supported"
    loose = [seen(number, effect, 0.001) for number, effect in enumerate((0.3, 0.02, 0.01, 0.02, 0.25))]
    assert judge(claim(), loose).transfer == "insufficient"


def test_an_anytime_interval_is_wider_than_one_that_may_be_looked_at_once() -> None:
    normal = 1.96 * 0.02
    assert 1.2 * normal < anytime_half_width(0.02**2, 1e9, 0.05) < 2 * normal
    assert anytime_half_width(0.02**2, 4, 0.05) > anytime_half_width(0.02**2, 1e9, 0.05)
    assert anytime_half_width(0.0, 4, 0.05) == 0


def test_what_claims_may_spend_sums_to_no_more_than_alpha() -> None:
    spent = [share_of_alpha(number, []) for number in range(10_000)]
    assert 0.04 < sum(spent) < 0.05
    assert spent == sorted(spent, reverse=True)
    # Each settled claim begins the series anew: the fifth claim after one is as free as the fifth of all, and more.
    assert share_of_alpha(10, [6]) == pytest.approx(share_of_alpha(10, []) + share_of_alpha(4, []))
    assert share_of_alpha(3, [1, 2, 3]) <= 0.05


# Claims in the store


def test_a_claim_is_judged_by_what_is_known_and_by_every_trial_that_lands(house: House) -> None:
    first = house.study("a")
    note = house.claim(first)
    assert (note.verdict, note.n_pairs) == ("insufficient", 0)
    second = house.study("b")
    house.pair(second, 0.3)
    note = house.memory.note(note.note_id)
    assert (note.verdict, note.n_pairs, note.n_datasets) == ("supported", 1, 1)
    assert note.effect == pytest.approx(0.3)
    late = house.claim(first, "It lowers the metric.", sign="-", force=True)
    assert (late.verdict, late.forced, late.n_pairs) == ("refuted", True, 1)


def test_the_trials_that_a_claim_was_written_from_do_not_support_it(house: House) -> None:
    study_id = house.study("a")
    trials = [house.train(study_id, {}, 0.05), house.train(study_id, {"dropout": 0.2}, 0.08)]
    note = house.claim(study_id, evidence=trials)
    assert (note.verdict, note.n_pairs) == ("insufficient", 0)
    house.train(study_id, {}, 0.0505, seed=1)
    house.train(study_id, {"dropout": 0.2}, 0.081, seed=1)
    assert house.memory.note(note.note_id).n_pairs == 1


def test_the_runs_that_made_a_parent_the_incumbent_are_left_out(house: House) -> None:
    study_id = house.study("a")
    default = house.train(study_id, {}, 0.05)
    lucky = house.train(study_id, {"num_blocks": 1}, 0.08, parent=default)
    house.train(study_id, {"num_blocks": 1, "dropout": 0.2}, 0.06, parent=lucky)
    note = house.claim(study_id)
    assert note.n_pairs == 0
    house.train(study_id, {"num_blocks": 1}, 0.06, seed=1, parent=default)  # a fresh seed of the parent
    found = house.memory.note(note.note_id)
    assert (found.n_pairs, found.effect) == (1, pytest.approx(0.0))


def test_only_pairs_of_one_dataset_and_in_scope_count(house: House) -> None:
    small, large = house.study("a", users=1000), house.study("b", users=90_000)
    house.train(small, {}, 0.05)
    house.train(large, {"dropout": 0.2}, 0.09)
    assert house.claim(small).n_pairs == 0
    house.train(large, {}, 0.05)
    note = house.claim(small, "On few users.", scope={"dataset": [{"fact": "users", "op": "<", "value": 5000}]})
    assert note.n_pairs == 0
    assert house.claim(small, "Anywhere.", metric="ndcg@10", min_effect=0.01).n_pairs == 1


def test_a_claim_that_the_data_refute_is_refused_unless_forced(house: House) -> None:
    study_id = house.study("a")
    house.pair(study_id, -0.4)
    with pytest.raises(ClaimError, match=r"^The data refute this already: over 1 matched pair dropout did -.*force="):
        house.claim(study_id)
    assert house.memory.notes() == []
    assert house.claim(study_id, force=True).forced is True


def test_the_same_claim_is_answered_with_the_one_that_is_there(house: House) -> None:
    first, second = house.study("a"), house.study("b")
    note = house.claim(first)
    assert house.claim(second, "In other words.").note_id == note.note_id


def test_nearly_the_same_heuristic_is_the_same_unless_a_number_differs(house: House) -> None:
    study_id = house.study("a")
    text = "On short sequences with few users, dropout 0.2 beat 0.5 by 6 % in ndcg@10 over three seeds, clearly."
    note = house.memory.add_note(study_id, "heuristic", text)
    near = house.memory.add_note(study_id, "heuristic", text.replace(", clearly", "").upper())
    other = house.memory.add_note(study_id, "heuristic", text.replace("6 %", "7 %"))
    assert near.note_id == note.note_id
    assert other.note_id != note.note_id


def test_evidence_of_another_study_is_refused(house: House) -> None:
    first, second = house.study("a"), house.study("b")
    trial_id = house.train(first, {}, 0.05)
    with pytest.raises(MemoryFault, match=rf"Evidence '{trial_id}' is a trial of study 's-0', not of 's-1'"):
        house.memory.add_note(second, "reflection", "It worked.", [trial_id])


def test_verdicts_survive_a_restart_and_go_on_with_the_next_trial(house: House, tmp_path: Path) -> None:
    study_id = house.study("a")
    note = house.claim(study_id)
    house.pair(study_id, 0.3)
    before = house.memory.note(note.note_id)
    house.memory.close()
    house.memory = Memory.open(tmp_path / "memory.duckdb")
    assert house.memory.note(note.note_id) == before
    house.train(study_id, {"dropout": 0.2}, 0.02, seed=7)
    after = house.memory.note(note.note_id)
    assert after.effect is not None
    assert before.effect is not None
    assert after.effect < before.effect
    house.memory.close()


def test_nothing_is_known_without_a_pair() -> None:
    assert Verdict("insufficient", "insufficient", 0, 0) == NOTHING
