"""memory.priors and how policies follow them: what is advised, and when that is dropped."""

from random import Random
from typing import Any

import pytest

from memory.claims import Claim, read_claim
from memory.distill import lessons_of
from memory.landscape import Landscape, Run, Setting
from memory.priors import Belief, Start, beliefs_of, starts_of
from server.policies import load
from server.policies.advice import accepts, advised, expected, heeded
from server.policies.base import Brief, Observation
from tests.examples import FACTS
from trainers.fields import space_of
from trainers.space import Config
from trainers.spec import SPECS

SPACE = space_of(SPECS["sasrec"]).restrict(
    {
        "dropout": [0.2, 0.5],
        "learning_rate": [0.0003, 0.001, 0.003],
        "num_blocks": [1, 2],
        "loss": ["full_softmax", "bce"],
    }
)
OTHER = FACTS.model_copy(update={"users": 500_000, "items": 90_000, "mean_length": 90.0})


class Grown(Landscape):
    """A landscape that is told scores by changes of the default."""

    def train(self, changes: Config, *scores: float, parent: Config | None = None) -> None:
        config = SPACE.apply(SPACE.default(), changes)
        for score in scores:
            order = sum(len(runs) for runs in self.runs.values())
            run = Run(
                trial_id=f"t-{self.dataset_hash}-{order}", setting=Setting("auto", "2"), config_hash=SPACE.hash(config),
                seed=order, order=order, is_default=not changes, weights=f"t-{self.dataset_hash}-{order}",
                parent=None if parent is None else SPACE.hash(SPACE.apply(SPACE.default(), parent)),
                scores={"ndcg@10": score},
            )  # fmt: skip
            self.add(run, config, SPACE.rests(config))


def land(name: str, facts: Any = FACTS) -> Grown:
    return Grown(name, "sasrec", facts)


@pytest.fixture
def lands() -> list[Grown]:
    """Two datasets where a higher rate and less dropout help, most of all together."""
    found = [land("a"), land("b")]
    for one in found:
        one.train({}, 0.050, 0.0501)
        one.train({"learning_rate": 0.003}, 0.060, 0.0601)
        one.train({"dropout": 0.2}, 0.055, 0.0551)
        one.train({"learning_rate": 0.003, "dropout": 0.2}, 0.070, 0.0701)
        one.train({"num_blocks": 1}, 0.045, 0.0451)
    return found


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


# How policies follow


def seen(number: int, score: float, changes: Config | None = None) -> Observation:
    config = SPACE.apply(SPACE.default(), changes or {})
    return Observation(f"t-{number}", number, config, 0, "ok", score, changes or {}, "t-0" if number else None)


BRIEF = Brief(
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
    assert heeded(SPACE, history, BRIEF) is BRIEF


def test_after_two_disappointments_memory_is_dismissed_unless_it_led() -> None:
    history = [seen(0, 0.05), seen(1, 0.04, {"learning_rate": 0.003}), seen(2, 0.04, {"num_blocks": 1})]
    assert advised(SPACE, history, BRIEF) is None
    dropped = heeded(SPACE, history, BRIEF)
    assert (dropped.starts, dropped.beliefs) == ((), ())


def test_a_sampler_leans_towards_what_claims_expect_and_less_in_time() -> None:
    good, bad = (SPACE.apply(SPACE.default(), change) for change in ({"dropout": 0.2}, {"loss": "bce"}))
    assert [expected(SPACE, BRIEF.beliefs, config) for config in (good, bad)] == [0.05, -0.5]
    taken = [sum(accepts(SPACE, BRIEF, bad, count, Random(seed)) for seed in range(300)) for count in (0, 40)]
    assert taken[0] < 5 < taken[1] < 150
    assert all(accepts(SPACE, BRIEF, good, 0, Random(seed)) for seed in range(50))
