"""One file with everything of a home, made while its owner works; and a home made of it again."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from server.settings import Settings
from server.version import installed_version
from trainers.spec import RESUME_FILE

LABEL = "backup.json"
FORMAT = 1
COPY = "memory.backup.duckdb"
"""The owner's copy of its memory, in the home, while a backup is made."""
KEPT = ("datasets", "trainers", "trials", "reports", "virtualmle.yaml", "task.key")
CHECKPOINTS = ("checkpoint.safetensors", RESUME_FILE)


class BackupError(RuntimeError):
    """A backup that cannot be written or taken; the message says why."""


def write_backup(settings: Settings, memory_copy: Path, target: Path, checkpoints: bool) -> int:
    """Packs a home with a copy of its memory into `target`, a .tar or .tar.gz, by rename; how many bytes it has.

    Memory is copied before the run directories, which may be ahead of it then: an owner takes up what they say.
    """
    part = target.with_name(target.name + ".part")
    try:
        with tarfile.open(part, "w:gz" if target.suffix in (".gz", ".tgz") else "w") as archive:
            label = {"format": FORMAT, "virtualmle": installed_version(), "made": datetime.now(UTC).isoformat()}
            told = json.dumps(label).encode()
            member = tarfile.TarInfo(LABEL)
            member.size = len(told)
            archive.addfile(member, BytesIO(told))
            archive.add(memory_copy, settings.database.name)
            for path in _kept(settings.home, checkpoints):
                try:
                    archive.add(path, str(path.relative_to(settings.home)), recursive=False)
                except FileNotFoundError:  # a training has removed it meanwhile
                    continue
        size = part.stat().st_size
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BackupError(f"{target} cannot be written: {error.strerror or error}.") from None
    return size


def _kept(home: Path, checkpoints: bool) -> Iterator[Path]:
    for name in KEPT:
        for path in [home / name, *sorted((home / name).rglob("*"))]:
            passing = path.suffix in (".tmp", ".part") or path.is_symlink()
            if path.exists() and not passing and (checkpoints or path.name not in CHECKPOINTS):
                yield path


def restore(source: Path, settings: Settings) -> dict[str, str]:
    """Makes the home of a backup; there must be none yet, or an empty folder, such as a volume. Its label.

    Raises BackupError, and leaves nothing then.
    """
    home = settings.home
    if home.exists() and any(home.iterdir()):
        raise BackupError(f"{home} is not empty: name a folder that is not there yet with --home.")
    try:
        within = home if home.exists() else home.parent
        within.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=within) as folder:
            unpacked = Path(folder) / "home"
            unpacked.mkdir(mode=0o700)
            with tarfile.open(source) as archive:
                _unpack(archive, unpacked)
            label = _label(source, unpacked, settings)
            if not home.exists():
                unpacked.rename(home)
            else:  # memory last: without it there is no home yet
                for path in sorted(unpacked.iterdir(), key=lambda one: one.name == settings.database.name):
                    path.rename(home / path.name)
    except tarfile.TarError as error:
        raise BackupError(f"{source} is no whole backup: {_first(error)}.") from None
    except OSError as error:
        raise BackupError(f"{source} cannot be restored to {home}: {error.strerror or error}.") from None
    return label


def _first(error: tarfile.TarError) -> str:
    """What is wrong, without a line of each compression that was tried."""
    return str(error).splitlines()[0].rstrip(" :") if str(error) else type(error).__name__


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Files and folders below `folder`, and nothing else; Python before 3.11.4 has no filter that sees to it."""
    for member in archive:
        inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
        if not inside or not (member.isreg() or member.isdir()):
            raise tarfile.TarError(f"{member.name!r} in it is no file of a home")
    archive.extraction_filter = getattr(tarfile, "data_filter", None)
    archive.extractall(folder)


def _label(source: Path, unpacked: Path, settings: Settings) -> dict[str, str]:
    label: dict[str, Any] = {}
    try:
        label = json.loads((unpacked / LABEL).read_text(encoding="utf-8"))
        (unpacked / LABEL).unlink()
        known = label["format"] == FORMAT and (unpacked / settings.database.name).is_file()
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise BackupError(f"{source} is no backup of this version: `virtualmle backup FILE` makes one.")
    return label
