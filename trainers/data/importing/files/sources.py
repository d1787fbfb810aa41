"""The files of a source: one file, packed or not, or a folder of parts. Reads their beginnings and unpacks them."""

from __future__ import annotations

import gzip
import stat
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

from trainers.data.errors import DataError, foreign

Packing = Literal["", "gzip", "zip"]
SAMPLE_BYTES = 1 << 18
MOST_PARTS = 10_000
BOMB_BYTES, BOMB_RATIO = 1 << 28, 200
"""A packed file that unpacks to more than this many bytes, and to this many times its size, is no log."""
_ARCHIVES = {
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
}
_PART_NAMES = (".parquet", ".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".inter", ".dat", ".gz", "")


@dataclass(frozen=True)
class Part:
    """One file of a source: how it is packed, its first bytes unpacked, and whether these are all of it."""

    path: Path
    packing: Packing
    head: bytes
    whole: bool

    @contextmanager
    def open(self) -> Generator[IO[bytes]]:
        """The unpacked content. Raises DataError if it is damaged."""
        try:
            if self.packing == "zip":
                with zipfile.ZipFile(self.path) as archive, archive.open(_member(self.path, archive)) as file:
                    yield file
            elif self.packing == "gzip":
                with gzip.open(self.path) as unpacked:
                    yield cast(IO[bytes], unpacked)
            else:
                with self.path.open("rb") as file:
                    yield file
        except NotImplementedError:  # how zipfile says that it lacks the method of compression
            raise DataError(f"{str(self.path)!r} is a zip archive packed in a rare way; unpack it first.") from None
        except (zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error):
            raise DataError(f"{str(self.path)!r} is a damaged {self.packing} file; fetch it again.") from None

    def check_size(self, unpacked: int) -> None:
        """Raises DataError if `unpacked` bytes are more than a packed log of this size holds."""
        if self.packing and unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * self.path.stat().st_size:
            raise DataError(
                f"{str(self.path)!r} unpacks to more than {BOMB_RATIO} times its size, which no log does; unpack it "
                "yourself if you trust it."
            )


def parts_of(path: Path) -> tuple[Part, ...]:
    """The parts of the source at `path` that are not empty, in the order of their names. Raises DataError."""
    mode = _mode(path)
    if not stat.S_ISDIR(mode):
        return (_part(path, mode),)
    names = sorted(
        entry
        for entry in path.rglob("*")
        if entry.is_file()
        and not any(name.startswith((".", "_")) for name in entry.relative_to(path).parts)
        and entry.suffix.lower() in _PART_NAMES
        and entry.stat().st_size
    )
    if not names:
        raise DataError(f"{str(path)!r} is a folder; it holds no Parquet, CSV or JSON files, so give the path of one.")
    if len(names) > MOST_PARTS:
        raise DataError(f"{str(path)!r} holds {len(names):,} files; at most {MOST_PARTS:,} are read as one dataset.")
    parts = [_part(name, _mode(name)) for name in names]
    return tuple(part for part in parts if part.head.strip())


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"There is no file {str(path)!r}.") from None
    except (OSError, ValueError) as error:
        raise foreign("Reading", path, error) from None


def _part(path: Path, mode: int) -> Part:
    if not stat.S_ISREG(mode):
        raise DataError(f"{str(path)!r} is not a regular file; give the path of one file.")
    try:
        with path.open("rb") as file:
            magic = file.read(8)
        packing: Packing = "gzip" if magic.startswith(b"\x1f\x8b") else "zip" if magic.startswith(b"PK\x03\x04") else ""
        with Part(path, packing, b"", False).open() as file:
            head = file.read(SAMPLE_BYTES)
    except OSError as error:
        raise foreign("Reading", path, error) from None
    for mark, what in _ARCHIVES.items():
        if head.startswith(mark):
            raise DataError(f"{str(path)!r} is {what}; unpack it first (gzip, and zip with one file, are read as is).")
    return Part(path, packing, head, len(head) < SAMPLE_BYTES)


def _member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one file in a zip archive. Raises DataError if there are more, or if it cannot be unpacked here."""
    members = [
        member for member in archive.infolist() if not member.is_dir() and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        names = ", ".join(repr(member.filename[:60]) for member in members[:5]) or "nothing"
        more = f" and {len(members) - 5:,} more" if len(members) > 5 else ""
        raise DataError(f"{str(path)!r} holds {names}{more}; a zip archive with one file is read, so unpack it first.")
    member = members[0]
    if member.flag_bits & 1:
        raise DataError(f"{str(path)!r} is encrypted; unpack it first.")
    if member.filename.lower().endswith((".zip", ".parquet")):
        raise DataError(f"{str(path)!r} holds {member.filename[:60]!r}; unpack it first.")
    if member.file_size > BOMB_BYTES and member.file_size > BOMB_RATIO * max(member.compress_size, 1):
        raise DataError(
            f"{str(path)!r} says that it unpacks to {member.file_size:,} bytes, over {BOMB_RATIO} times its size, "
            "which no log does; unpack it yourself if you trust it."
        )
    return member
