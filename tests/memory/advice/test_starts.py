"""memory.advice.starts and how policies follow them: what is advised, and when that is dropped."""

import math
from random import Random
from typing import Any

import pytest

from memory.advice.lessons import lessons_of
from memory.advice.starts import Belief, Start, beliefs_of, starts_of
from memory.claim import Claim, read_claim
from memory.statistics.effects import Evidence
from memory.statistics.noise import Sigma
from server.policies import load
from server.policies.advice import accepts, advised, drop_failed_advice, expected
from server.policies.base import Observation, PolicyContext
from tests.support.examples import FACTS
from tests.support.landscapes import OTHER, SPACE, Grown, land
from tests.support.near import near
from trainers.contract.fields import space_of
from trainers.contract.space import Config
from trainers.contract.specs import SPECS


def test_the_first_start_is_what_won_on_all_and_nothing_worse_follows(lands: list[Grown]) -> None:
    (start,) = starts_of(lands, FACTS, SPACE, "ndcg@10")
    assert start.changes == {"learning_rate": 0.003, "dropout": 0.2}
    assert 0.2 < start.gain < 0.4
    assert set(start.datasets) == {"a", "b"}


def test_datasets_that_disagree_give_a_portfolio_the_similar_one_first(lands: list[Grown]) -> None:
    far = land("c", OTHER)
    far.train({}, 0.050, 0.0501)
    far.train({"num_blocks": 1}, 0.080, 0.0801)
    near_first = starts_of([lands[0], far], FACTS, SPACE, "ndcg@10")
    far_first = starts_of([lands[0], far], OTHER, SPACE, "ndcg@10")
    assert [set(start.changes) for start in near_first] == [{"learning_rate", "dropout"}, {"num_blocks"}]
    assert [set(start.changes) for start in far_first] == [{"num_blocks"}, {"learning_rate", "dropout"}]


def test_what_a_space_refuses_is_not_advised(lands: list[Grown]) -> None:
    narrow = SPACE.restrict({"learning_rate": 0.001})
    assert [start.changes for start in starts_of(lands, FACTS, narrow, "ndcg@10")] == [{"dropout": 0.2}]
    assert starts_of(lands, FACTS, SPACE, "mrr@10") == []
    assert starts_of([], FACTS, SPACE, "ndcg@10") == []


def claim(**given: Any) -> Claim:
    return read_claim(given)


def test_claims_become_beliefs_about_values_of_this_default_shrunk(lands: list[Grown]) -> None:
    faster = claim(change={"field": "learning_rate", "from": 0.001, "to": 0.003})
    deeper = claim(change={"field": "num_blocks", "direction": "up"})
    found = beliefs_of([("h-1", faster), ("h-2", deeper)], lands, FACTS, SPACE, "ndcg@10")
    assert [(one.field, one.value, one.cites) for one in found] == [("learning_rate", 0.003, ("h-1",))]
    assert 0.1 < found[0].gain < 0.25  # 20 % and 27 % in the pairs
    back = claim(change={"field": "num_blocks", "from": 1, "to": 2})
    (one,) = beliefs_of([("h-3", back)], lands, FACTS, SPACE, "ndcg@10")
    assert (one.field, one.value, one.gain < 0) == ("num_blocks", 1, True)  # the default has two already


def test_a_claim_of_another_kind_of_dataset_expects_nothing(lands: list[Grown]) -> None:
    scope = {"dataset": [{"fact": "users", "op": ">", "value": 100_000}]}
    faster = claim(scope=scope, change={"field": "learning_rate", "to": 0.003})
    assert beliefs_of([("h-1", faster)], lands, FACTS, SPACE, "ndcg@10") == []


NOISE = Sigma(0.1, 30.0)


def above(gain: float) -> float:
    """A score that is `gain` (a log) above 0.1."""
    return 0.1 * math.exp(gain)


def shares(*gains: float) -> float:
    """The sum of log gains as shares."""
    return sum(map(math.expm1, gains))


def quiet(monkeypatch: pytest.MonkeyPatch, *lands: Grown) -> None:
    """Fixes the noise of landscapes, so that what is expected can be worked by hand."""
    for one in lands:
        monkeypatch.setattr(one, "noise", lambda metric: NOISE)


def test_the_gain_of_a_start_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of 0.30 and 0.60 shrink by 0.01 / (0.01 + 0.02): 0.1 and 0.2. Two alike datasets and half a one: / 2.5."""
    first, second = land("a"), land("b")
    quiet(monkeypatch, first, second)
    for one, score in ((first, above(0.3)), (second, above(0.6))):
        one.train({}, 0.1)
        one.train({"dropout": 0.2}, score)
    assert starts_of([first, second], FACTS, SPACE, "ndcg@10") == [
        Start({"dropout": 0.2}, near(shares(0.1, 0.2) / 2.5), ("a", "b"))
    ]
    first.train({"num_blocks": 1}, above(0.6))  # 0.2 on one dataset: 0.1 more than dropout there, so it is second
    assert starts_of([first, second], FACTS, SPACE, "ndcg@10") == [
        Start({"dropout": 0.2}, near(shares(0.1, 0.2) / 2.5), ("a", "b")),
        Start({"num_blocks": 1}, near(shares(0.2) / 2.5), ("a",)),
    ]  # fmt: skip


def test_seeds_count_as_their_mean_with_less_noise_and_losses_are_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds: variance 0.01 (1/2 + 1), so the log of their mean shrinks by 0.4, over 1.5 datasets."""
    one = land("a")
    quiet(monkeypatch, one)
    one.train({}, 0.1)
    one.train({"dropout": 0.2}, above(0.2), above(0.4))
    one.train({"num_blocks": 1}, above(-0.1))
    assert starts_of([one], FACTS, SPACE, "ndcg@10") == [
        Start({"dropout": 0.2}, near(shares(0.4 * math.log((above(0.2) + above(0.4)) / 0.2)) / 1.5), ("a",))
    ]
    computed = one.gains["ndcg@10"]
    starts_of([one], FACTS, SPACE, "ndcg@10")
    assert one.gains["ndcg@10"] is computed
    one.train({"num_blocks": 1}, 0.5)
    (first,) = starts_of([one], FACTS, SPACE, "ndcg@10")
    gain = near(shares(0.4 * math.log((above(-0.1) + 0.5) / 0.2)) / 1.5)
    assert (first.changes, type(first.changes["num_blocks"]), first.gain) == ({"num_blocks": 1}, int, gain)


def test_what_adds_less_beside_the_first_is_ranked_anew_and_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside dropout (0.6 on both), one block adds 0.1 of its 0.7, and the rate 0.05 of its 0.65."""
    first, second = land("a"), land("b")
    quiet(monkeypatch, first, second)
    for one in (first, second):
        one.train({}, 0.1)
        one.train({"dropout": 0.2}, above(0.6))
    first.train({"num_blocks": 1}, above(0.7))
    second.train({"learning_rate": 0.003}, above(0.65))
    assert starts_of([first, second], FACTS, SPACE, "ndcg@10") == [
        Start({"dropout": 0.2}, near(shares(0.2, 0.2) / 2.5), ("a", "b")),
        Start({"num_blocks": 1}, near(shares(0.7 / 3) / 2.5), ("a",)),
        Start({"learning_rate": 0.003}, near(shares(0.65 / 3) / 2.5), ("b",)),
    ]  # fmt: skip


def test_four_starts_at_most_and_none_without_a_default_that_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    lands = [land(f"d{number}") for number in range(6)]
    quiet(monkeypatch, *lands)
    every: list[Config] = [
        {"dropout": 0.2}, {"num_blocks": 1}, {"learning_rate": 0.003}, {"learning_rate": 0.0003},
        {"num_blocks": 1, "dropout": 0.2}, {"num_blocks": 1, "learning_rate": 0.003},
    ]  # fmt: skip
    for number, (one, changes) in enumerate(zip(lands, every, strict=True)):
        one.train({}, 0.1)
        one.train(changes, 0.2 + 0.01 * number)
    found = [start.changes for start in starts_of(lands, FACTS, SPACE, "ndcg@10")]
    assert found == every[:1:-1]
    bare, zero = land("a"), land("b")
    quiet(monkeypatch, bare, zero)
    bare.train({"dropout": 0.2}, 0.2)
    zero.train({}, 0.0)
    zero.train({"dropout": 0.2}, 0.2)
    assert starts_of([bare, zero], FACTS, SPACE, "ndcg@10") == []


def test_the_gain_of_a_belief_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Effect 0.3 of variance 0.02: weight 1 / (0.02 + 0.0025) = 44.4, beside 100 for nothing: 13.33 / 144.4."""
    one = land("a")
    quiet(monkeypatch, one)
    one.train({}, 0.1)
    one.train({"dropout": 0.2}, above(0.3))
    less = claim(change={"field": "dropout", "to": 0.2}, sign="-", min_effect=0.2)
    assert beliefs_of([("h-1", less)], [one], FACTS, SPACE, "ndcg@10") == [
        Belief("dropout", 0.2, near(shares(0.0923077)), ("h-1",))
    ]
    assert beliefs_of([("h-1", less)], [land("b")], FACTS, SPACE, "ndcg@10") == []
    assert beliefs_of([("h-1", less)], [one], FACTS, SPACE, "recall@10") == []


def test_the_stronger_of_two_claims_on_a_value_counts_and_the_largest_gain_is_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few, many = land("a"), land("b", FACTS.model_copy(update={"users": 6000}))
    quiet(monkeypatch, few, many)
    for one, score in ((few, 0.13), (many, 0.19)):
        one.train({}, 0.1)
        one.train({"dropout": 0.2}, score)
        one.train({"num_blocks": 1}, above(-0.1))
    change = {"field": "dropout", "to": 0.2}
    claims = [
        ("h-all", claim(change=change)),
        ("h-few", claim(change=change, scope={"dataset": [{"fact": "users", "op": "<", "value": 5500}]})),
        ("h-one", claim(change={"field": "num_blocks", "from": 2, "to": 1})),
    ]
    found = beliefs_of(claims, [few, many], FACTS, SPACE, "ndcg@10")
    assert [(one.field, one.value, one.cites) for one in found] == [
        ("dropout", 0.2, ("h-all",)), ("num_blocks", 1, ("h-one",)),
    ]  # fmt: skip
    assert beliefs_of(claims[::-1], [few, many], FACTS, SPACE, "ndcg@10") == found
    twice = beliefs_of([*claims, ("h-too", claim(change=change))], [few, many], FACTS, SPACE, "ndcg@10")
    assert twice == found  # of two as strong, the first is cited


@pytest.mark.parametrize(
    ("field", "restricted", "direction", "value"),
    [
        ("num_blocks", {"num_blocks": [1, 2, 4]}, "up", 4),
        ("num_blocks", {"num_blocks": [1, 2, 4]}, "down", 1),
        ("num_blocks", {"num_blocks": [1, 2]}, "up", None),
        ("dropout", {"dropout": {"low": 0.0, "high": 0.8}}, "up", 0.66),  # 0.5 + 0.2 x 0.8
        ("dropout", {"dropout": {"low": 0.0, "high": 0.8}}, "down", 0.34),
        ("dropout", {"dropout": {"low": 0.45, "high": 0.55}}, "down", 0.48),
        ("dropout", {"dropout": {"low": 0.4, "high": 0.5}}, "up", None),
        ("learning_rate", {"learning_rate": {"low": 0.0001, "high": 0.01}}, "up", 0.00251),  # times 100 ** 0.2
        ("learning_rate", {"learning_rate": {"low": 0.0001, "high": 0.01}}, "down", 0.000398),
        ("weight_decay", {}, "up", 0.02),  # from 0 there is no logarithm
        ("patience", {"patience": {"low": 1, "high": 50}}, "up", 17),  # 8 times 50 ** 0.2 = 17.49
    ],
)
def test_a_direction_leads_to_the_next_value(
    monkeypatch: pytest.MonkeyPatch, field: str, restricted: Any, direction: str, value: float | None
) -> None:
    space = space_of(SPECS["sasrec"]).restrict(restricted)
    evidence = Evidence("a", "sasrec", 1, 0.3, 0.02, 30.0)
    monkeypatch.setattr("memory.advice.starts.evidence_of", lambda step, land, advice: evidence)
    moved = claim(change={"field": field, "direction": direction})
    found = [(one.field, one.value) for one in beliefs_of([("h-1", moved)], [land("a")], FACTS, space, "ndcg@10")]
    assert found == ([(field, value)] if value is not None else [])


def test_what_is_fixed_or_given_otherwise_has_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = Evidence("a", "sasrec", 1, 0.3, 0.02, 30.0)
    monkeypatch.setattr("memory.advice.starts.evidence_of", lambda step, land, advice: evidence)

    def values(space: Any = SPACE, **given: Any) -> list[Any]:
        found = beliefs_of([("h-1", claim(**given))], [land("a")], FACTS, space, "ndcg@10")
        return [(one.value, one.gain > 0) for one in found]

    less = {"field": "dropout", "to": 0.2}
    assert values(change=less) == [(0.2, True)]
    assert values(change={**less, "from": 0.5}) == [(0.2, True)]
    assert values(change={**less, "from": 0.4}) == []
    assert values(change={"field": "dropout", "from": 0.2, "to": 0.5}) == [(0.2, False)]
    assert values(change={"field": "dropout", "to": 0.5}) == []
    assert values(SPACE.restrict({"dropout": 0.5}), change=less) == []
    assert values(change={"field": "nothing", "to": 1}) == []
    assert values(change=less, given=[{"field": "num_blocks", "value": 2}]) == [(0.2, True)]
    assert values(change=less, given=[{"field": "num_blocks", "value": 1}]) == []
    assert values(change={"field": "loss", "direction": "up"}) == []


def test_losses_pair_although_one_of_them_has_negatives() -> None:
    one = land("a")
    one.train({}, 0.050, 0.051)
    one.train({"loss": "bce"}, 0.040, 0.041)
    assert list(one.steps("loss")) == [("full_softmax", "bce")]


def test_lessons_are_the_clearest_steps_in_their_better_direction(lands: list[Grown]) -> None:
    found = lessons_of(lands[0], "ndcg@10", ("learning_rate", "dropout", "num_blocks", "loss"))
    said = {(one.claim.change.field, one.claim.change.to): one.claim.sign for one in found}
    assert said == {("learning_rate", 0.003): "+", ("dropout", 0.2): "+", ("num_blocks", 1): "-"}
    assert all(one.trials for one in found)


def test_lessons_name_their_trials_and_the_clearest_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of 0.1414 each: 0.5 is 3.5 of them, 0.2 is 1.41, -0.145 is just above one and -0.14 just below."""
    one = land("a")
    quiet(monkeypatch, one)
    one.train({}, 0.1)
    one.train({"dropout": 0.2}, above(0.2))
    one.train({"learning_rate": 0.003}, above(0.5))
    one.train({"num_blocks": 1}, above(-0.145))
    one.train({"loss": "bce"}, above(-0.14))
    found = lessons_of(one, "ndcg@10", ("learning_rate", "dropout", "num_blocks", "loss"))
    assert [(lesson.claim.change.field, lesson.claim.sign, lesson.trials) for lesson in found] == [
        ("learning_rate", "+", ("t-a-0", "t-a-2")), ("dropout", "+", ("t-a-0", "t-a-1")),
        ("num_blocks", "-", ("t-a-0", "t-a-3")),
    ]  # fmt: skip
    assert [lesson.claim.scope.backbone for lesson in found] == ["sasrec"] * 3
    assert lessons_of(one, "ndcg@10", ("loss",)) == []


# How policies follow


def seen(number: int, score: float, changes: Config | None = None) -> Observation:
    config = SPACE.apply(SPACE.default(), changes or {})
    return Observation(f"t-{number}", number, config, 0, "ok", score, changes or {}, "t-0" if number else None)


BRIEF = PolicyContext(
    "ndcg@10", "sasrec", {"users": 5000.0},
    starts=(Start({"learning_rate": 0.003}, 0.1, ("a",)), Start({"num_blocks": 1}, 0.05, ("a", "b"))),
    beliefs=(Belief("dropout", 0.2, 0.05, ("h-1",)), Belief("loss", "bce", -0.5, ("h-2",))),
)  # fmt: skip


@pytest.mark.parametrize("policy", ["playbook", "hybrid", "tpe"])
def test_a_policy_trains_what_is_advised_right_after_the_default(policy: str) -> None:
    proposal = load(policy).propose(SPACE, [seen(0, 0.05)], BRIEF, Random(0))
    assert proposal is not None
    assert (proposal.changes, proposal.parent) == ({"learning_rate": 0.003}, "t-0")
    assert proposal.hypothesis == "memory: won on 1 dataset like this one"


def test_claims_come_after_what_won_and_are_cited() -> None:
    history = [seen(0, 0.05), seen(1, 0.06, {"learning_rate": 0.003}), seen(2, 0.04, {"num_blocks": 1})]
    proposal = advised(SPACE, history, BRIEF)
    assert proposal is not None
    assert (proposal.changes, proposal.cites) == ({"dropout": 0.2}, ("h-1",))
    assert drop_failed_advice(SPACE, history, BRIEF) is BRIEF


def test_after_two_disappointments_memory_is_dismissed_unless_it_led() -> None:
    history = [seen(0, 0.05), seen(1, 0.04, {"learning_rate": 0.003}), seen(2, 0.04, {"num_blocks": 1})]
    assert advised(SPACE, history, BRIEF) is None
    dropped = drop_failed_advice(SPACE, history, BRIEF)
    assert (dropped.starts, dropped.beliefs) == ((), ())


def test_a_sampler_leans_towards_what_claims_expect_and_less_in_time() -> None:
    good, bad = (SPACE.apply(SPACE.default(), change) for change in ({"dropout": 0.2}, {"loss": "bce"}))
    assert [expected(SPACE, BRIEF.beliefs, config) for config in (good, bad)] == [0.05, -0.5]
    taken = [sum(accepts(SPACE, BRIEF, bad, count, Random(seed)) for seed in range(300)) for count in (0, 40)]
    assert taken[0] < 5 < taken[1] < 150
    assert all(accepts(SPACE, BRIEF, good, 0, Random(seed)) for seed in range(50))
