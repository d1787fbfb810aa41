"""Staging folders: where a dataset is built before it is renamed into place, swept when their process has died."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import TextIO

import duckdb
from safetensors import SafetensorError

from trainers.data.errors import foreign

MEMORY_LIMIT = "2GB"
"""DuckDB spills to the staging folder beyond this, so an import fits beside a training."""
_STAGED, _TRASH = ".import-", ".removed-"


@contextlib.contextmanager
def staging_folder(datasets_dir: Path) -> Generator[tuple[Path, duckdb.DuckDBPyConnection]]:
    """A hidden folder beside the datasets and a DuckDB connection that works in it; both are gone afterwards.

    A lock file held open says that the folder is in use: whoever can take the lock may delete the folder.
    """
    try:
        datasets_dir.mkdir(parents=True, exist_ok=True)
        _sweep(datasets_dir)
        folder, lock = _claim(datasets_dir)
    except OSError as error:
        raise foreign("Writing under", datasets_dir, error) from None
    try:
        work = folder / "work"
        work.mkdir(parents=True)
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY_LIMIT,
            "threads": str(min(os.cpu_count() or 1, 4)),
            "temp_directory": str(work / "spill"),
            "autoinstall_known_extensions": "false",
        }
        connection = duckdb.connect(str(work / "import.duckdb"), config=config)
        try:
            connection.execute("SET TimeZone = 'UTC'")
            yield folder, connection
        finally:
            connection.close()
    except (duckdb.Error, SafetensorError, OSError) as error:
        raise foreign("Writing under", datasets_dir, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
        Path(lock.name).unlink(missing_ok=True)


def publish(folder: Path, target: Path) -> bool:
    """Rename a finished staging folder to `target`, its files safely on disk; False where another got there first."""
    shutil.rmtree(folder / "work")
    for path in (*folder.iterdir(), folder):
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
    """Delete a folder so that it is there whole or not at all."""
    trash = folder.with_name(_TRASH + secrets.token_hex(6))
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _claim(datasets_dir: Path) -> tuple[Path, TextIO]:
    """A name for a staging folder, and the open lock file that keeps it ours."""
    while True:
        folder = datasets_dir / (_STAGED + secrets.token_hex(6))
        lock = _lock(folder)
        if lock is not None:
            return folder, lock


def _sweep(datasets_dir: Path) -> None:
    """Delete what dead imports and removals left behind."""
    for path in datasets_dir.glob(_TRASH + "*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in {path.name.removesuffix(".lock") for path in datasets_dir.glob(_STAGED + "*")}:
        lock = _lock(datasets_dir / name)
        if lock is not None:
            shutil.rmtree(datasets_dir / name, ignore_errors=True)
            Path(lock.name).unlink(missing_ok=True)
            lock.close()


def _lock(folder: Path) -> TextIO | None:
    """The lock of a staging folder, held until closed; None where somebody else holds it."""
    path = Path(f"{folder}.lock")
    lock = path.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # a sweeper may have unlinked the file between open and flock: such a lock guards nothing
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
