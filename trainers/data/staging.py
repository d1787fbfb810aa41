"""Staging folders: a dataset is built in one and renamed into place; those of dead processes are deleted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import duckdb
from safetensors import SafetensorError

from trainers.data.errors import foreign

MEMORY_LIMIT = "2GB"
"""Memory limit of DuckDB, above which it spills to the staging folder, so that an import fits beside a training."""
_STAGED, _TRASH = ".import-", ".removed-"


@dataclass(frozen=True)
class Staging:
    """Where a dataset is built: `folder` becomes the dataset, `connection` works in its sub-folder `work`."""

    folder: Path
    connection: duckdb.DuckDBPyConnection

    @property
    def work(self) -> Path:
        """For intermediate files; deleted before the dataset is published."""
        return self.folder / "work"


@contextlib.contextmanager
def staging_folder(datasets_dir: Path) -> Generator[Staging]:
    """A hidden folder beside the datasets and a DuckDB connection that works in it; both are removed afterwards.

    A locked file says that the folder is in use; a process that can take the lock may delete it. Raises DataError.
    """
    try:
        datasets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(datasets_dir)
        folder, lock = _claim(datasets_dir)
    except OSError as error:
        raise foreign("Writing under", datasets_dir, error) from None
    try:
        work = folder / "work"
        folder.mkdir(mode=0o700)
        work.mkdir()
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY_LIMIT,
            "threads": str(min(os.cpu_count() or 1, 4)),
            "temp_directory": str(work / "spill"),
            "autoinstall_known_extensions": "false",
        }
        file = ":memory:" if "?" in os.path.realpath(work) else str(work / "import.duckdb")  # DuckDB's log needs a path
        connection = duckdb.connect(file, config=config)
        try:
            connection.execute("SET TimeZone = 'UTC'")
            yield Staging(folder, connection)
        finally:
            connection.close()
    except (duckdb.Error, UnicodeError, SafetensorError, OSError) as error:
        raise foreign("Writing under", datasets_dir, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
        Path(lock.name).unlink(missing_ok=True)


def publish(folder: Path, target: Path) -> bool:
    """Flushes a finished staging folder to disk and renames it to `target`; False if `target` exists already.

    Only its user can read what is published: it holds the sealed test.
    """
    shutil.rmtree(folder / "work")
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o700 if path.is_dir() else 0o600)
        _flush(path)
    try:
        folder.rename(target)
    except OSError:
        if target.exists():
            return False
        raise
    _flush(target.parent)
    return True


def throw_away(folder: Path) -> None:
    """Deletes a folder by renaming it first, so that it is never seen half-deleted."""
    trash = folder.with_name(_TRASH + secrets.token_hex(6))
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _claim(datasets_dir: Path) -> tuple[Path, TextIO]:
    """The path of a new staging folder, and the open lock file that reserves it."""
    while True:
        folder = datasets_dir / (_STAGED + secrets.token_hex(6))
        lock = _lock(folder)
        if lock is not None:
            return folder, lock


def _sweep(datasets_dir: Path) -> None:
    """Deletes what imports and removals of dead processes left behind."""
    for path in datasets_dir.glob(_TRASH + "*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in {path.name.removesuffix(".lock") for path in datasets_dir.glob(_STAGED + "*")}:
        lock = _lock(datasets_dir / name)
        if lock is not None:
            shutil.rmtree(datasets_dir / name, ignore_errors=True)
            Path(lock.name).unlink(missing_ok=True)
            lock.close()


def _lock(folder: Path) -> TextIO | None:
    """The lock file of a staging folder, locked until it is closed; None if another process holds the lock."""
    path = Path(f"{folder}.lock")
    lock = path.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # another process may have deleted the file between open and flock; such a lock protects nothing
        if path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    lock.close()
    return None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
