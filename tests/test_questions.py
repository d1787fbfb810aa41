"""Open questions: which claims contradict each other, and when a meta-feature is said to separate them."""

from typing import Any

import pytest

from memory.claims import Claim, read_claim
from memory.effects import Evidence
from memory.questions import meet, question, separation
from tests.examples import FACTS


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
    apart = (claim("+", ("users", "<", 10)), claim("-", ("users", ">", 10)))
    assert question(("h-1", "h-2"), apart, {}, {}) is None


def test_a_feature_is_offered_from_ten_datasets_on_with_its_chance() -> None:
    facts = [FACTS.model_copy(update={"mean_length": 5.0 + n, "users": 1000 + n % 3}) for n in range(12)]
    seen = [(one, 0.1 - 0.02 * n) for n, one in enumerate(facts)]
    found = separation(seen)
    assert found is not None
    assert (found.feature, found.p <= 0.005) == ("mean_length", True)
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
