"""trainers.contract.space and trainers.contract.wire: bounds, conditions, identity and presets."""

import pytest

from trainers.contract.facts import DatasetFacts
from trainers.contract.fields import space_of
from trainers.contract.presets import Preset, preset
from trainers.contract.space import Condition, Field, Space, SpaceError
from trainers.contract.specs import SPECS, HSTUSpec, SASRecSpec

FACTS = DatasetFacts(
    users=1000, items=500, interactions=8000, mean_length=8, p50_length=7, p90_length=12, p95_length=15, density=0.016,
    item_gini=0.5, repeat_rate=0.0, timestamp_tie_rate=None, ascending_id_rate=0.5,
)  # fmt: skip


@pytest.fixture
def space() -> Space:
    return space_of(SASRecSpec)


@pytest.mark.parametrize("backbone", list(SPECS))
@pytest.mark.parametrize("name", ["strong", "paper"])
def test_presets_lie_inside_their_own_space(backbone: str, name: Preset) -> None:
    spec = preset(name, backbone, FACTS)
    assert space_of(SPECS[backbone]).check(spec.model_dump()) == spec.model_dump()


def test_the_strong_preset_is_the_measured_one() -> None:
    spec = preset("strong", "sasrec", FACTS)
    assert (spec.hidden_dim, spec.num_blocks, spec.num_heads, spec.dropout) == (64, 2, 2, 0.5)
    assert (spec.learning_rate, spec.beta2, spec.batch_size, spec.loss) == (1e-3, 0.98, 256, "full_softmax")
    assert (spec.max_length, spec.max_epochs, spec.patience, spec.tie_embeddings) == (50, 120, 8, True)


def test_a_large_catalogue_trains_on_sampled_softmax_and_long_histories_on_more_items() -> None:
    spec = preset("strong", "hstu", FACTS.model_copy(update={"items": 200_000, "p90_length": 90.0}))
    assert (spec.loss, spec.max_length) == ("sampled_softmax", 100)


def test_the_paper_preset_of_hstu_scores_by_cosine() -> None:
    spec = preset("paper", "hstu", FACTS)
    assert isinstance(spec, HSTUSpec)
    assert (spec.normalize_embeddings, spec.temperature, spec.num_negatives) == (True, 0.05, 500)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 10}, r"learning_rate=10 is not allowed: learning_rate is 1e-05 to 0.01 \(log scale\)"),
        ({"learning_rate": float("nan")}, "learning_rate=nan is not allowed"),
        ({"learning_rate": "fast"}, "learning_rate='fast' is not allowed"),
        ({"hidden_dim": 64.5}, "hidden_dim=64.5 is not allowed"),
        ({"num_blocks": True}, "num_blocks=True is not allowed"),
        ({"tie_embeddings": 1}, "tie_embeddings=1 is not allowed: tie_embeddings is true or false"),
        ({"loss": "bpr"}, 'loss is one of "full_softmax", "sampled_softmax"'),
        ({"lerning_rate": 0.01}, "has no field 'lerning_rate'. Did you mean 'learning_rate'?"),
        ({"num_heads": 3}, "hidden_dim=64 is not a multiple of num_heads=3"),
        ({"num_negatives": 64}, 'num_negatives has no effect here: it needs loss="sampled_softmax"'),
        ({"weight_decay": 1e-9}, "weight_decay is 0 or 1e-06 to 0.1"),
    ],
)
def test_a_bad_change_is_refused_with_what_is_allowed(space: Space, changes: dict, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space.apply(space.default(), changes)


def test_chained_conditions_name_the_one_that_fails() -> None:
    def field(name: str, default: int, when: tuple[Condition, ...] = ()) -> Field:
        return Field(name=name, kind="int", default=default, low=0, high=9, group="training", when=when)

    space = Space(
        backbone="mine",
        fields=(
            field("a", 0),
            field("b", 1, (Condition(field="a", values=(3,)),)),
            field("c", 1, (Condition(field="b", above=0),)),
            field("d", 1, (Condition(field="b", above=4), Condition(field="a", values=(7,)))),
        ),
    )
    with pytest.raises(SpaceError) as chained:
        space.apply(space.default(), {"c": 2})
    assert str(chained.value) == "c has no effect here: it needs a=3, and a is 0. Change a too, or leave c out."
    with pytest.raises(SpaceError) as either:
        space.apply(space.default(), {"d": 2})
    assert str(either.value) == (
        "d has no effect here: it needs b above 4 and a=3, or a=7, and b is 1 and a is 0. "
        "Change b and a or a too, or leave d out."
    )
    assert space.apply(space.default(), {"a": 3, "b": 5, "c": 2, "d": 2})["d"] == 2


def test_a_conditional_field_may_change_together_with_its_switch(space: Space) -> None:
    config = space.apply(space.default(), {"loss": "sampled_softmax", "num_negatives": 64})
    assert (config["loss"], config["num_negatives"]) == ("sampled_softmax", 64)


def test_inactive_and_neutral_fields_change_no_hash(space: Space) -> None:
    default = space.default()
    assert space.hash(default) == space.hash({**default, "num_negatives": 7})
    assert "attention_dropout" not in space.canonical(default)
    assert space.hash(default) != space.hash({**default, "attention_dropout": 0.1})


def test_a_whole_float_is_the_same_configuration_as_the_int(space: Space) -> None:
    assert space.apply(space.default(), {"hidden_dim": 32.0}) == space.apply(space.default(), {"hidden_dim": 32})


def test_two_configurations_that_differ_in_one_field_share_its_rest_hash(space: Space) -> None:
    one, other = space.default(), {**space.default(), "dropout": 0.2}
    assert space.hash(one, leave_out="dropout") == space.hash(other, leave_out="dropout")


def test_restricting_fixes_narrows_and_keeps_the_default_inside(space: Space) -> None:
    limited = space.restrict(
        {"dropout": 0.2, "hidden_dim": [32, 128], "learning_rate": {"low": 2e-3}, "weight_decay": {"high": 0.01}}
    )
    assert limited.field("dropout").fixed
    assert limited.default()["hidden_dim"] == 32
    assert limited.default()["learning_rate"] == 2e-3
    assert limited.default()["weight_decay"] == 0.0
    with pytest.raises(SpaceError, match=r"dropout is fixed at 0\.2"):
        limited.apply(limited.default(), {"dropout": 0.3})
    with pytest.raises(SpaceError, match="hidden_dim is one of 32, 128"):
        limited.apply(limited.default(), {"hidden_dim": 64})


@pytest.mark.parametrize("limit", [[], {"low": 1e-2, "high": 1e-3}, {"lo": 1}, {}, 7])
def test_a_meaningless_restriction_is_refused(space: Space, limit: object) -> None:
    with pytest.raises(SpaceError, match="learning_rate"):
        space.restrict({"learning_rate": limit})


def test_fractions_walk_a_field_on_its_scale(space: Space) -> None:
    rate = space.field("learning_rate")
    assert [rate.at(0.0), rate.at(1.0)] == [1e-5, 1e-2]
    assert rate.at(1 / 3) == pytest.approx(1e-4, rel=1e-3)
    assert space.field("tie_embeddings").at(0.0) is False
    assert space.field("loss").at(0.99) == "gbce"
    assert isinstance(space.field("num_blocks").at(0.5), int)


def test_a_space_survives_json(space: Space) -> None:
    assert Space.model_validate_json(space.model_dump_json()) == space
