"""Finds out how a text file separates and quotes its cells, from how consistently that splits its lines."""

from __future__ import annotations

import contextlib
import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainers.data.importing.columns.names import USUAL_NAMES, plain
from trainers.data.importing.options import Options

SEPARATORS = (",", "\t", ";", "|", "::", "\x01", "^", "~")
"""What separates cells in files of the world; a space does too, where none of these fits."""
WORDS = {"\t": "tab", " ": "space", ",": "comma", ";": "semicolon", "|": "pipe", "\x01": "\\x01"}


@dataclass(frozen=True)
class Dialect:
    """A separator and a quotation mark, and how well they fit: the columns, and the share of lines with so many."""

    delimiter: str
    quote: str
    width: int
    share: float
    names_columns: bool = False
    """Whether the first line, split like this, has the usual name of a user or an item, or one that was given."""
    foreign: float = 0.0
    """Share of lines where a cell holds another separator."""


def rows_of(lines: Sequence[str], delimiter: str, quote: str = '"') -> list[list[str]]:
    """The lines split into cells."""
    if len(delimiter) > 1:
        return [[cell.strip().strip(quote) for cell in line.split(delimiter)] for line in lines]
    escape = "\\" if any("\\" + quote in line for line in lines) else None
    rows: list[list[str]] = []
    reader = csv.reader(lines, delimiter=delimiter, quotechar=quote, escapechar=escape)
    with contextlib.suppress(csv.Error):  # a field exceeds the parser's limit; the rows before it are enough
        rows.extend(reader)
    return rows


def dialect_of(lines: Sequence[str], delimiter: str, options: Options) -> Dialect:
    """How the lines look when `delimiter` splits them."""
    quote = "'" if _is_quoted(lines, delimiter, "'") and not _is_quoted(lines, delimiter, '"') else '"'
    rows = rows_of(lines, delimiter, quote)
    if not rows:
        return Dialect(delimiter, quote, 1, 0.0)
    header = {plain(cell) for cell in rows[0]}
    given = {plain(name) for name in (options.user, options.item, options.timestamp) if name and not name.isdigit()}
    named = len(rows[0]) > 1 and bool(header & (_USUAL | given))
    width = len(rows[0]) if named else Counter(map(len, rows)).most_common(1)[0][0]
    others = [mark for mark in SEPARATORS[1:] if mark not in delimiter]
    return Dialect(
        delimiter,
        quote,
        width,
        sum(len(row) == width for row in rows) / len(rows),
        named,
        sum(any(mark in cell for cell in row for mark in others) for row in rows) / len(rows),
    )


def best_dialect(lines: Sequence[str], options: Options, candidates: Sequence[str] = SEPARATORS) -> Dialect | None:
    """The separator that splits the lines most consistently into at least two columns; None if none does for half."""
    found = [dialect_of(lines, candidate, options) for candidate in candidates]
    fitting = [dialect for dialect in found if dialect.width > 1 and dialect.share > 0.5]
    return max(
        fitting,
        key=lambda dialect: (
            dialect.names_columns, dialect.share > 0.9, dialect.foreign < 0.5, dialect.width, dialect.share,
        ),
        default=None,
    )  # fmt: skip


def _is_quoted(lines: Sequence[str], delimiter: str, quote: str) -> bool:
    """Whether at least a twentieth of the lines have a cell inside these quotation marks."""
    mark = re.escape(delimiter)
    cell = re.compile(rf"(^|{mark}){quote}([^{quote}\\]|\\.|{quote}{quote})*{quote}({mark}|$)")
    return sum(cell.search(line) is not None for line in lines) * 20 >= len(lines)


_USUAL = {name for role in ("user", "item") for name in USUAL_NAMES[role] if len(name) > 1}
