"""The one connection to the memory file. It serves one call at a time and maps DuckDB's errors to MemoryFault."""

from __future__ import annotations

import logging
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

import duckdb

from memory.errors import MemoryFault, MemoryLocked
from memory.tables.acknowledged import Acknowledged, Loss, find_loss, keep_copy
from trainers.contract.duckdb_log import log_path, make_log_folder, remove_log_folder
from trainers.contract.regular_files import read_regular

_log = logging.getLogger(__name__)

Row = dict[str, Any]
SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "512MB",
    "threads": 1,
    "autoinstall_known_extensions": False,
}
"""Limits for DuckDB. Its defaults would take 80 % of the memory and every core, which a trainer needs."""

_MOST_LOG_BYTES = 2**33
"""DuckDB folds its write-ahead log into the file long before that."""


class Cursor:
    """A cursor for one call. SQL takes named parameters, `$name`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor

    def run(self, sql: str, values: Mapping[str, object] | None = None) -> None:
        """Executes one statement and ignores its result."""
        self._cursor.execute(sql, dict(values or {}))

    def script(self, sql: str) -> None:
        """Executes many statements, without parameters."""
        self._cursor.execute(sql)

    def rows(self, sql: str, values: Mapping[str, object] | None = None) -> list[Row]:
        """All rows of a query, by column name."""
        self._cursor.execute(sql, dict(values or {}))
        names = [str(column[0]) for column in self._cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in self._cursor.fetchall()]

    def row(self, sql: str, values: Mapping[str, object] | None = None) -> Row | None:
        """The first row of a query, or None."""
        return next(iter(self.rows(sql, values)), None)


class Connection:
    """The file, held by this process until `close`. Threads may share it: a lock and a new cursor serve each call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost: str | None = None
        """What the write-ahead log no longer held when the file was opened, and where its copy is."""
        self._acknowledged: Acknowledged | None = None
        self._lock = RLock()
        self._closed = False
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_log_folder(path)
            self._database = duckdb.connect(":memory:", config=SETTINGS)
        except OSError as error:
            raise MemoryFault(f"Memory cannot be kept at {path}: {error.strerror}.") from error
        try:
            self.attach()
        except MemoryFault:
            self._database.close()
            raise

    def attach(self) -> None:
        """Opens the file, or creates it if there is none. Raises MemoryLocked or MemoryFault with one line."""
        for path in (self.path, log_path(self.path)):
            if path.exists() and not path.is_file():  # DuckDB would wait for a pipe without end
                raise MemoryFault(f"{path} is no file: move it away, or restore the file from a backup.")
        if log_path(self.path).exists() and log_path(self.path).stat().st_size > _MOST_LOG_BYTES:
            raise MemoryFault(f"{log_path(self.path)} is larger than any write-ahead log: move it away.")
        loss = find_loss(self.path)
        # ATTACH from ':memory:' also opens a file whose write-ahead log needs more than a bare connect provides.
        try:
            self._database.execute(f"ATTACH '{_quoted(self.path)}' AS home")
        except (duckdb.Error, UnicodeError) as error:
            if _blames_log(error):
                raise damaged_log(self.path, _first_line(error), loss) from error
            raise _opening_fault(self.path, error) from error
        if loss is not None:
            self.lost = tell_loss(self.path, loss)
        with suppress(duckdb.Error):  # a full disk: then the log stays, and grows
            if log_path(self.path).exists():
                self._database.execute("CHECKPOINT home")
        with suppress(OSError, struct.error):
            self._acknowledged = Acknowledged(self.path)

    def detach(self) -> None:
        """Writes everything into the file and releases it. No cursor may be open."""
        with self._map_errors():
            self._database.execute("CHECKPOINT home")
            self._database.execute("DETACH home")
        self._release()

    def _release(self) -> None:
        if self._acknowledged is not None:
            self._acknowledged.close()
            self._acknowledged = None

    def checkpoint(self) -> None:
        """Folds the write-ahead log into the file."""
        with self._lock, self._map_errors():
            self._database.execute("CHECKPOINT home")

    def copy_to(self, path: Path) -> None:
        """Copies the file to `path`. Raises MemoryFault, also if there is no room."""
        with self._lock, self._map_errors():  # so that nothing is written meanwhile
            self._database.execute("CHECKPOINT home")
            try:
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
                    if self._acknowledged is not None:
                        self._acknowledged.copy_database(copy)
                    else:
                        with self.path.open("rb") as file:
                            shutil.copyfileobj(file, copy)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise MemoryFault(f"Memory cannot be copied to {path}: {error.strerror or error}.") from None

    @contextmanager
    def held(self) -> Generator[None]:
        """Holds the lock without a cursor, for reads of cached records. No other call reads or writes meanwhile."""
        with self._lock:
            if self._closed:
                raise MemoryFault(f"Memory at {self.path} is closed.")
            yield

    def read(self) -> AbstractContextManager[Cursor]:
        """A cursor for one call's queries."""
        return self._open_cursor("USE home")

    @contextmanager
    def _open_cursor(self, first: str) -> Generator[Cursor]:
        """A cursor that begins with the statements `first`."""
        with self.held(), self._map_errors():
            cursor = self._database.cursor()
            try:
                cursor.execute(first)
                yield Cursor(cursor)
            finally:
                cursor.close()

    @contextmanager
    def write(self) -> Generator[Cursor]:
        """A cursor in one transaction: committed at the end of the block, rolled back by any error in it."""
        with self._open_cursor("USE home; BEGIN") as cursor:
            try:
                yield cursor
                cursor.run("COMMIT")
                if self._acknowledged is not None:
                    self._acknowledged.commit()
            except BaseException:
                with suppress(duckdb.Error):
                    cursor.run("ROLLBACK")
                raise

    def close(self) -> None:
        """Writes everything into the file and releases it. A second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._database.close()
                self._release()
                remove_log_folder(self.path)

    @contextmanager
    def _map_errors(self) -> Generator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise MemoryFault(f"Memory at {self.path} failed: {_first_line(error)}") from error
        except (OverflowError, UnicodeError) as error:
            raise MemoryFault(f"Memory at {self.path} cannot hold a value: {_first_line(error)}") from error


def _opening_fault(path: Path, error: Exception) -> MemoryFault:
    text = str(error)
    if "Could not set lock" in text:
        match = re.search(r"\(PID (\d+)\)", text)
        return MemoryLocked(str(path), int(match[1]) if match else None)
    if "Unique file handle conflict" in text:
        return MemoryLocked(str(path), os.getpid())
    if path.is_file() and path.stat().st_size == 0:
        return MemoryFault(f"{path} is empty: a first start was cut off; delete it and start again.")
    if "not a valid DuckDB" in text or "Could not read enough" in text or "orrupt" in text:
        return MemoryFault(
            f"{path} is damaged or not a memory file ({_first_line(error)}): move it away or restore it."
        )
    return MemoryFault(f"{path} cannot be opened: {_first_line(error)}")


def _blames_log(error: Exception) -> bool:
    return "WAL" in str(error) and "Could not set lock" not in str(error)


def damaged_log(path: Path, reason: str, loss: Loss | None) -> MemoryFault:
    """The error for a write-ahead log that DuckDB does not replay; the database itself is not touched."""
    log, copy = log_path(path), keep_copy(path)
    whole = "opens, as it was at its last checkpoint" if _opens_alone(path) else "does not open without it either"
    advice = f"To go on without what it holds: `mv {log} {log}.aside`, and start again."
    if loss is not None:
        advice = f"Lost are {loss}. {advice}"
        if loss.kept:
            advice += f" To keep the {loss.kept:,} changes before: `truncate -s {loss.kept_bytes} {log}` instead."
    kept = f"A copy of the log is {copy}." if copy else "It could not be copied: copy it first."
    return MemoryFault(f"The write-ahead log {log} is damaged ({reason}); {path.name} itself {whole}. {kept} {advice}")


def tell_loss(path: Path, loss: Loss) -> str:
    """Logs what was lost, and keeps the message beside the copy of the log, where `doctor` reads it."""
    copy = keep_copy(path)
    where = f"a copy of the log is {copy}" if copy else "the log is gone"
    message = f"The write-ahead log of {path} was cut short or changed: {loss}, could not be replayed; {where}."
    _log.warning("%s", message)
    with suppress(OSError):
        name = copy.name if copy else f"{log_path(path).name}.gone"
        path.with_name(f"{name}.txt").write_text(message + "\n", encoding="utf-8")
    return message


def told_losses(path: Path) -> list[str]:
    """The messages of losses of this memory file, which stay until somebody removes them."""
    messages: list[str] = []
    for note in sorted(path.parent.glob(f"{log_path(path).name}.*.txt")):
        with suppress(OSError):
            messages.append(read_regular(note, 2**16).decode("utf-8", "replace").strip())
    return messages


def _opens_alone(path: Path) -> bool:
    """Whether the database opens without its log. A link of another name has no log beside it."""
    try:
        with tempfile.TemporaryDirectory(prefix=".memory-", dir=path.parent) as folder:
            alone = Path(folder) / path.name
            os.link(path, alone)
            with duckdb.connect(":memory:", config=SETTINGS) as database:
                database.execute(f"ATTACH '{_quoted(alone)}' AS home (READ_ONLY)")
    except (OSError, duckdb.Error):
        return False
    return True


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
