"""Prepares plain text for DuckDB: unpacks it, makes line ends uniform, and says what its bytes hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainers.data.importing.files.sources import Part

BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class PlainText:
    """A plain text file with uniform line ends, the length of its longest line in bytes, and which marks occur."""

    path: Path
    longest: int
    quotes: bool
    escaped_quotes: bool
    """Whether a backslash stands before a quote."""


def plain_text(part: Part, target: Path) -> PlainText:
    """The content of `part` as the plain file `target`.

    It is a link, so that quotes and wildcards in a path never reach SQL. It is a copy if the original is packed or
    mixes line ends, which DuckDB takes for damage. Raises DataError for a damaged file.
    """
    if not part.packing:
        scanned, mixed = _scan(part.path, target)
        if not mixed:
            target.symlink_to(part.path.resolve())
            return scanned
    unpacked = 0
    with part.open() as packed, target.open("wb") as file:
        for block in _blocks(packed.read):
            unpacked += len(block)
            part.check_size(unpacked)
            file.write(block.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    return _scan(target, target)[0]


def _scan(path: Path, target: Path) -> tuple[PlainText, bool]:
    """What the bytes of `path` hold, and whether its line ends are neither all LF nor all CRLF."""
    longest, open_line, feeds, returns, pairs = 0, 0, 0, 0, 0
    quotes = escaped = False
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
            quotes = quotes or b'"' in block
            escaped = escaped or b'\\"' in block
    mixed = returns > 0 and not (feeds == returns == pairs)
    return PlainText(target, max(longest, open_line), quotes, escaped), mixed


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The content in blocks that never separate a CR from its LF."""
    while block := read(BLOCK_BYTES):
        while block.endswith(b"\r") and (more := read(1)):
            block += more
        yield block
