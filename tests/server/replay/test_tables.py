"""Folders of recorded tables: what is wrong with one, in one line, and when the test is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from server.replay.marker import ReplayHome, ReplayHomeError, read_replay_home, write_replay_home
from server.replay.recorded import TableError
from server.replay.tables import TEST, TRAININGS, Tables, check, digest
from server.settings import Settings
from tests.support.recorded_tables import recorded_tables, write_parquet


def lacks_a_dataset(folder: Path) -> None:
    (folder / "log.txt").unlink()


def is_broken(folder: Path) -> None:
    (folder / TRAININGS).write_bytes(b"nothing")


def lacks_columns(folder: Path) -> None:
    write_parquet(folder / TRAININGS, "('log', 0.1e0)", '(dataset, "ndcg@10")')


def lacks_metrics(folder: Path) -> None:
    write_parquet(folder / TRAININGS, "('log', 'sasrec', 1)", "(dataset, backbone, seed)")


def has_only_strange_backbones(folder: Path) -> None:
    write_parquet(folder / TRAININGS, "('log', 'gru', 1, 0.1e0)", '(dataset, backbone, seed, "ndcg@10")')


def has_an_impossible_value(folder: Path) -> None:
    columns = '(dataset, backbone, seed, dropout, "ndcg@10")'
    write_parquet(folder / TRAININGS, "('log', 'sasrec', 1, 7.5e0, 0.1e0)", columns)


def has_a_strange_curve(folder: Path) -> None:
    columns = '(dataset, backbone, seed, "ndcg@10", curve)'
    write_parquet(folder / TRAININGS, "('log', 'sasrec', 1, 0.1e0, [{'step': 1}])", columns)


def has_a_test_without_metrics(folder: Path) -> None:
    write_parquet(folder / TEST, "('log', 'sasrec', 1)", "(dataset, backbone, seed)")


def has_a_test_of_less(folder: Path) -> None:
    columns = '(dataset, backbone, seed, hidden_dim, dropout, patience, "ndcg@10")'
    write_parquet(folder / TEST, "('log', 'sasrec', 1, 32, 0.2::DOUBLE, 7, 0.1e0)", columns)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lacks_a_dataset, r"lacks log\.txt: each recorded dataset lies beside trainings\.parquet as NAME\.txt"),
        (is_broken, r"trainings\.parquet' cannot be read as a table"),
        (lacks_columns, r"trainings\.parquet' lacks the columns backbone, seed\."),
        (lacks_metrics, r"trainings\.parquet' has no column of a metric; there are recall@5"),
        (has_only_strange_backbones, r"records no training of sasrec or hstu\."),
        (has_an_impossible_value, r"dropout=7\.5 is not allowed"),
        (has_a_strange_curve, r"a training of sasrec on 'log' cannot be read: 'epoch'"),
        (has_a_test_without_metrics, r"test\.parquet' has no column of a metric"),
        (has_a_test_of_less, r"test\.parquet' lacks 2 of the configurations in trainings\.parquet"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(spoil: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    folder = recorded_tables(tmp_path / "tables")
    assert check(folder) == {"log": folder / "log.txt"}
    spoil(folder)
    with pytest.raises(TableError, match=said) as caught:
        check(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_folder_of_tables_is_said(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"is no folder: --replay names one with trainings\.parquet"):
        check(tmp_path / "nowhere")
    with pytest.raises(TableError, match=r"holds no trainings\.parquet"):
        check(tmp_path)


def test_the_test_is_known_to_be_there_and_read_only_by_its_own_call(tmp_path: Path) -> None:
    tables = Tables(recorded_tables(tmp_path / "tables"), {"log": "abc"})
    assert tables.recorded == {"log": ("sasrec",)}
    assert tables.holds_test("log", "sasrec")
    assert not tables.holds_test("log", "hstu")
    assert not tables.holds_test("other", "sasrec")
    sealed, table = tables.sealed("log", "sasrec"), tables.table("log", "sasrec")
    config = table.space.hash({**table.space.default(), "hidden_dim": 64, "dropout": 0.2})
    assert table.training(config, 2).validation["ndcg@10"] == pytest.approx(0.31)
    assert sealed.training(config, 2).validation["ndcg@10"] == pytest.approx(0.155)
    (tables.folder / TEST).unlink()
    assert not tables.holds_test("log", "sasrec")


def test_a_home_keeps_to_the_table_that_it_began_with(tmp_path: Path) -> None:
    folder = recorded_tables(tmp_path / "tables")
    replay = ReplayHome(tables=folder, digest=digest(folder), datasets={"log": "abc"})
    assert Tables.open(replay).recorded == {"log": ("sasrec",)}
    lacks_columns(folder)
    with pytest.raises(TableError, match="is not the table that this home began with"):
        Tables.open(replay)


def test_the_mark_of_a_home_is_read_as_it_was_written_and_never_passed_over(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert read_replay_home(settings) is None
    replay = ReplayHome(tables=tmp_path / "tables", digest="d", datasets={"log": "abc"})
    write_replay_home(settings, replay)
    assert read_replay_home(settings) == replay
    (tmp_path / "replay.json").write_text("{}")
    with pytest.raises(ReplayHomeError, match=r"replay\.json marks a replay home and cannot be read: Field required"):
        read_replay_home(settings)
