"""The one connection to the memory file: opened through ':memory:', one call at a time, foreign errors mapped here."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

import duckdb

from memory.errors import MemoryFault, MemoryLocked

Row = dict[str, Any]
SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "512MB",
    "threads": 1,
    "autoinstall_known_extensions": False,
}
"""DuckDB's own defaults take 80 % of the memory and every core, next to a trainer."""


class Cursor:
    """One call's own cursor into the file. SQL takes named parameters, `$name`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor

    def run(self, sql: str, values: Mapping[str, object] | None = None) -> None:
        """Executes one statement and drops what it answers."""
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
    """The file, held by this process until `close`. Safe from many threads: a lock and a fresh cursor for each call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = RLock()
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = duckdb.connect(":memory:", config=SETTINGS)
        except OSError as error:
            raise MemoryFault(f"Memory cannot be kept at {path}: {error.strerror}.") from error
        try:
            self.attach()
        except MemoryFault:
            self._database.close()
            raise

    def attach(self) -> None:
        """Takes the file, making it where there is none; raises MemoryLocked or MemoryFault in one line."""
        # Through ':memory:' and ATTACH a file opens even where its write-ahead log needs more than a bare connect has.
        quoted = str(self.path).replace("'", "''")
        try:
            self._database.execute(f"ATTACH '{quoted}' AS home")
        except duckdb.Error as error:
            raise _opening_fault(self.path, error) from error

    def detach(self) -> None:
        """Lets go of the file, all of it written; no cursor may be open."""
        with self._mapped():
            self._database.execute("CHECKPOINT home")
            self._database.execute("DETACH home")

    def checkpoint(self) -> None:
        """Folds the write-ahead log into the file."""
        with self._lock, self._mapped():
            self._database.execute("CHECKPOINT home")

    def copy_to(self, path: Path) -> None:
        """Writes all of it into another file. Raises MemoryFault, also where there is no room."""
        with self._lock, self._mapped():  # nobody writes meanwhile
            self._database.execute("CHECKPOINT home")
            try:
                shutil.copyfile(self.path, path)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise MemoryFault(f"Memory cannot be copied to {path}: {error.strerror or error}.") from None

    def read(self) -> AbstractContextManager[Cursor]:
        """A cursor for one call's queries."""
        return self._opened("USE home")

    @contextmanager
    def _opened(self, first: str) -> Generator[Cursor]:
        """A cursor that begins with the statements `first`."""
        with self._lock, self._mapped():
            if self._closed:
                raise MemoryFault(f"Memory at {self.path} is closed.")
            cursor = self._database.cursor()
            try:
                cursor.execute(first)
                yield Cursor(cursor)
            finally:
                cursor.close()

    @contextmanager
    def write(self) -> Generator[Cursor]:
        """A cursor in one transaction: committed at the end of the block, rolled back by any error in it."""
        with self._opened("USE home; BEGIN") as cursor:
            try:
                yield cursor
                cursor.run("COMMIT")
            except BaseException:
                with suppress(duckdb.Error):
                    cursor.run("ROLLBACK")
                raise

    def close(self) -> None:
        """Writes everything into the file and lets go of it; a second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._database.close()

    @contextmanager
    def _mapped(self) -> Generator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise MemoryFault(f"Memory at {self.path} failed: {_first_line(error)}") from error


def _opening_fault(path: Path, error: duckdb.Error) -> MemoryFault:
    text = str(error)
    if "Could not set lock" in text:
        found = re.search(r"\(PID (\d+)\)", text)
        return MemoryLocked(str(path), int(found[1]) if found else None)
    if "Unique file handle conflict" in text:
        return MemoryLocked(str(path), os.getpid())
    if path.is_file() and path.stat().st_size == 0:
        return MemoryFault(f"{path} is empty: a first start was cut off; delete it and start again.")
    if "not a valid DuckDB" in text or "Could not read enough" in text or "orrupt" in text:
        return MemoryFault(
            f"{path} is damaged or not a memory file ({_first_line(error)}): move it away or restore it."
        )
    return MemoryFault(f"{path} cannot be opened: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
