"""Detects the format of a file, and the layout of its table, from the first bytes of the file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from trainers.data.errors import DataError
from trainers.data.importing.columns.roles import Columns, is_header
from trainers.data.importing.files.dialect import WORDS, Dialect, best_dialect, dialect_of, rows_of
from trainers.data.importing.files.sequence_text import is_table, refuse_odd_lines, refuse_odd_tokens
from trainers.data.importing.files.sources import Part
from trainers.data.importing.options import FORMATS, Format, Options

SAMPLE_LINES = 500
_BY_SUFFIX: dict[str, Format] = {
    ".csv": "csv", ".tsv": "tsv", ".inter": "inter", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".dat": "movielens",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How to read a file. `columns` are those of a table ("1", "2", … without a header), with a sample of each."""

    format: Format
    delimiter: str = ""
    quote: str = '"'
    skip: int = 0
    """Number of lines up to the end of the header; 0 without a header."""
    columns: Columns = field(default_factory=lambda: Columns(()))
    array: bool = False
    """Whether a JSON file is one array of objects rather than one object per line."""
    mapping: bool = False
    """Whether a JSON file is an object whose keys are users, each with the list of its items."""

    def words(self) -> str:
        """The format in words, for the report."""
        if self.mapping:
            return "json, an object of lists"
        if self.format in ("csv", "inter") and self.delimiter not in (",", ""):
            mark = WORDS.get(self.delimiter, repr(self.delimiter))
            return f"{self.format}, separated by {mark}"
        return self.format


def detect(part: Part, options: Options) -> Layout:
    """The layout of a file; the options override what is guessed. Raises DataError."""
    path, format = part.path, options.format
    if format is not None and format not in FORMATS:
        raise DataError(f"Unknown format {format!r}; there are {', '.join(FORMATS)}.")
    if part.head.startswith(b"PAR1") or format == "parquet":
        if part.packing or not part.head.startswith(b"PAR1"):
            raise DataError(f"{str(path)!r} is not a plain Parquet file; unpack it, or name its format with --format.")
        return Layout("parquet")
    lines, before = _read_lines(part)
    kind = format if format is not None else _guess_format(path, lines, options)
    if kind == "sequences":
        if format is None:
            refuse_odd_tokens(str(path), lines)
        return Layout("sequences")
    if kind == "json":
        return _json_layout(path, lines)
    return _table_layout(kind, lines, before, _dialect(kind, lines, options), options)


def _read_lines(part: Part) -> tuple[list[str], int]:
    """The first readable lines, and how many lines precede them. Raises DataError if the file is not UTF-8 text."""
    path, head = part.path, part.head
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{str(path)!r} is UTF-16 text; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8).")
    rows = head.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if not part.whole and len(rows) > 1:
        rows.pop()
    elif not part.whole:
        rows = [rows[0][:-4].rstrip(bytes(range(128, 256)))]  # cut inside a long line, perhaps inside a character
    texts = [_decode(row) for row in rows if row.strip()]
    if not texts:
        raise DataError(f"{str(path)!r} is empty; it holds no interactions.")
    readable = [text for text in texts if text is not None]
    if 2 * len(readable) < len(texts):
        raise DataError(f"{str(path)!r} is not UTF-8 text; convert it to UTF-8 first, or check that it is the file.")
    before = next(place for place, row in enumerate(rows) if row.strip() and _decode(row) is not None)
    return readable[:SAMPLE_LINES], before


def _decode(row: bytes) -> str | None:
    """The row as text; None if it is not UTF-8 or has zero bytes, as binary files do."""
    try:
        return None if b"\0" in row else row.decode()
    except UnicodeDecodeError:
        return None


def _guess_format(path: Path, lines: Sequence[str], options: Options) -> Format:
    suffix = Path(path.name.lower().removesuffix(".gz").removesuffix(".zip")).suffix
    if re.match(r"\s*(\{\s*\"|\[\s*\{)", lines[0]) or (suffix in (".json", ".jsonl") and lines[0].strip() in "[{"):
        return "json"
    refuse_odd_lines(str(path), lines)
    if re.search(r":(token|float)", lines[0]):
        return "inter"
    if options.named or options.delimiter is not None:
        return "csv" if _BY_SUFFIX.get(suffix) != "tsv" else "tsv"
    if sum("::" in line for line in lines) * 2 > len(lines):
        return "movielens"
    by_suffix = _BY_SUFFIX.get(suffix)
    if by_suffix in ("csv", "tsv", "inter"):
        return by_suffix
    dialect = best_dialect(lines, options)
    if dialect is not None and (dialect.delimiter != "\t" or is_table(rows_of(lines, "\t"), options)):
        return "tsv" if dialect.delimiter == "\t" else "csv"
    spaced = dialect_of(lines, " ", options)
    return "csv" if spaced.share > 0.5 and is_table(rows_of(lines, " "), options) else "sequences"


def _dialect(kind: Format, lines: Sequence[str], options: Options) -> Dialect:
    if options.delimiter is not None:
        return dialect_of(lines, options.delimiter, options)
    usual = {"tsv": "\t", "inter": "\t", "movielens": "::"}.get(kind)
    if usual is not None:
        dialect = dialect_of(lines, usual, options)
        if dialect.width > 1 and dialect.share > 0.5:
            return dialect
    spaced = dialect_of(lines, " ", options)
    best = best_dialect(lines, options)
    if best is None or (spaced.names_columns and not best.names_columns):
        best = spaced if spaced.width > 1 and spaced.share > 0.5 else best
    return best or dialect_of(lines, usual or ",", options)


def _table_layout(kind: Format, lines: Sequence[str], before: int, dialect: Dialect, options: Options) -> Layout:
    rows = rows_of(lines, dialect.delimiter, dialect.quote)
    header = not options.no_header and is_header(rows[0], rows[1:], options)
    width = len(rows[0]) if header else dialect.width
    names = tuple(cell.strip() for cell in rows[0]) if header else tuple(str(place + 1) for place in range(width))
    body = [row for row in rows[int(header) :] if len(row) == width]
    cells = {name: [row[place] for row in body] for place, name in reversed(list(enumerate(names)))}
    columns = Columns(names, cells)
    return Layout(kind, dialect.delimiter, dialect.quote, before + 1 if header else 0, columns)


def _json_layout(path: Path, lines: Sequence[str]) -> Layout:
    array = lines[0].lstrip().startswith("[")
    objects: list[Any] = []
    if array:
        text = "\n".join(lines)
        start = text.find("{")
        objects = _parse_objects([text[start:]]) if start >= 0 else []
    else:
        objects = _parse_objects(lines)
    records = [cast(dict[Any, Any], entry) for entry in objects if isinstance(entry, dict)]
    if not array and _is_mapping(path, lines, records):
        return Layout("json", mapping=True)
    names = list(dict.fromkeys(str(key) for record in records for key in record))
    if not names:
        raise DataError(f"{str(path)!r} is not JSON lines: no line of its beginning is an object.")
    cells = {name: [_as_text(record.get(name)) for record in records] for name in names}
    return Layout("json", columns=Columns(tuple(names), cells), array=array)


def _is_mapping(path: Path, lines: Sequence[str], records: Sequence[dict[Any, Any]]) -> bool:
    """Whether the file is `{"user": [item, …], …}`, in one object or in several."""
    start = re.match(r'\s*\{\s*"([^"\\]|\\.)*"\s*:\s*(\[|\{)', "\n".join(lines[:50]))
    if start is None or (len(records) > 1 and len({tuple(record) for record in records}) * 2 <= len(records)):
        return False
    values = [value for record in records for value in record.values()]
    if not all(isinstance(value, dict if start[2] == "{" else list) for value in values):
        return False
    if start[2] == "{":
        raise DataError(f"{str(path)!r} is one JSON object of objects; write one event a line, as JSON lines.")
    if re.match(r"\s*[\[{]", "\n".join(lines[:50])[start.end() :]):
        raise DataError(f"{str(path)!r} has lists of lists or objects; write one event a line, as JSON lines.")
    return True


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _parse_objects(texts: Sequence[str]) -> list[Any]:
    decoder = json.JSONDecoder()
    values: list[Any] = []
    for text in texts:
        try:
            values.append(decoder.raw_decode(text.strip())[0])
        except (ValueError, RecursionError):
            continue
    return values
