"""Memory in folders whose names DuckDB would take for the query of an address."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory.store import Memory
from memory.tables.connection import Connection
from server.settings import Settings
from tests.support.tool_client import tool_client
from trainers.contract.duckdb_log import log_path, make_log_folder, remove_log_folder
from trainers.data import add, find
from trainers.data.store import load_ids


def test_the_log_lies_beside_the_database_unless_a_folder_has_a_question_mark(tmp_path: Path) -> None:
    assert log_path(tmp_path / "m.duckdb") == tmp_path / "m.duckdb.wal"
    assert log_path(tmp_path / "a#b" / "m.duckdb") == tmp_path / "a#b" / "m.duckdb.wal"
    assert log_path(tmp_path / "a?b?c" / "d" / "m.duckdb") == tmp_path / "a.wal?b?c" / "d" / "m.duckdb"
    (tmp_path / "x?y").mkdir()
    (tmp_path / "plain").symlink_to(tmp_path / "x?y")
    assert log_path(tmp_path / "plain" / "m.duckdb") == tmp_path / "x.wal?y" / "m.duckdb"


def test_the_folder_of_the_log_is_made_and_removed_when_it_is_empty(tmp_path: Path) -> None:
    database = tmp_path / "a?b" / "m.duckdb"
    database.parent.mkdir()
    make_log_folder(database)
    log_path(database).write_bytes(b"x")
    remove_log_folder(database)
    assert log_path(database).exists()
    log_path(database).unlink()
    remove_log_folder(database)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a?b"]
    remove_log_folder(tmp_path / "plain" / "m.duckdb")


@pytest.mark.parametrize("name", ["ho?me#1 %20;x", "#", "a?b?"])
def test_what_was_written_and_not_yet_folded_in_is_there_after_a_kill(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "memory.duckdb"
    connection = Connection(path)
    with connection.write() as cursor:
        cursor.run("CREATE TABLE t (a INTEGER)")
        cursor.run("INSERT INTO t VALUES (1)")
    copied = tmp_path / f"copy of {name}" / path.name
    copied.parent.mkdir()
    make_log_folder(copied)
    for source, target in ((path, copied), (log_path(path), log_path(copied))):
        target.write_bytes(source.read_bytes())
    connection.close()
    again = Connection(copied)
    with again.read() as cursor:
        assert cursor.rows("SELECT a FROM t") == [{"a": 1}]
    again.close()
    assert [folder.name for folder in tmp_path.iterdir() if ".wal" in folder.name] == []


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["ho?me#1 %20;x", "[ho]*#"])
async def test_a_study_is_played_in_a_home_of_any_name(name: str, tmp_path: Path) -> None:
    home = tmp_path / name
    (tmp_path / "log.txt").write_text("\n".join(f"{user} 1 2 3 4 {user % 3 + 5}" for user in range(30)))
    add(Settings(home=home).datasets_dir, "log", tmp_path / "log.txt")
    assert len(load_ids(find(Settings(home=home).datasets_dir, "log").path)) > 4
    async with tool_client(home) as at:
        study = (await at.call("start_study", dataset="log"))["study_id"]
        assert (await at.call("run_trial", study_id=study))["status"] == "ok"
        assert (await at.call("finish_study", study_id=study, wait_seconds=60))["status"] == "finished"
    memory = Memory.open(home / "memory.duckdb")
    assert memory.study(study).finished
    memory.close()
