"""Dirty files: what cannot be used is dropped and counted, hopeless files get one line and leave nothing behind."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from tests.support.interactions import json_lines, sequences, table, write, write_parquet
from trainers.data import DataError, Dataset, add
from trainers.data.errors import foreign

LOG = table("user_id", "item_id", "timestamp")
DIRT = [
    b"4,9,5.0",  # too few columns
    b"4,9,5.0,1000000900,5",  # too many
    b"\xff\xfe,9,5.0,1000000900",  # not UTF-8
    b"",
    b",9,5.0,1000000900",
    b"NaN,9,5.0,1000000900",
    b"4,null,5.0,1000000900",
    b"4,9,5.0,",
    b"4,9,5.0,NaN",
    b"4,9,5.0,yesterday",
    b"4,30,1.0,1000000100.0",  # the same user, item and timestamp as the first row
    b"99,30,5.0,1000000100",  # a user with two events
    b"99,7,5.0,1000000200",
]


def test_dirty_rows_are_dropped_and_counted_by_reason(tmp_path: Path) -> None:
    dataset = add(tmp_path / "datasets", "log", write(tmp_path / "log.csv", LOG.encode() + b"\n".join(DIRT)))
    assert dataset.content_hash == _clean(tmp_path).content_hash
    assert dataset.report.dropped == {
        "broken_row": 3,
        "missing_field": 5,
        "broken_timestamp": 1,
        "duplicate": 1,
        "short_user": 2,
    }
    assert dataset.report.rows_read == 7 + 12
    assert dataset.report.share_lost == 12 / 19


def test_dirty_json_lines_are_dropped_and_counted(tmp_path: Path) -> None:
    dirt = [
        b"no json",
        b"[1, 2]",
        b'{"user": 4',
        b'{"user": "\xff", "item": 9, "ts": 5}',
        b'{"user": 4, "item": {"id": 9}, "ts": 5}',
        b'{"user": 4, "item": 9, "ts": null}',
        b'{"user": 4, "item": 9, "ts": [5]}',
    ]
    lines = json_lines("user", "item", "ts").encode() + b"\n" + b"\n".join(dirt)
    dataset = add(tmp_path / "datasets", "log", write(tmp_path / "log.jsonl", lines))
    assert dataset.content_hash == _clean(tmp_path).content_hash
    assert dataset.report.dropped == {"broken_row": 4, "missing_field": 3}


def test_dirty_sequence_lines_are_dropped_and_counted(tmp_path: Path) -> None:
    lines = sequences().encode() + b"lonely\n\n   \n\xff\xfe 1 2 3\n5 30 7\n"
    dataset = add(tmp_path / "datasets", "log", write(tmp_path / "log.txt", lines))
    assert dataset.content_hash == _clean(tmp_path).content_hash
    assert dataset.report.dropped == {"broken_row": 2, "short_user": 2}
    assert dataset.report.rows_read == 7 + 2 + 2


def test_repeats_without_timestamps_are_no_duplicates(tmp_path: Path) -> None:
    dataset = add(tmp_path, "log", write(tmp_path / "log.txt", "u a a a a\n"))
    assert (dataset.facts.interactions, dataset.report.dropped) == (4, {})


def test_a_stray_quote_costs_no_other_row(tmp_path: Path) -> None:
    lines = LOG.replace("4,7,", '99,"7,5.0,1000000150\n4,7,')
    dataset = add(tmp_path / "datasets", "log", write(tmp_path / "log.csv", lines))
    assert dataset.content_hash == _clean(tmp_path).content_hash
    assert dataset.report.dropped == {"short_user": 1}


def test_huge_ids_are_ids_like_others(tmp_path: Path) -> None:
    lines = f"{2**63} {2**64} {10**60} {'x' * 1000} -5\n"
    dataset = add(tmp_path, "log", write(tmp_path / "log.txt", lines))
    assert (dataset.facts.users, dataset.facts.items, dataset.facts.interactions) == (1, 4, 4)


HOPELESS = {
    "empty.csv": (b"", "'empty.csv' is empty; "),
    "blank.txt": (b" \n\n \r\n", "'blank.txt' is empty; "),
    "empty.gz": (b"", "'empty.gz' is empty; "),
    "header.csv": (LOG.splitlines()[0], "Nothing usable is left of 'header.csv' (read as csv, user='user_id', "),
    "short.txt": (
        "1 2 3\n2 3 4\n",
        "Nothing usable is left of 'short.txt' (read as sequences): of 4 rows, 4 of users ",
    ),
    "times.csv": (
        "user,item,ts\nu,a,then\nu,b,now\nu,c,soon\n",
        "Nothing usable is left of 'times.csv' (read as csv, user='user', item='item', timestamp='ts'): of 3 rows, "
        "3 with a timestamp that is no time.",
    ),
    "one.csv": ("user_id\n1\n2\n", "'one.csv' has one column, 'user_id'; "),
    "lines.txt": ("a\nb\nc\n", "Nothing usable is left of 'lines.txt' "),
    "noise.bin": (np.random.default_rng(0).bytes(5000), "'noise.bin' is not UTF-8 text; "),
    "latin1.csv": (LOG.replace(",", ",é").encode("latin-1"), "'latin1.csv' is not UTF-8 text; "),
    "utf16.csv": (LOG.encode("utf-16"), "'utf16.csv' is UTF-16 text; "),
    "log.zip": (b"PK\x03\x04....", "'log.zip' is a damaged zip file; fetch it again."),
    "dictionaries.json": ("{'user': 1, 'item': 2}\n", "'dictionaries.json' holds Python dictionaries, not JSON; "),
    "scalars.jsonl": ('{"\n', "'scalars.jsonl' is not JSON lines: "),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_a_hopeless_file_gets_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, message = HOPELESS[name]
    write(tmp_path / name, content)
    _assert_refused(tmp_path, monkeypatch, name, message)


def test_damaged_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gzip.compress("\n".join(f"{user} {user + 1} {user * 7} 3" for user in range(50_000)).encode())
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) * 3 // 4] ^= 0xFF
    (tmp_path / "flipped.txt.gz").write_bytes(flipped)
    (tmp_path / "start.txt.gz").write_bytes(b"\x1f\x8bgarbage")
    write_parquet(tmp_path / "whole")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "whole").read_bytes()[:200])
    for name in ("cut.txt.gz", "flipped.txt.gz", "start.txt.gz"):
        _assert_refused(tmp_path, monkeypatch, name, f"{name!r} is a damaged gzip file; ")
    _assert_refused(tmp_path, monkeypatch, "cut.parquet", "'cut.parquet' is a damaged Parquet file; ")


def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    _assert_refused(tmp_path, monkeypatch, "folder", "'folder' is a folder; ")
    _assert_refused(tmp_path, monkeypatch, "missing.csv", "There is no file 'missing.csv'.")
    _assert_refused(tmp_path, monkeypatch, "loop", "Reading 'loop' failed: ")


def test_permission_denied_names_the_file() -> None:
    error = PermissionError(13, "Permission denied", "/secret/log.csv")
    assert str(foreign("Reading", Path("log.csv"), error)) == (
        "Reading 'log.csv' failed: permission denied for '/secret/log.csv'."
    )


def _assert_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        add(Path("datasets"), "log", Path(name))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not Path("datasets").exists() or list(Path("datasets").iterdir()) == []


def _clean(tmp_path: Path) -> Dataset:
    return add(tmp_path / "clean", "clean", write(tmp_path / "clean.csv", LOG))
