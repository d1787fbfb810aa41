"""Opens files that another process may have put there: regular files only, up to a size, and never waiting. No torch.

A run directory is written by a trainer, which may leave a link, a pipe, a device or an endless file under any name.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

MOST_TEXT = 16 * 2**20
"""Bytes of a JSON file or of epochs.jsonl, at most."""
MOST_ARRAYS = 512 * 2**20
"""Bytes of a file of ranks or predictions, at most."""


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """Opens a regular file for reading.

    Raises OSError, also where the last component of `path` is a link, a pipe, a device or a folder, or where the file
    has more than `most` bytes.
    """
    return os.fdopen(_regular(path, os.O_RDONLY, most), "rb")


def read_regular(path: Path, most: int = MOST_TEXT) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises OSError like `open_regular`."""
    with open_regular(path, most) as file:
        content = file.read(most + 1)
    if len(content) > most:  # it has grown since it was opened
        raise _too_large(path, most)
    return content


def append_regular(path: Path) -> BinaryIO:
    """Opens a regular file for appending, and makes it where there is none. Raises OSError like `open_regular`."""
    return os.fdopen(_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")


def create_regular(path: Path) -> BinaryIO:
    """Opens a new regular file for writing, in place of the file, link or pipe that is there. Raises OSError."""
    path.unlink(missing_ok=True)
    return os.fdopen(_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")


def is_regular(path: Path) -> bool:
    """Whether there is a regular file at `path`; a link to one is none."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def check_regular(path: Path) -> None:
    """Raises OSError where `path` is not a regular file: for libraries that open a path themselves."""
    open_regular(path).close()


def remove(path: Path) -> None:
    """Removes whatever is at `path`, if there is anything; a link goes, not what it leads to. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _regular(path: Path, flags: int, most: int | None = None) -> int:
    """A descriptor of a regular file. O_NONBLOCK lets even the opening of a pipe return at once."""
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)  # a bridge also runs on Windows, which has none of them
    descriptor = os.open(path, flags, 0o600)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if most is not None and status.st_size > most:
            raise _too_large(path, most)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _too_large(path: Path, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
