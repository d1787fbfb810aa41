"""One contract for all policies."""

import sys
from random import Random

import pytest

from server.policies import POLICIES, load
from server.policies.base import MissingExtra, Observation, Policy, PolicyContext, Proposal
from trainers.contract.fields import space_of
from trainers.contract.space import Config, Space
from trainers.contract.specs import SPECS

SASREC, HSTU = space_of(SPECS["sasrec"]), space_of(SPECS["hstu"])
SMALL = {"dropout": [0.2, 0.5], "num_blocks": [1, 2]}
BRIEF = PolicyContext("ndcg@10", "sasrec", {"users": 2000.0, "mean_length": 8.0})


@pytest.fixture(params=list(POLICIES))
def policy(request: pytest.FixtureRequest) -> Policy:
    return load(request.param)


def only(**free: object) -> Space:
    """The space of SASRec with all fields fixed but those given."""
    return SASREC.restrict({field.name: free.get(field.name, field.default) for field in SASREC.fields})


def configured(space: Space, history: list[Observation], proposal: Proposal) -> Config:
    """The configuration that the server would train; raises where it would refuse."""
    by_id = {trial.trial_id: trial for trial in history}
    if proposal.replicate_of is not None:
        assert not proposal.changes
        assert proposal.parent is None
        return by_id[proposal.replicate_of].config
    parent = by_id[proposal.parent].config if proposal.parent else space.default()
    return space.apply(parent, proposal.changes)


def played(
    policy: Policy, space: Space, trainings: int, status: str = "ok", seed: int = 0, brief: PolicyContext = BRIEF
) -> tuple[list[Observation], list[Proposal]]:
    """A history of `trainings`, or fewer where the policy stops: the better the lower dropout, others as `status`."""
    history: list[Observation] = []
    proposals: list[Proposal] = []
    numbers: dict[str, int] = {}
    while len(history) < trainings:
        proposal = policy.propose(space, history, brief, Random(f"{seed}:{len(history)}"))
        if proposal is None:
            break
        config = configured(space, history, proposal)
        ok = status == "ok" or not history
        score = 0.1 - 0.05 * float(config["dropout"]) if ok else None
        best = max((trial.score or 0.0 for trial in history), default=0.0)
        history.append(
            Observation(
                f"t-{len(history)}", numbers.setdefault(space.hash(config), len(numbers)), config, len(history),
                "ok" if ok else status, score, proposal.changes, proposal.parent, proposal.replicate_of,
                verdict="better" if (score or 0) > best else "tied", seconds=1.0,
            )
        )  # fmt: skip
        proposals.append(proposal)
    return history, proposals


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"--policy tpe needs Optuna: pip install 'virtualmle\[search\]'"):
        load("tpe")


def test_the_first_trial_is_the_default(policy: Policy) -> None:
    first = policy.propose(SASREC, [], BRIEF, Random(0))
    assert first is not None
    assert (first.changes, first.parent, first.replicate_of) == ({}, None, None)


@pytest.mark.parametrize("space", [SASREC, HSTU], ids=["sasrec", "hstu"])
def test_every_proposal_is_valid(policy: Policy, space: Space) -> None:
    history, _ = played(policy, space, 25)
    assert len(history) == 25
    assert all(space.check(trial.config) == trial.config for trial in history)


def test_fixed_fields_are_never_touched(policy: Policy) -> None:
    space = SASREC.restrict({"learning_rate": 0.002, "hidden_dim": 96, "loss": "sampled_softmax"})
    history, proposals = played(policy, space, 20)
    assert {(t.config["learning_rate"], t.config["hidden_dim"], t.config["loss"]) for t in history} == {
        (0.002, 96, "sampled_softmax")
    }
    assert not {"learning_rate", "hidden_dim", "loss"} & {name for one in proposals for name in one.changes}


def test_narrowed_fields_stay_inside(policy: Policy) -> None:
    space = SASREC.restrict({"dropout": {"low": 0.3, "high": 0.4}, "num_heads": [1, 2], "weight_decay": {"low": 1e-4}})
    history, _ = played(policy, space, 20)
    assert all(0.3 <= float(trial.config["dropout"]) <= 0.4 for trial in history)
    assert {trial.config["num_heads"] for trial in history} <= {1, 2}


def test_the_same_seed_gives_the_same_proposals(policy: Policy) -> None:
    assert played(policy, SASREC, 12, seed=3)[1] == played(policy, SASREC, 12, seed=3)[1]


def test_no_configuration_is_trained_twice_while_others_exist(policy: Policy) -> None:
    space = only(**SMALL)
    history, proposals = played(policy, space, 30)
    tried = [
        space.hash(trial.config)
        for trial, proposal in zip(history, proposals, strict=True)
        if proposal.replicate_of is None
    ]
    assert len(tried) == len(set(tried)) == 4


def test_an_exhausted_space_is_said_so(policy: Policy) -> None:
    space = only(**SMALL)
    history, _ = played(policy, space, 30)
    assert len(history) < 30
    assert policy.propose(space, history, BRIEF, Random(0)) is None


@pytest.mark.parametrize("status", ["diverged", "out_of_memory", "timed_out", "crashed", "cancelled"])
def test_failed_trials_do_not_stop_the_search(policy: Policy, status: str) -> None:
    history, _ = played(policy, SASREC, 12, status=status)
    assert len(history) == 12
    assert len({SASREC.hash(trial.config) for trial in history}) == 12


def test_a_default_that_failed_is_worked_around(policy: Policy) -> None:
    failed = Observation("t-0", 0, SASREC.default(), 0, "diverged", None, diagnosis=("unstable: it diverged",))
    proposal = policy.propose(SASREC, [failed], BRIEF, Random(0))
    assert proposal is not None
    assert configured(SASREC, [failed], proposal) != SASREC.default()


def test_a_history_of_only_the_default_is_enough(policy: Policy) -> None:
    first = Observation("t-0", 0, SASREC.default(), 0, "ok", 0.05)
    proposal = policy.propose(SASREC, [first], BRIEF, Random(0))
    assert proposal is not None
    assert proposal.changes


def test_one_free_field_is_searched(policy: Policy) -> None:
    space = only(dropout={"low": 0.0, "high": 0.8})
    history, proposals = played(policy, space, 10)
    assert len(history) == 10
    assert {name for one in proposals for name in one.changes} == {"dropout"}


def test_without_a_free_field_only_the_default_is_left(policy: Policy) -> None:
    history, _ = played(policy, only(), 5)
    assert len(history) == 1


def test_with_no_configuration_left_only_replicates_are_proposed(policy: Policy) -> None:
    history, _ = played(policy, SASREC, 4)
    proposal = policy.propose(SASREC, history, PolicyContext("ndcg@10", "sasrec", trials_left=0), Random(0))
    assert proposal is None or proposal.replicate_of is not None


def test_conditional_fields_are_changed_only_where_they_matter(policy: Policy) -> None:
    space = only(loss=["full_softmax", "sampled_softmax"], num_negatives={"low": 64, "high": 512})
    _, proposals = played(policy, space, 10)
    assert len(proposals) == 10
    assert any("num_negatives" in one.changes for one in proposals)
