"""Open questions: which claims contradict each other, and when a meta-feature is said to separate them."""

from typing import Any

import pytest

from memory.advice import questions
from memory.advice.questions import Separation, meet, question, separation
from memory.claim import Claim, read_claim
from memory.statistics.effects import Evidence
from tests.support.examples import FACTS


def claim(sign: str, *facts: tuple[str, str, float]) -> Claim:
    scope = [{"fact": fact, "op": op, "value": value} for fact, op, value in facts]
    return read_claim({"scope": {"dataset": scope}, "change": {"field": "dropout", "to": 0.2}, "sign": sign})


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ([], [("users", "<", 5)], True),
        ([("users", "<", 5)], [("users", ">", 4)], True),
        ([("users", "<", 5)], [("users", ">", 5)], False),
        ([("users", "<=", 5)], [("users", ">=", 5)], True),
        ([("users", "<=", 5)], [("users", ">", 5)], False),
        ([("users", "<", 5)], [("mean_length", ">", 5)], True),
        ([("users", "<", 5), ("users", "<=", 5)], [("users", ">=", 5)], False),
        ([("users", "<=", 5)], [("users", ">", 5), ("users", ">=", 5)], False),
        ([("users", "<", 9), ("users", "<", 5)], [("users", ">", 6)], False),
        ([("users", "<", 9)], [("users", ">", 2), ("users", ">", 9)], False),
        ([("mean_length", ">", 1), ("users", "<", 5)], [("users", ">", 6)], False),
    ],
)
def test_scopes_meet_where_a_dataset_can_be_in_both(one: Any, other: Any, wanted: bool) -> None:
    assert meet(claim("+", *one).scope.dataset, claim("-", *other).scope.dataset) is wanted


def test_a_question_names_the_experiment_that_would_settle_it() -> None:
    claims = (claim("+", ("users", "<", 9000)), claim("-"))
    found = question(("h-1", "h-2"), claims, {}, {})
    assert found is not None
    assert found.text == (
        "h-1 says any backbone, users < 9000: dropout → 0.2 raises ndcg@10; h-2 says any backbone: dropout → 0.2 "
        "lowers ndcg@10. To separate them, train both sides of dropout → 0.2 with the same two seeds on a dataset "
        "with users < 9000, nothing else changed."
    )
    moved = {
        "change": {"field": "dropout", "direction": "up"},
        "scope": {"dataset": [{"fact": "items", "op": ">", "value": 7}]},
    }
    up = question(("h-1", "h-2"), (read_claim({**moved, "sign": "+"}), claim("-", ("users", "<", 9000))), {}, {})
    assert up is not None
    assert "both sides of dropout up with the same two seeds on a dataset with items > 7 and users < 9000" in up.text
    apart = (claim("+", ("users", "<", 10)), claim("-", ("users", ">", 10)))
    assert question(("h-1", "h-2"), apart, {}, {}) is None


def test_a_feature_is_offered_from_ten_datasets_on_with_its_chance() -> None:
    facts = [FACTS.model_copy(update={"mean_length": 5.0 + n, "users": 1000 + n % 3}) for n in range(12)]
    seen = [(one, 0.1 - 0.02 * n) for n, one in enumerate(facts)]
    found = separation(seen)
    assert found is not None
    assert found == Separation("mean_length", 0.001)  # none of 999 permutations is as strong
    assert separation(seen[:9]) is None
    luck = separation([(one, (-1) ** n * 0.1 + 0.001 * (n * 7 % 12)) for n, one in enumerate(facts)])
    assert luck is not None
    assert luck.p > 0.05


def test_the_feature_stands_in_the_question() -> None:
    facts = {f"d{n}": FACTS.model_copy(update={"mean_length": 5.0 + n}) for n in range(10)}
    evidence = {name: Evidence(name, "sasrec", 1, 0.1 - 0.02 * n, 0.01, 5) for n, name in enumerate(facts)}
    found = question(("h-1", "h-2"), (claim("+"), claim("-")), evidence, facts)
    assert found is not None
    assert "mean_length goes best with the effect (permutation p 0.0" in found.text


def test_the_chance_counts_every_feature_and_every_permutation_that_is_as_strong() -> None:
    """No feature differs between the datasets, so each permutation is as strong as what was seen."""
    assert separation([(FACTS, 0.01 * n) for n in range(10)]) == Separation("users", 1.0)


def test_the_strongest_feature_may_fall_with_the_effect_and_ties_share_their_rank() -> None:
    """By ranks, items explain ten effects but for one swap; users explain five pairs of them, with ties."""
    effects = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.09, 0.08]
    facts = [FACTS.model_copy(update={"items": 900 - n, "users": 1000 + n // 2}) for n in range(10)]
    found = separation(list(zip(facts, effects, strict=True)))
    assert found is not None
    assert (found.feature, found.p) == ("items", 0.001)
    tied = separation([(one, 0.1 * (n // 2)) for n, one in enumerate(facts)])
    assert tied is not None
    assert tied.feature == "users"  # exactly the same ties


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert questions._ranks([3, 1, 3, 3, 2]) == [3.0, 0.0, 3.0, 3.0, 1.0]
