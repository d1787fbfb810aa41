"""What a write-ahead log has lost is said, with the place of its copy, and no acknowledged change goes silently."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from memory.errors import MemoryFault
from memory.tables.acknowledged import find_loss, record_path
from memory.tables.connection import Connection, told_losses
from server.cli import doctor
from server.settings import Settings
from trainers.contract.duckdb_log import log_path

COMMITS = 10


def ends_of_commits(folder: Path, commits: int = COMMITS) -> tuple[Path, list[int]]:
    """What a kill leaves of a memory file after some commits, and the size of its log after each."""
    (folder / "living").mkdir()
    living, path = folder / "living" / "memory.duckdb", folder / "memory.duckdb"
    connection = Connection(living)
    with connection.write() as cursor:
        cursor.run("CREATE TABLE notes (number INTEGER, text VARCHAR)")
    connection.checkpoint()
    sizes: list[int] = []
    for number in range(commits):
        with connection.write() as cursor:
            cursor.run("INSERT INTO notes VALUES ($number, $text)", {"number": number, "text": "x" * 100})
        sizes.append(log_path(living).stat().st_size)
    for of in (lambda path: path, log_path, record_path):
        shutil.copyfile(of(living), of(path))
    connection.close()
    return path, sizes


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def notes_of(path: Path) -> tuple[int, str | None]:
    """How many notes an opened memory file has, and what it says that it lost."""
    connection = Connection(path)
    with connection.read() as cursor:
        notes = len(cursor.rows("SELECT number FROM notes"))
    connection.close()
    return notes, connection.lost


def test_after_a_kill_every_acknowledged_change_is_there_and_nothing_is_said(tmp_path: Path) -> None:
    path, _ = ends_of_commits(tmp_path)
    assert find_loss(path) is None
    assert notes_of(path) == (COMMITS, None)
    assert told_losses(path) == []


def test_half_of_a_commit_that_was_never_acknowledged_is_no_loss(tmp_path: Path) -> None:
    path, sizes = ends_of_commits(tmp_path)
    record = record_path(path)
    record.write_bytes(record.read_bytes()[: -record.stat().st_size // COMMITS])  # the last commit was under way
    os.truncate(log_path(path), sizes[-1] - 5)
    assert notes_of(path) == (COMMITS - 1, None)


@pytest.mark.parametrize("beyond", [0, 3, -1])
def test_a_log_that_was_cut_says_how_many_changes_it_lost_and_where_its_copy_is(
    tmp_path: Path, beyond: int, caplog: pytest.LogCaptureFixture
) -> None:
    path, sizes = ends_of_commits(tmp_path)
    os.truncate(log_path(path), sizes[4] + beyond)
    kept, before = (5 if beyond >= 0 else 4), log_path(path).read_bytes()
    notes, lost = notes_of(path)
    assert notes == kept
    assert lost is not None
    match = re.fullmatch(
        rf"The write-ahead log of {path} was cut short or changed: {COMMITS - kept} of the 10 changes since the last "
        r"checkpoint, those from 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC on, could not be replayed; a copy of the log is "
        r"(.*)\.",
        lost,
    )
    assert match is not None
    assert Path(match[1]).read_bytes() == before
    assert lost in caplog.text
    assert notes_of(path) == (kept, None)  # said once, and kept for `doctor`
    assert told_losses(path) == [lost]
    assert doctor._memory(Settings(home=tmp_path)).advice == lost  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("place", [5, 7])
def test_a_log_that_duckdb_takes_for_another_database_s_loses_nothing_silently(tmp_path: Path, place: int) -> None:
    path, sizes = ends_of_commits(tmp_path)
    flip(log_path(path), place if place == 5 else sizes[4] + place)
    notes, lost = notes_of(path)
    assert notes == (0 if place == 5 else 5)
    assert lost is not None
    assert f"{COMMITS - notes} of the 10 changes" in lost


def test_a_log_that_is_gone_is_said(tmp_path: Path) -> None:
    path, _ = ends_of_commits(tmp_path)
    log_path(path).unlink()
    notes, lost = notes_of(path)
    assert (notes, lost is not None and lost.endswith("could not be replayed; the log is gone.")) == (0, True)
    assert told_losses(path) == [lost]


def test_a_damaged_log_is_not_called_a_damaged_database_and_the_advice_works(tmp_path: Path) -> None:
    path, sizes = ends_of_commits(tmp_path)
    flip(log_path(path), sizes[6] + 20)
    before = log_path(path).read_bytes()
    with pytest.raises(MemoryFault) as caught:
        Connection(path)
    said = str(caught.value)
    assert said.startswith(f"The write-ahead log {log_path(path)} is damaged (Failure while replaying WAL file")
    assert "memory.duckdb itself opens, as it was at its last checkpoint." in said
    assert "Lost are 3 of the 10 changes since the last checkpoint, those from" in said
    assert "\n" not in said
    copy = re.search(r"A copy of the log is (\S+)\. ", said)
    assert copy is not None
    assert Path(copy[1]).read_bytes() == log_path(path).read_bytes() == before
    with pytest.raises(MemoryFault, match="is damaged"):  # a second try makes no second copy
        Connection(path)
    assert len(list(tmp_path.glob("*.copy-*"))) == 1
    advice = re.search(r"`truncate -s (\d+) (\S+)` instead\.$", said)
    assert advice is not None
    assert (int(advice[1]), advice[2]) == (sizes[6], str(log_path(path)))
    os.truncate(advice[2], int(advice[1]))
    notes, lost = notes_of(path)
    assert notes == 7
    assert lost is not None
    assert "3 of the 10 changes" in lost


def test_a_damaged_log_without_a_record_is_said_with_the_way_on(tmp_path: Path) -> None:
    path, sizes = ends_of_commits(tmp_path)
    record_path(path).unlink()
    flip(log_path(path), sizes[6] + 20)
    with pytest.raises(MemoryFault, match=r"itself opens, .* To go on without what it holds: `mv .*\.aside`"):
        Connection(path)
    log_path(path).rename(f"{log_path(path)}.aside")
    assert notes_of(path) == (0, None)


def test_a_log_folded_into_the_file_by_somebody_else_is_no_loss(tmp_path: Path) -> None:
    path, _ = ends_of_commits(tmp_path)
    duckdb.connect(str(path)).close()
    assert not log_path(path).exists()
    assert notes_of(path) == (COMMITS, None)


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"x" * 999), os.unlink, lambda path: flip(path, 50)])
def test_a_record_that_is_damaged_or_gone_stops_nobody(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path, _ = ends_of_commits(tmp_path)
    spoil(record_path(path))
    assert notes_of(path) == (COMMITS, None)


def test_the_record_of_another_database_says_nothing(tmp_path: Path) -> None:
    path, _ = ends_of_commits(tmp_path)
    log_path(path).unlink()
    path.unlink()
    connection = Connection(path)
    assert connection.lost is None
    connection.close()


def test_a_commit_that_cannot_be_recorded_is_stored(tmp_path: Path) -> None:
    connection = Connection(tmp_path / "memory.duckdb")
    record_path(connection.path).mkdir()
    with connection.write() as cursor:
        cursor.run("CREATE TABLE notes (number INTEGER)")
    connection.close()
    assert notes_of(tmp_path / "memory.duckdb") == (0, None)


def test_a_copy_of_memory_is_for_its_user_alone_and_keeps_the_file_locked(tmp_path: Path) -> None:
    connection = Connection(tmp_path / "memory.duckdb")
    connection.copy_to(tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    script = f"import duckdb; duckdb.connect({str(connection.path)!r})"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "Could not set lock" in other.stderr
    connection.close()
