"""The record of acknowledged commits beside the memory file: it tells what a damaged or cut write-ahead log has lost.

DuckDB takes a write-ahead log that was cut short for a commit that never ended, and opens without a word.
"""

from __future__ import annotations

import os
import shutil
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from trainers.contract.duckdb_log import log_path
from trainers.contract.regular_files import append_regular, open_regular, read_regular

_RECORD = struct.Struct("<QQQIII")
"""Checkpoint of the database, bytes of the log, milliseconds since 1970, checksums of the database's head, of the log
up to here, and of this record."""
_MOST_BYTES = 64 * 2**20
_HEAD, _HEADERS = 4096, (4096, 8192)
"""Bytes of the head that never changes, and the offsets of the two headers: each has a checksum and a counter of
checkpoints, and the higher one is valid."""
_PIECE = 2**20


@dataclass(frozen=True)
class Loss:
    """What of the acknowledged commits since the last checkpoint a write-ahead log no longer holds."""

    kept: int
    commits: int
    kept_bytes: int
    since: datetime

    def __str__(self) -> str:
        lost = self.commits - self.kept
        return (
            f"{lost:,} of the {self.commits:,} changes since the last checkpoint, those from "
            f"{self.since:%Y-%m-%d %H:%M:%S} UTC on"
        )


def record_path(database: Path) -> Path:
    """The record of its acknowledged commits."""
    return database.with_name(database.name + ".acknowledged")


def find_loss(database: Path) -> Loss | None:
    """Compares the log with the record, before the database is opened; None if nothing is known to be lost."""
    records = _read_records(record_path(database))
    kept, size, checksum = 0, 0, 0
    with suppress(OSError), open_regular(log_path(database)) as log:
        for record in records:
            if record[1] < size or (checksum := _extend(log, size, record[1], checksum)) != record[4]:
                break
            kept, size = kept + 1, record[1]
    if kept == len(records):
        return None
    try:
        with open_regular(database) as file:
            checkpoint, head = _state(file)
    except (OSError, struct.error):
        return None
    if (checkpoint, head) != (records[-1][0], records[-1][3]):  # the log was folded into the file since
        return None
    return Loss(kept, len(records), size, datetime.fromtimestamp(records[kept][2] / 1000, UTC))


def keep_copy(database: Path) -> Path | None:
    """Copies the log beside itself, under a name of its content; None where there is no log or no room."""
    log = log_path(database)
    try:
        with open_regular(log) as file:
            copy = log.with_name(f"{log.name}.copy-{_extend(file, 0, os.fstat(file.fileno()).st_size, 0):08x}")
            file.seek(0)
            if not copy.exists():
                part = copy.with_name(copy.name + ".part")
                with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
                    shutil.copyfileobj(file, target)
                part.replace(copy)
    except OSError:
        return None
    return copy


class Acknowledged:
    """Writes the record while the database is open. A commit that cannot be recorded is none the less stored."""

    def __init__(self, database: Path) -> None:
        self._path, self._log_path = record_path(database), log_path(database)
        # Closing any handle of the database drops DuckDB's lock on it, so this one stays open until `close`.
        self._database = open_regular(database)
        self._log: BinaryIO | None = None
        self._checkpoint, self._head = _state(self._database)
        self._size, self._checksum = 0, 0
        self._skipped = self._checkpoint if self._log_path.exists() and self._log_path.stat().st_size else -1
        """The checkpoint whose log has a beginning that was not recorded here."""

    def commit(self) -> None:
        """Records that the last commit was acknowledged."""
        with suppress(OSError, struct.error):
            checkpoint, _ = _state(self._database)
            if checkpoint != self._checkpoint:
                self._begin(checkpoint)
            if checkpoint == self._skipped or not self._log_path.exists():
                return
            if self._log is None:
                self._log = open_regular(self._log_path)
                self._path.unlink(missing_ok=True)
            size = os.fstat(self._log.fileno()).st_size
            self._checksum = _extend(self._log, self._size, size, self._checksum)
            self._size = size
            fields = checkpoint, size, int(time.time() * 1000), self._head, self._checksum
            with append_regular(self._path) as file:
                file.write(_packed(*fields))

    def _begin(self, checkpoint: int) -> None:
        """The log was folded into the database, and a new one begins."""
        self._checkpoint, self._size, self._checksum = checkpoint, 0, 0
        self._close_log()
        self._path.unlink(missing_ok=True)

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def copy_database(self, target: BinaryIO) -> None:
        """Copies the database through the handle that is open. Raises OSError."""
        start = 0
        while piece := os.pread(self._database.fileno(), _PIECE, start):
            target.write(piece)
            start += len(piece)

    def close(self) -> None:
        """Lets go of the files, once DuckDB has."""
        self._close_log()
        self._database.close()


def _state(database: BinaryIO) -> tuple[int, int]:
    """The counter of checkpoints, and a checksum of the head, which tells databases apart."""
    descriptor = database.fileno()
    counters = [struct.unpack("<QQ", os.pread(descriptor, 16, offset))[1] for offset in _HEADERS]
    return max(counters), zlib.crc32(os.pread(descriptor, _HEAD, 0))


def _extend(file: BinaryIO, start: int, end: int, checksum: int) -> int:
    """The checksum of a file up to `end`, from that up to `start`; -1 where the file is shorter."""
    while start < end:
        piece = os.pread(file.fileno(), min(_PIECE, end - start), start)
        if not piece:
            return -1
        start, checksum = start + len(piece), zlib.crc32(piece, checksum)
    return checksum


def _packed(*fields: int) -> bytes:
    body = _RECORD.pack(*fields, 0)[:-4]
    return body + struct.pack("<I", zlib.crc32(body))


def _read_records(path: Path) -> list[tuple[int, ...]]:
    """The whole records, up to the first damaged one."""
    try:
        content = read_regular(path, _MOST_BYTES)
    except OSError:
        return []
    records: list[tuple[int, ...]] = []
    for start in range(0, len(content) - _RECORD.size + 1, _RECORD.size):
        record = _RECORD.unpack_from(content, start)
        if _packed(*record[:-1]) != content[start : start + _RECORD.size]:
            break
        records.append(record)
    return records
