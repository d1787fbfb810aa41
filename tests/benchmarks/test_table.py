"""benchmarks.table: what our trainers make is what a replay reads."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from benchmarks import table
from benchmarks.replay.cells import cells_of


def test_a_table_of_our_own_trainings_goes_on_where_it_ended_and_is_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    lines = "\n".join(f"{user} " + " ".join(str((user + step) % 9) for step in range(6)) for user in range(40))
    (tmp_path / "data" / "log.txt").write_text(lines)
    out = tmp_path / "out"
    words = ["--out", str(out), "--data", str(tmp_path / "data"), "--backbones", "sasrec", "--seeds", "1"]
    words += ["--fields", "dropout", "--threads", "1"]
    assert table.main([*words, "--minutes", "0"]) == 1
    assert "0 trainings, 2 missing" in capsys.readouterr().out
    assert table.main(words) == 0
    kept = (out / "trainings.jsonl").read_text()
    assert table.main(words) == 0
    assert (out / "trainings.jsonl").read_text() == kept
    (cell,) = cells_of(out, tmp_path / "datasets", "strong")
    assert [field.name for field in cell.space.free()] == ["dropout"]
    assert len(cell.table.configs) == 2
    (training,) = cell.table.trainings[cell.space.hash(cell.space.default())]
    assert training.best_epoch is not None
    assert training.epochs[training.best_epoch - 1].validation["ndcg@10"] == training.validation["ndcg@10"]


def test_the_whole_grid_is_that_of_the_tables_that_are_there() -> None:
    fields = [*table.GRID, "loss", "normalize_embeddings"]
    assert len(list(table.grid("sasrec", fields))) == len(list(table.grid("hstu", fields))) == 72
    with pytest.raises(SystemExit, match="2"):
        table.main(["--out", "x", "--fields", "magic"])


def test_leaders_are_the_default_and_the_best_of_tables_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines = "\n".join(f"{user} " + " ".join(str((user + step) % 9) for step in range(6)) for user in range(40))
    (tmp_path / "data" / "log.txt").write_text(lines)
    rows = [
        {
            "dataset": "log", "backbone": "sasrec", "seed": seed, "num_blocks": 1, "hidden_dim": 32, "dropout": dropout,
            "learning_rate": rate, "loss": "full_softmax", "status": "ok", "ndcg@10": score + seed / 1000,
        }
        for dropout, rate, score in ((0.2, 0.003, 0.1), (0.5, 0.001, 0.9), (0.2, 0.001, 0.3), (0.5, 0.003, 0.2))
        for seed in (1, 2)
    ]  # fmt: skip
    (tmp_path / "tables.json").write_text(json.dumps(rows))
    (tmp_path / "tables").mkdir()
    with duckdb.connect() as connection:
        connection.execute(f"COPY (FROM '{tmp_path}/tables.json') TO '{tmp_path}/tables/trainings.parquet'")
    leaders = table.Leaders(2, tmp_path / "tables").of("log", "sasrec")
    assert [(config["dropout"], config["learning_rate"]) for config in leaders] == [
        (0.5, 0.001),
        (0.2, 0.001),
        (0.5, 0.003),
    ]
    words = ["--out", str(tmp_path / "out"), "--data", str(tmp_path / "data"), "--backbones", "sasrec", "--seeds", "7"]
    words += ["--leaders", "1", "--of", str(tmp_path / "tables"), "--patience", "2", "--threads", "1"]
    assert table.main(words) == 0
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT dropout, seed, patience FROM '{tmp_path}/out/trainings.parquet' ORDER BY 1")
        assert found.fetchall() == [(0.2, 7, 2), (0.5, 7, 2)]
    with pytest.raises(SystemExit, match="2"):
        table.main([*words[:8], "--leaders", "1"])
