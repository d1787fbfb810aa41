"""The recorded configuration nearest to a wanted one, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.replay.nearest import nearest, with_nearest_default
from server.replay.recorded import Table, Training
from server.replay.tables import Tables
from tests.support.recorded_tables import recorded_tables
from trainers.contract.fields import space_of
from trainers.contract.space import Config, SpaceError
from trainers.contract.specs import SPECS


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Tables(recorded_tables(tmp_path / "tables"), {"log": "abc"}).table("log", "sasrec")


@pytest.mark.parametrize(
    ("wanted", "near"),
    [
        ({"hidden_dim": 32, "dropout": 0.5}, (32, 0.5)),
        ({"hidden_dim": 64, "dropout": 0.5}, (32, 0.5)),  # as far as (64, 0.2), and first in the grid
        ({"hidden_dim": 64, "dropout": 0.3}, (64, 0.2)),
        ({"hidden_dim": 44, "dropout": 0.2}, (32, 0.2)),  # on the logarithmic scale the middle is 45.3
        ({"hidden_dim": 46, "dropout": 0.2}, (64, 0.2)),
        ({"hidden_dim": 512, "dropout": 0.2}, (64, 0.2)),
    ],
)
def test_the_nearest_configuration_counts_each_field_alike(
    table: Table, wanted: Config, near: tuple[int, float]
) -> None:
    found = nearest(table, table.space, {**table.space.default(), **wanted})
    assert found is not None
    assert (found["hidden_dim"], found["dropout"]) == near


def test_only_configurations_in_the_space_are_taken(table: Table) -> None:
    wanted: Config = {**table.space.default(), "hidden_dim": 64, "dropout": 0.5}
    space = with_nearest_default(table, table.space.restrict({"hidden_dim": 64}), wanted)
    assert (space.default()["hidden_dim"], space.default()["dropout"]) == (64, 0.2)
    with pytest.raises(SpaceError, match="No recorded configuration lies in this space"):
        with_nearest_default(table, table.space.restrict({"hidden_dim": 64, "dropout": 0.5}), wanted)


def test_a_choice_that_is_no_number_is_either_the_same_or_another() -> None:
    whole = space_of(SPECS["sasrec"])
    fixed = {field.name: field.default for field in whole.fields}
    space = whole.restrict(
        {**fixed, "loss": ["bce", "full_softmax"], "dropout": [0.2, 0.5], "num_negatives": [64, 512]}
    )
    recorded: list[Config] = [
        {**space.default(), "loss": "bce", "dropout": 0.2, "num_negatives": 64},
        {**space.default(), "loss": "full_softmax", "dropout": 0.5},
    ]
    configs = {space.hash(config): config for config in recorded}
    table = Table("d", space, configs, {key: (Training(1, "ok", {"ndcg@10": 0.1}),) for key in configs})
    found = nearest(table, space, {**space.default(), "loss": "full_softmax", "dropout": 0.2})
    assert found is not None
    assert found["loss"] == "full_softmax"  # another loss would also bring another number of negatives
