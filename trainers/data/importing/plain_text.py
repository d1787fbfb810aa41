"""Prepares plain text for DuckDB: unpacks gzip, makes line ends uniform and measures the longest line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from trainers.data.errors import DataError

BLOCK_BYTES = 1 << 24


def plain_source(path: Path, gzipped: bool, work: Path) -> tuple[Path, int]:
    """A file in `work` with the lines of `path`, and the length of the longest line in bytes.

    The file is a link, so that quotes and wildcards in a path never reach SQL. It is a copy if the original is gzipped
    or mixes line ends, which DuckDB takes for damage. Raises DataError for a damaged gzip file.
    """
    source = work / "source"
    if not gzipped:
        longest, mixed = _scan(path)
        if not mixed:
            source.symlink_to(path.resolve())
            return source, longest
    try:
        with gzip.open(path) if gzipped else path.open("rb") as packed, source.open("wb") as unpacked:
            for block in _blocks(packed.read):
                unpacked.write(block.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{str(path)!r} is a damaged gzip file; fetch it again.") from None
    return source, _scan(source)[0]


def _scan(path: Path) -> tuple[int, bool]:
    """The longest line in bytes, and whether line ends are neither all LF nor all CRLF."""
    longest, open_line, feeds, returns, pairs = 0, 0, 0, 0, 0
    with path.open("rb") as file:
        for block in _blocks(file.read):
            ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
            if len(ends):
                longest = max(longest, open_line + int(ends[0]), int(np.diff(ends).max(initial=0)))
                open_line = len(block) - int(ends[-1]) - 1
            else:
                open_line += len(block)
            feeds += len(ends)
            returns += block.count(b"\r")
            pairs += block.count(b"\r\n")
    return max(longest, open_line), returns > 0 and not (feeds == returns == pairs)


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The content in blocks that never separate a CR from its LF."""
    while block := read(BLOCK_BYTES):
        while block.endswith(b"\r") and (more := read(1)):
            block += more
        yield block
