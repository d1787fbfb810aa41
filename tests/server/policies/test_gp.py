"""memory.statistics.elsewhere, server.policies.surrogate and gp: what other datasets teach a model of this one."""

from random import Random

import numpy as np
import pytest

from memory.statistics import elsewhere as lending
from memory.statistics.elsewhere import ELSEWHERE, Elsewhere, Point, elsewhere_of
from server.policies import gp, load
from server.policies.base import Observation, PolicyContext
from server.policies.surrogate import Task, expected_improvement, features
from tests.support.examples import FACTS
from tests.support.landscapes import OTHER, SPACE, Grown, land, lands
from trainers.contract.fields import space_of
from trainers.contract.space import Config, Space
from trainers.contract.specs import SPECS

__all__ = ["lands"]
FAST: Config = {"learning_rate": 0.003}
LIGHT: Config = {"dropout": 0.2}


def at(**changes: float | str) -> Config:
    return SPACE.apply(SPACE.default(), changes)


def observed(*scored: tuple[Config, float | None]) -> list[Observation]:
    """Trainings of one seed each; without a score: diverged."""
    return [
        Observation(
            f"t-{number}", number, SPACE.apply(SPACE.default(), changes), 0, "diverged" if score is None else "ok",
            score, changes, None if number == 0 else "t-0",
        )
        for number, (changes, score) in enumerate(scored)
    ]  # fmt: skip


def brief(*others: Elsewhere) -> PolicyContext:
    return PolicyContext("ndcg@10", "sasrec", {}, elsewhere=others)


FOUR = SPACE.restrict(
    {
        one.name: one.default
        for one in SPACE.free()
        if one.name not in ("dropout", "learning_rate", "num_blocks", "loss")
    }
)


def proposed(history: list[Observation], known: PolicyContext, space: Space = SPACE) -> Config:
    found = load("gp").propose(space, history, known, Random(0))
    assert found is not None
    return found.changes


def test_datasets_lend_their_means_the_most_similar_first(lands: list[Grown]) -> None:
    far = Grown("far", "sasrec", OTHER)
    far.runs, far.settings, far.values = lands[0].runs, lands[0].settings, lands[0].values
    found = elsewhere_of([far, *lands], FACTS, "ndcg@10")
    assert [one.dataset_hash for one in found] == ["a", "b", "far"]
    assert found[0].similarity == 1 > found[2].similarity
    best = found[0].points[0]
    assert (best.mean, best.seeds) == (pytest.approx(0.07005), 2)
    assert (best.config["learning_rate"], best.config["dropout"]) == (0.003, 0.2)
    assert ELSEWHERE.validate_json(ELSEWHERE.dump_json(found)) == found


def test_a_study_is_not_told_its_own_trials_again(lands: list[Grown]) -> None:
    own = [name for name in lands[0].trial_ids if name not in ("t-a-0", "t-a-2", "t-a-4")]
    (found,) = elsewhere_of(lands[:1], FACTS, "ndcg@10", without=own)
    assert [point.seeds for point in found.points] == [1, 1, 1]
    assert elsewhere_of(lands[:1], FACTS, "ndcg@10", without=lands[0].trial_ids) == []


def test_what_is_lent_has_a_limit_that_keeps_the_best(lands: list[Grown], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "ALL_POINTS", 7)
    monkeypatch.setattr(lending, "POINTS", 3)
    found = elsewhere_of(lands, FACTS, "ndcg@10")
    assert [len(one.points) for one in found] == [3, 3]
    assert all(one.points[0].mean == pytest.approx(0.07005) for one in found)


def test_features_are_places_in_the_ranges_and_columns_of_choices() -> None:
    found = features(SPACE, [at(), at(learning_rate=0.0003, loss="bce")])
    rate = [field.name for field in SPACE.free()].index("learning_rate")
    assert found.columns[:, found.owner == rate].tolist() == [[0.5], [0.0]]
    loss = [field.name for field in SPACE.free()].index("loss")
    there = found.columns[:, found.owner == loss]
    assert np.square(there[0] - there[1]).sum() == pytest.approx(1.0)


def test_a_field_without_effect_stands_apart_from_all_its_values() -> None:
    space = space_of(SPECS["sasrec"]).restrict({"loss": ["full_softmax", "sampled_softmax"]})
    counts = [name.name for name in space.free()].index("num_negatives")
    full = space.default()
    found = features(space, [full, space.apply(full, {"loss": "sampled_softmax", "num_negatives": 64})])
    assert found.columns[0, found.owner == counts].tolist() == [-1.0]
    assert found.columns[1, found.owner == counts].min() >= 0
    without = {name: value for name, value in full.items() if name != "num_negatives"}
    assert np.array_equal(features(space, [without]).columns[0], found.columns[0])


def test_what_won_elsewhere_is_tried_soon(lands: list[Grown]) -> None:
    known = brief(*elsewhere_of(lands, FACTS, "ndcg@10"))
    assert proposed(observed(({}, 0.03), ({"num_blocks": 1}, 0.03)), known) == {**FAST, **LIGHT}


@pytest.mark.parametrize(("light", "first"), [(0.052, FAST), (0.08, LIGHT)])
def test_the_playbook_moves_first_unless_memory_expects_much_more(light: float, first: Config) -> None:
    found = land("a")
    found.train({}, 0.050, 0.0501)
    found.train(FAST, 0.045, 0.0451)
    found.train(LIGHT, light, light + 0.0001)
    known = brief(*elsewhere_of([found], FACTS, "ndcg@10"))
    assert proposed(observed(({}, 0.03)), known, FOUR).items() >= first.items()


def test_what_helped_singly_elsewhere_is_tried_together() -> None:
    found = land("a")
    found.train({}, 0.050, 0.0501)
    found.train(FAST, 0.060, 0.0601)
    found.train(LIGHT, 0.057, 0.0571)
    found.train({"num_blocks": 1}, 0.045, 0.0451)
    known = brief(*elsewhere_of([found], FACTS, "ndcg@10"))
    seen = observed(({}, 0.03), ({"loss": "bce"}, 0.028))
    assert proposed(seen, known, FOUR).items() >= {**FAST, **LIGHT}.items()


def test_the_study_outweighs_what_other_datasets_say(lands: list[Grown]) -> None:
    known = elsewhere_of(lands, FACTS, "ndcg@10")
    seen = observed(
        ({}, 0.030), ({**FAST, **LIGHT}, 0.020), (FAST, 0.022), (LIGHT, 0.027), ({"learning_rate": 0.0003}, 0.0299),
    )  # fmt: skip
    tried = proposed(seen, brief(*known))
    assert tried.get("learning_rate") != 0.003


def test_a_study_that_contradicts_all_others_stops_listening_to_them() -> None:
    """The others agree among themselves, and say the opposite of what is true here."""
    elsewhere = [land(name) for name in "abcd"]
    for one in elsewhere:
        one.train({}, 0.050, 0.0501)
        one.train({"learning_rate": 0.0003}, 0.070, 0.0701)
        one.train(FAST, 0.035, 0.0351)
        one.train(LIGHT, 0.040, 0.0401)
        one.train({**LIGHT, **FAST}, 0.028, 0.0281)
    known = brief(*elsewhere_of(elsewhere, FACTS, "ndcg@10"))
    seen = observed(({}, 0.05), ({"learning_rate": 0.0003}, 0.035), (LIGHT, 0.06), ({"num_blocks": 1}, 0.049))
    seen.append(Observation("t-4", 2, SPACE.apply(SPACE.default(), LIGHT), 1, "ok", 0.0601, LIGHT, None, "t-2"))
    assert proposed(seen, known, FOUR).items() >= {**FAST, **LIGHT}.items()


def test_expected_improvement_is_largest_where_nothing_is_known_and_all_else_is_equal() -> None:
    near, away = at(dropout=0.2), at(dropout=0.2, learning_rate=0.003, num_blocks=1, loss="bce")
    own = Task([at(), at(num_blocks=1)], [0.05, 0.05], [4, 4], 0.01)
    gains = expected_improvement(SPACE, own, [], [near, away], [0.0, 0.0])
    assert 0 < gains[0] < gains[1]


def test_a_configuration_that_diverged_speaks_against_its_neighbours() -> None:
    seen = observed(
        ({}, 0.05), (FAST, None), ({"dropout": 0.2}, 0.051), ({"num_blocks": 1}, 0.05), ({"loss": "bce"}, 0.05)
    )
    seen.append(Observation("t-5", 2, at(**LIGHT), 1, "ok", 0.051, {}, None, "t-2"))
    tried = proposed(seen, brief())
    assert tried.get("learning_rate") != 0.003


def test_without_memory_the_playbook_opens() -> None:
    first = load("playbook").propose(SPACE, observed(({}, 0.05)), brief(), Random(0))
    assert first == load("gp").propose(SPACE, observed(({}, 0.05)), brief(), Random(0))


def test_every_configuration_of_a_small_space_is_a_candidate_once() -> None:
    candidates = gp._candidates(FOUR, observed(({}, 0.05), (FAST, 0.04)), brief(), Random(0))
    assert len({FOUR.hash(one) for one in candidates}) == len(candidates) == 2 * 3 * 2 * 2 - 2


def test_changing_what_nobody_varied_costs_in_a_wide_space_and_nothing_where_few_fields_are_free() -> None:
    seen = Task([at(), at(dropout=0.2)], [0.05, 0.06], [1, 1], 0.03)
    candidates = [at(dropout=0.2), at(num_blocks=1), at(num_blocks=1, hidden_dim=128, dropout=0.2)]
    assert gp._handicaps(SPACE, [seen], candidates) == [0.0, gp.UNKNOWN, 2 * gp.UNKNOWN]
    assert gp._handicaps(FOUR, [seen], candidates) == [0.0, 0.0, 0.0]
    held = expected_improvement(SPACE, seen, [], candidates[1:2], [0.02])
    assert held[0] < expected_improvement(SPACE, seen, [], candidates[1:2], [0.0])[0]


def test_points_of_another_space_are_taken_as_far_as_this_one_admits() -> None:
    strange = Point({"learning_rate": 0.003, "dropout": 0.37, "num_blocks": 9.0, "unheard_of": 1.0}, 0.07, 1)
    plain = [Point({"learning_rate": rate, "dropout": 0.5, "num_blocks": 2.0}, 0.05, 1) for rate in (0.001, 0.0003)]
    known = brief(Elsewhere("a", 0.9, 0.03, (strange, *plain)))
    space = space_of(SPECS["sasrec"]).restrict({"num_blocks": [1, 2]})
    found = load("gp").propose(space, observed(({}, 0.03)), known, Random(0))
    assert found is not None
    assert space.apply(space.default(), found.changes)
