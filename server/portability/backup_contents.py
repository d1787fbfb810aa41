"""What a backup may hold: reads the list of its entries, refuses whatever a home never has, and describes the rest."""

from __future__ import annotations

import json
import re
import reprlib
import shlex
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import yaml

from server.replay.marker import REPLAY_FILE
from trainers.data.errors import NAME_PATTERN
from trainers.external.registry import ExternalTrainer

LABEL = "backup.json"
FORMAT = 1
SETTINGS_FILE, KEY_FILE = "virtualmle.yaml", "task.key"
FOLDERS = ("datasets", "trainers", "trials", "reports")
RUNNING_SETTINGS = (
    "executor", "docker_image", "host_home", "ray_address", "allowed_hosts", "allowed_origins",
)  # fmt: skip
"""Settings that choose which programs run and who reaches the owner. They are restored on request only."""
_MOST_ENTRIES = 2_000_000
_MOST_DEPTH = 12
_MOST_BYTES = {LABEL: 2**16, SETTINGS_FILE: 2**20, KEY_FILE: 2**12, REPLAY_FILE: 2**20}
_MOST_TRAINER_BYTES = 2**20
_KINDS = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a link", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe", tarfile.GNUTYPE_SPARSE: "a sparse file",
}  # fmt: skip

_REPR = reprlib.Repr()
_REPR.maxstring = 200


class BackupError(RuntimeError):
    """A backup cannot be written or restored; the message says why."""


@dataclass(frozen=True)
class Contents:
    """The entries of a backup, all of which a home may have. `entries` keeps their order."""

    label: dict[str, Any]
    entries: dict[str, tarfile.TarInfo]
    trainers: dict[str, str]
    """The command of each own trainer, by the name of its entry."""
    running_settings: dict[str, str]
    """Values of RUNNING_SETTINGS in its settings file."""

    def lines(self) -> Iterator[str]:
        """What the backup holds, in lines for people."""
        yield f"Made {self.label['made']!s:.40} by virtualmle {self.label.get('virtualmle', '?')!s:.40}. It holds:"
        if REPLAY_FILE in self.entries:
            yield "  a replay home: its results come from recorded trainings"
        for top in ("memory.duckdb", *FOLDERS, SETTINGS_FILE, KEY_FILE):
            files = [entry for name, entry in self.entries.items() if _top(name) == top and entry.isreg()]
            if files:
                names = sorted({PurePosixPath(entry.name).parts[1] for entry in files if "/" in entry.name})
                shown = "" if not names or top == "trials" else ": " + ", ".join(map(_shown, names[:20]))
                count = f"{len(names):,} {top}" if names else top
                yield f"  {count}{shown} ({sum(entry.size for entry in files) / 2**20:.1f} MB)"
        for name, command in self.trainers.items():
            yield f"  the trainer {PurePosixPath(name).stem} runs {_shown(command)}"
        for name, value in self.running_settings.items():
            yield f"  the setting {name} is {value}"

    def left_out(self, with_trainers: bool, with_settings: bool) -> list[str]:
        """The names of the entries that are not restored unless they are asked for."""
        trainers = [] if with_trainers else list(self.trainers)
        return trainers + ([] if with_settings or not self.running_settings else [SETTINGS_FILE])


def read_contents(archive: tarfile.TarFile, source: Path, database: str, room: int) -> Contents:
    """The checked entries of the backup at `source`. `room`: bytes that it may unpack to.

    Raises BackupError with the first entry that a backup never holds, and TarError where it is no whole archive.
    """
    entries: dict[str, tarfile.TarInfo] = {}
    small: dict[str, bytes] = {}
    total = 0
    for member in archive:
        name = member.name.rstrip("/")
        if (problem := _problem(member, name, database)) is None and name in entries:
            problem = "is in it twice"
        total += member.size
        if problem is None and total > room:
            problem = f"is too large: with it the backup holds {total:,} bytes, and {room:,} bytes are free"
        if problem is None and len(entries) >= _MOST_ENTRIES:
            problem = f"is one too many: a backup has at most {_MOST_ENTRIES:,} entries"
        if problem is not None:
            raise _refused(source, name, problem)
        entries[name] = member
        if member.isreg() and (name in _MOST_BYTES or _top(name) == "trainers"):
            small[name] = _content(archive, member)
    _check_end(archive)
    label = _label(small.get(LABEL, b"")) if database in entries else None
    if label is None:
        raise BackupError(f"{source} is no backup of this version: `virtualmle backup FILE` makes one.")
    trainers = {name: _command(small[name]) for name in small if _top(name) == "trainers"}
    return Contents(label, entries, trainers, _running(small[SETTINGS_FILE]) if SETTINGS_FILE in small else {})


def _refused(source: Path, name: str, problem: str) -> BackupError:
    return BackupError(
        f"{source} is refused: {_shown(name)} {problem}. Nothing was restored; restore only backups that you made."
    )


def _check_end(archive: tarfile.TarFile) -> None:
    """Raises ReadError where entries end without the mark of the end: tarfile takes a cut for the end."""
    file = cast("BinaryIO", archive.fileobj)
    file.seek(archive.offset)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
    rest = file.read(2 * tarfile.RECORDSIZE)  # up to the end, where gzip compares its checksum
    if len(rest) < tarfile.BLOCKSIZE or any(rest) or file.read(1):
        raise tarfile.ReadError("its end is missing or damaged")


def may_hold(name: str, is_folder: bool, database: str) -> bool:
    """Whether a backup may hold an entry of this name, a path relative to the home."""
    return _named_well(name) and _belongs(PurePosixPath(name), is_folder, database)


def _named_well(name: str) -> bool:
    path = PurePosixPath(name)
    return name.isprintable() and "\\" not in name and str(path) == name and 0 < len(path.parts) <= _MOST_DEPTH


def _problem(member: tarfile.TarInfo, name: str, database: str) -> str | None:
    """What is wrong with an entry, or None where a home may have it."""
    path = PurePosixPath(name)
    if name.startswith("/") or ".." in path.parts:
        return "lies outside the home"
    if not _named_well(name):
        return "has a name that no file of a home has"
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        return f"is {_KINDS.get(member.type, 'of an unknown kind')}; a backup holds only files and folders"
    if not _belongs(path, member.isdir(), database):
        return "is nothing that a backup holds"
    most = _MOST_TRAINER_BYTES if path.parts[0] == "trainers" else _MOST_BYTES.get(name)
    if most is not None and member.size > most:
        return f"has {member.size:,} bytes; at most {most:,} are allowed"
    return None


def _belongs(path: PurePosixPath, is_folder: bool, database: str) -> bool:
    top, *rest = path.parts
    if not rest:
        return top in FOLDERS if is_folder else top in (LABEL, SETTINGS_FILE, KEY_FILE, REPLAY_FILE, database)
    if top == "trainers":
        named = re.fullmatch(NAME_PATTERN + r"\.json", rest[0]) is not None
        return named and len(rest) == 1 and not is_folder
    if top == "datasets":
        return re.fullmatch(NAME_PATTERN, rest[0]) is not None and (is_folder or len(rest) > 1)
    return top in FOLDERS


def _label(content: bytes) -> dict[str, Any] | None:
    try:
        label: Any = json.loads(content)
        valid = label["format"] == FORMAT and isinstance(label["made"], str)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return label if valid else None


def _command(content: bytes) -> str:
    try:
        return shlex.join(ExternalTrainer.model_validate_json(content).command)
    except ValueError:
        return "nothing, since it cannot be read"


def _running(content: bytes) -> dict[str, str]:
    """The settings of a settings file that choose what runs, and their values."""
    try:
        values: Any = yaml.safe_load(content) or {}
        return {name: _REPR.repr(values[name]) for name in RUNNING_SETTINGS if name in values}
    except (ValueError, TypeError, yaml.YAMLError, RecursionError):
        return {"of every name": "unknown, since the file cannot be read"}


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _top(name: str) -> str:
    return PurePosixPath(name).parts[0]


def _shown(text: str) -> str:
    """Text of the backup for a terminal: quoted, without control characters, and cut."""
    return repr(text if len(text) <= 200 else text[:199] + "…")
