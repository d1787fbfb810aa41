"""Packs a whole home into one file while its owner works, and restores a home from such a file."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from server.portability.backup_contents import (
    FOLDERS,
    FORMAT,
    KEY_FILE,
    LABEL,
    SETTINGS_FILE,
    BackupError,
    Contents,
    may_hold,
    read_contents,
)
from server.replay.marker import REPLAY_FILE
from server.settings import Settings
from server.version import installed_version
from trainers.contract.regular_files import open_regular
from trainers.contract.wire import CHECKPOINT_FILE, RESUME_FILE

__all__ = ["COPY", "BackupError", "restore", "write_backup"]

COPY = "memory.backup.duckdb"
"""Name of the owner's copy of its memory, which is in the home while a backup is made."""
KEPT = (*FOLDERS, SETTINGS_FILE, KEY_FILE, REPLAY_FILE)
CHECKPOINTS = (CHECKPOINT_FILE, RESUME_FILE)
_MOST_READ = 16 * 2**20
"""Bytes of one read: files are read in smaller pieces, so only the header of an entry could ask for more."""


def write_backup(settings: Settings, memory_copy: Path, target: Path, checkpoints: bool) -> int:
    """Packs a home, with a copy of its memory, into `target` (.tar or .tar.gz) atomically; returns its size in bytes.

    Only its user can read it, also while it is written: it holds the sealed test. Memory is copied before the run
    directories, which may then be newer: an owner reads what they hold when it starts. Raises BackupError.
    """
    part: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        part = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            mode = "w:gz" if target.suffix in (".gz", ".tgz") else "w"
            with tarfile.open(fileobj=file, mode=mode) as archive:
                label = {"format": FORMAT, "virtualmle": installed_version(), "made": datetime.now(UTC).isoformat()}
                encoded = json.dumps(label).encode()
                member = _entry(LABEL)
                member.size = len(encoded)
                archive.addfile(member, BytesIO(encoded))
                with memory_copy.open("rb") as memory:
                    _add(archive, settings.database.name, memory)
                for path in _paths_of(settings.home, checkpoints):
                    _add_path(archive, path, path.relative_to(settings.home).as_posix(), settings.database.name)
        size = part.stat().st_size
        part.replace(target)
    except OSError as error:
        if part is not None:
            part.unlink(missing_ok=True)
        raise BackupError(f"{target} cannot be written: {error.strerror or error}.") from None
    return size


def _paths_of(home: Path, checkpoints: bool) -> Iterator[Path]:
    """The paths of a home that a backup holds, without what is half written."""
    for name in KEPT:
        for path in [home / name, *sorted((home / name).rglob("*"))]:
            if path.suffix not in (".tmp", ".part") and (checkpoints or path.name not in CHECKPOINTS):
                yield path


def _add_path(archive: tarfile.TarFile, path: Path, name: str, database: str) -> None:
    """Adds a folder or a regular file. What `restore` refuses, such as a link that a trainer left, stays out."""
    try:
        kind = path.lstat().st_mode
        if not may_hold(name, stat.S_ISDIR(kind), database):
            return
        if stat.S_ISDIR(kind):
            archive.addfile(_entry(name, folder=True))
        elif stat.S_ISREG(kind):
            with open_regular(path) as file:
                _add(archive, name, file)
    except FileNotFoundError:  # a training has removed it meanwhile
        return


def _add(archive: tarfile.TarFile, name: str, file: BinaryIO) -> None:
    status, member = os.fstat(file.fileno()), _entry(name)
    member.size, member.mtime = status.st_size, int(status.st_mtime)
    archive.addfile(member, file)


def _entry(name: str, folder: bool = False) -> tarfile.TarInfo:
    """An entry that only the user who restores it can read."""
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    member.mode = 0o700 if folder else 0o600
    return member


def restore(
    source: Path,
    settings: Settings,
    *,
    with_trainers: bool = False,
    with_settings: bool = False,
    show: Callable[[str], None] = lambda line: None,
) -> Contents:
    """Makes a home from a backup, in a new or empty folder, such as a volume; first `show` gets a list of its content.

    Own trainers, which are commands, are left out unless `with_trainers`; settings that choose what runs are left out
    unless `with_settings`. Raises BackupError, and then leaves nothing behind.
    """
    home = settings.home
    try:
        if home.exists() and any(home.iterdir()):
            raise BackupError(f"{home} is not empty: name a folder that is not there yet with --home.")
        with _opened(source) as archive:
            contents = read_contents(archive, source, settings.database.name, _room(home))
            for line in contents.lines():
                show(line)
            left_out = contents.left_out(with_trainers, with_settings)
            _make_home(archive, [entry for name, entry in contents.entries.items() if name not in left_out], settings)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise BackupError(f"{source} is no whole backup: {_first_line(error)}.") from None
    except OSError as error:
        raise BackupError(f"{source} cannot be restored to {home}: {error.strerror or error}.") from None
    return contents


class _Reader:
    """An archive's bytes. One read asks for more than a piece of a file only where an entry's header is a trap."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _MOST_READ:
            raise tarfile.ReadError(f"a header asks for {size:,} bytes")
        return self._file.read(size)


@contextmanager
def _opened(source: Path) -> Generator[tarfile.TarFile]:
    """The archive at `source`, gzipped or not."""
    with source.open("rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if is_gzip else raw
        with tarfile.open(fileobj=cast("BinaryIO", _Reader(file)), mode="r:") as archive:
            yield archive


def _room(home: Path) -> int:
    """Bytes that are free where the home will be."""
    place = next(path for path in (home, *home.parents) if path.exists())
    return shutil.disk_usage(place).free


def _make_home(archive: tarfile.TarFile, entries: Sequence[tarfile.TarInfo], settings: Settings) -> None:
    """Unpacks beside the home, or within where it is an empty folder, and renames into place."""
    home = settings.home
    within = home if home.exists() else home.parent
    within.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=within) as folder:
        unpacked = Path(folder) / "home"
        unpacked.mkdir(mode=0o700)
        for entry in entries:
            _unpack(archive, entry, unpacked)
        if not home.exists():
            unpacked.rename(home)
            return
        with suppress(PermissionError):  # a mount point of another user
            home.chmod(0o700)
        # memory last: without it there is no home yet
        for path in sorted(unpacked.iterdir(), key=lambda path: path.name == settings.database.name):
            path.rename(home / path.name)


def _unpack(archive: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    """Writes one checked entry, which only its user can read, whatever mode the archive names."""
    path = folder / entry.name
    for missing in list(reversed(path.relative_to(folder).parents))[1:]:
        (folder / missing).mkdir(mode=0o700, exist_ok=True)
    if entry.isdir():
        path.mkdir(mode=0o700, exist_ok=True)
    elif entry.name != LABEL and (content := archive.extractfile(entry)) is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with content, os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            shutil.copyfileobj(content, file)
        if path.stat().st_size != entry.size:
            raise tarfile.ReadError(f"{entry.name!r} is cut short")
        with suppress(OSError, OverflowError):  # a time that the file system does not know
            os.utime(path, (entry.mtime, entry.mtime))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(" :.") if str(error) else type(error).__name__
