"""Recorded trainings: the table by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import duckdb
import pytest

from server.replay.recorded import Table, TableError, read
from trainers.contract.fields import space_of
from trainers.contract.space import SpaceError
from trainers.contract.specs import SPECS

SPACE = space_of(SPECS["sasrec"])
FIXED = {"max_epochs": 3, "num_negatives": 500}
ROWS = """
('log', 'sasrec', 1, 0.2e0, 'full_softmax', 'ok', 0.10e0, 0.20e0, 30.0e0, [
    {'epoch': 1, 'loss': 2.0e0, 'ndcg@10': 0.04e0}, {'epoch': 2, 'loss': 1.5e0, 'ndcg@10': 0.10e0},
    {'epoch': 3, 'loss': 1.2e0, 'ndcg@10': 0.09e0}]),
('log', 'sasrec', 2, 0.2e0, 'full_softmax', 'ok', 0.12e0, 0.22e0, 30.0e0, NULL),
('log', 'sasrec', 1, 0.5e0, 'full_softmax', 'ok', 0.05e0, 0.11e0, 20.0e0, NULL),
('log', 'sasrec', 2, 0.5e0, 'full_softmax', 'ok', 0.01e0, 0.02e0, 20.0e0, NULL),
('log', 'sasrec', 1, 0.2e0, 'sampled_softmax', 'diverged', NULL, NULL, 3.0e0, NULL),
('other', 'sasrec', 1, 0.8e0, 'full_softmax', 'ok', 0.50e0, 0.60e0, 1.0e0, NULL)
"""
COLUMNS = '(dataset, backbone, seed, dropout, loss, status, "ndcg@10", "recall@10", seconds, curve)'


@pytest.fixture
def table(tmp_path: Path) -> Table:
    path = tmp_path / "trainings.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT * FROM (VALUES {ROWS}) AS t {COLUMNS}) TO '{path}' (FORMAT parquet)")
    return read(path, SPACE, "log", FIXED)


def key(**changes: Any) -> str:
    return SPACE.hash(SPACE.check({**SPACE.default(), **FIXED, **changes}))


def test_the_space_is_the_grid_of_the_table(table: Table) -> None:
    assert {field.name: field.choices for field in table.space.free()} == {
        "dropout": (0.2, 0.5),
        "loss": ("full_softmax", "sampled_softmax"),
    }
    assert table.space.default()["dropout"] == 0.5
    assert table.space.default()["max_epochs"] == 3
    with pytest.raises(SpaceError, match=r"dropout=0\.3 is not allowed"):
        table.space.apply(table.space.default(), {"dropout": 0.3})


def test_recorded_seeds_come_as_they_were(table: Table) -> None:
    found = table.training(key(dropout=0.2), 1)
    assert (found.validation, found.seconds, found.simulated) == ({"ndcg@10": 0.10, "recall@10": 0.20}, 30.0, False)
    assert [epoch.validation for epoch in found.epochs] == [{"ndcg@10": 0.04}, {"ndcg@10": 0.10}, {"ndcg@10": 0.09}]
    assert [epoch.seconds for epoch in found.epochs] == [10.0, 10.0, 10.0]


def test_noise_is_that_of_the_configurations_near_the_best(table: Table) -> None:
    # only dropout 0.2 is within 15 % of the best mean: (0.10, 0.12) deviate by 1/11 each, with one degree of freedom
    assert table.sigmas["ndcg@10"] == pytest.approx((2 / 121) ** 0.5)
    assert set(table.sigmas) == {"ndcg@10", "recall@10"}


def test_a_seed_that_the_table_lacks_is_drawn_around_the_mean_and_always_the_same(table: Table) -> None:
    found = [table.training(key(dropout=0.2), seed) for seed in (7, 8, 7)]
    assert found[0] == found[2] != found[1]
    assert all(one.simulated and not one.epochs and one.seconds == 30.0 for one in found)
    z = [found[0].validation[name] / mean - 1 for name, mean in (("ndcg@10", 0.11), ("recall@10", 0.21))]
    assert z[0] / table.sigmas["ndcg@10"] == pytest.approx(z[1] / table.sigmas["recall@10"])
    many = [table.training(key(dropout=0.2), seed).validation["ndcg@10"] for seed in range(10, 410)]
    assert sum(many) / len(many) == pytest.approx(0.11, rel=0.02)


def test_a_configuration_that_never_scored_fails_with_every_seed(table: Table) -> None:
    found = table.training(key(dropout=0.2, loss="sampled_softmax"), 9)
    assert (found.status, found.validation) == ("diverged", {})


def test_what_is_in_no_table_says_so(table: Table, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="has no such configuration"):
        table.training(key(dropout=0.3), 1)
    with pytest.raises(TableError, match="has no training of hstu on 'log'"):
        read(tmp_path / "trainings.parquet", space_of(SPECS["hstu"]), "log", FIXED)
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    with pytest.raises(TableError, match="cannot be read as a table"):
        read(tmp_path / "broken.parquet", SPACE, "log", FIXED)


REAL = os.environ.get("VIRTUALMLE_TEST_DATA")


@pytest.mark.data
@pytest.mark.skipif(REAL is None, reason="VIRTUALMLE_TEST_DATA is not set")
def test_the_shipped_tables_have_the_noise_that_their_readme_says() -> None:
    path = Path(REAL or "") / "replay" / "trainings.parquet"
    fixed = {"max_epochs": 60, "patience": 4, "num_negatives": 500}
    told = {("beauty", "hstu"): 0.030, ("lastfm", "sasrec"): 0.080, ("yelp", "sasrec"): 0.043}
    for (dataset, backbone), sigma in told.items():
        table = read(path, space_of(SPECS[backbone]), dataset, fixed)
        assert len(table.configs) == 72
        assert table.sigmas["ndcg@10"] == pytest.approx(sigma, abs=0.0006)
