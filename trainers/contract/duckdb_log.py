"""Where DuckDB keeps the write-ahead log of a database, also in a folder with a ? in its name."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def log_path(database: Path) -> Path:
    """The write-ahead log of a database.

    DuckDB takes what follows a ? in the real path for the query of an address, and names the log before it: that of
    /a/b?c/memory.duckdb is /a/b.wal?c/memory.duckdb.
    """
    before, mark, after = os.path.realpath(database.parent).partition("?")
    if not mark:
        return database.with_name(database.name + ".wal")
    return Path(f"{before}.wal?{after}") / database.name


def make_log_folder(database: Path) -> None:
    """Makes the folder of the log where it is not that of the database. Raises OSError."""
    log_path(database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def remove_log_folder(database: Path) -> None:
    """Removes what `make_log_folder` made for this database, unless something is left in it."""
    if "?" in os.path.realpath(database.parent):
        with suppress(OSError):
            log_path(database).parent.rmdir()
