"""Detects the format of a file, and the layout of its table, from the first bytes of the file."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import re
import stat
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from trainers.data.errors import DataError, foreign
from trainers.data.importing.columns import Wanted, is_header, looks_like_time

Format = Literal["sequences", "csv", "tsv", "json", "parquet", "inter", "movielens"]
FORMATS: tuple[Format, ...] = ("sequences", "csv", "tsv", "json", "parquet", "inter", "movielens")
SAMPLE_BYTES, SAMPLE_LINES = 1 << 18, 500
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
}
_BY_SUFFIX: dict[str, Format] = {
    ".csv": "csv", ".tsv": "tsv", ".inter": "inter", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".dat": "movielens",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How to read a file. `names` are the columns ("1", "2", … without a header); `cells` has a sample of each."""

    format: Format
    gzipped: bool = False
    delimiter: str = ""
    quoted: bool = False
    skip: int = 0
    """Number of lines up to the end of the header; 0 without a header."""
    names: tuple[str, ...] = ()
    array: bool = False
    """Whether a JSON file is one array of objects rather than one object per line."""
    cells: dict[str, list[str]] = field(default_factory=dict[str, list[str]])


def detect(path: Path, wanted: Wanted, format: str | None) -> Layout:
    """The layout of the file at `path`; `format` overrides the guessed format, not the layout. Raises DataError."""
    if format is not None and format not in FORMATS:
        raise DataError(f"Unknown format {format!r}; there are {', '.join(FORMATS)}.")
    head, gzipped, whole = _read_head(path)
    if head.startswith(b"PAR1") or format == "parquet":
        if gzipped or not head.startswith(b"PAR1"):
            raise DataError(f"{str(path)!r} is not a plain Parquet file; unpack it, or name its format with --format.")
        return Layout("parquet")
    lines, before = _read_lines(path, head, whole)
    kind = cast(Format, format) if format is not None else _guess_format(path, lines, wanted)
    if kind == "sequences":
        return Layout("sequences", gzipped)
    if kind == "json":
        return _json_layout(path, lines, gzipped)
    delimiter = {"tsv": "\t", "inter": "\t", "movielens": "::"}.get(kind) or _delimiter(lines, ",;|\t ") or ","
    return _table_layout(kind, lines, before, gzipped, delimiter, wanted)


def _read_head(path: Path) -> tuple[bytes, bool, bool]:
    """The first bytes (unpacked), whether the file is gzipped, and whether these bytes are the whole file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"There is no file {str(path)!r}.") from None
    except (OSError, ValueError) as error:
        raise foreign("Reading", path, error) from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise DataError(f"{str(path)!r} is {what}; give the path of one file.")
    try:
        with path.open("rb") as file:
            head = file.read(SAMPLE_BYTES)
        gzipped = head.startswith(b"\x1f\x8b")
        if gzipped:
            with gzip.open(path) as file:
                head = file.read(SAMPLE_BYTES)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{str(path)!r} is a damaged gzip file; fetch it again.") from None
    except OSError as error:
        raise foreign("Reading", path, error) from None
    for magic, what in _ARCHIVES.items():
        if head.startswith(magic):
            raise DataError(f"{str(path)!r} is {what}; unpack it first (only gzip is read as it is).")
    return head, gzipped, len(head) < SAMPLE_BYTES


def _read_lines(path: Path, head: bytes, whole: bool) -> tuple[list[str], int]:
    """The first readable lines, and how many lines precede them. Raises DataError if the file is not UTF-8 text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{str(path)!r} is UTF-16 text; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8).")
    rows = head.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if not whole and len(rows) > 1:
        rows.pop()
    elif not whole:
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


def _guess_format(path: Path, lines: Sequence[str], wanted: Wanted) -> Format:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if re.match(r"\s*\{\s*u?'", lines[0]):
        raise DataError(
            f"{str(path)!r} holds Python dictionaries, not JSON; write each line as JSON first, with "
            "json.dumps(ast.literal_eval(line))."
        )
    if re.match(r"\s*(\{\s*\"|\[\s*\{)", lines[0]) or (suffix in (".json", ".jsonl") and lines[0].strip() in "[{"):
        return "json"
    if re.search(r":(token|float)", lines[0]):
        return "inter"
    if sum("::" in line for line in lines) * 2 > len(lines):
        return "movielens"
    by_suffix = _BY_SUFFIX.get(suffix)
    if by_suffix in ("csv", "tsv", "inter"):
        return by_suffix
    if _delimiter(lines, ",;|"):
        return "csv"
    if _delimiter(lines, "\t") and _is_table(lines, "\t", wanted):
        return "tsv"
    return "csv" if _delimiter(lines, " ") and _is_table(lines, " ", wanted) else "sequences"


def _is_table(lines: Sequence[str], delimiter: str, wanted: Wanted) -> bool:
    """Whether lines with tabs or spaces are a table, which has a header or a column of times.

    Large ids of a sequence look like times too, but then the first item does so as well.
    """
    rows = [line.split(delimiter) for line in lines]
    timed = [looks_like_time([row[place] for row in rows if place < len(row)]) for place in range(1, len(rows[0]))]
    return is_header(rows[0], rows[1:], wanted) or (any(timed) and not timed[0])


def _delimiter(lines: Sequence[str], candidates: str) -> str | None:
    """The candidate that splits more than half of the lines into the same number of columns, at least two."""
    for candidate in candidates:
        widths = Counter(len(row) for row in _rows(lines, candidate, quoted=True))
        if widths:
            width, often = widths.most_common(1)[0]
            if width > 1 and 2 * often > sum(widths.values()):
                return candidate
    return None


def _rows(lines: Sequence[str], delimiter: str, quoted: bool) -> list[list[str]]:
    if len(delimiter) > 1:
        return [line.split(delimiter) for line in lines]
    rows: list[list[str]] = []
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    with contextlib.suppress(csv.Error):  # a field exceeds the parser's limit; the rows before it are enough
        rows.extend(reader)
    return rows


def _table_layout(
    kind: Format, lines: Sequence[str], before: int, gzipped: bool, delimiter: str, wanted: Wanted
) -> Layout:
    mark = re.escape(delimiter)
    quoted = re.search(rf'(^|{mark})"([^"]|"")*"({mark}|$)', "\n".join(lines), re.MULTILINE) is not None
    rows = _rows(lines, delimiter, quoted)
    width = Counter(len(row) for row in rows).most_common(1)[0][0]
    header = is_header(rows[0], rows[1:], wanted)
    if header:
        width = len(rows[0])
    names = tuple(cell.strip() for cell in rows[0]) if header else tuple(str(place + 1) for place in range(width))
    body = [row for row in rows[int(header) :] if len(row) == width]
    cells = {name: [row[place] for row in body] for place, name in enumerate(names)}
    return Layout(kind, gzipped, delimiter, quoted, before + 1 if header else 0, names, cells=cells)


def _json_layout(path: Path, lines: Sequence[str], gzipped: bool) -> Layout:
    array = lines[0].lstrip().startswith("[")
    objects: list[Any] = []
    if array:
        text = "\n".join(lines)
        start = text.find("{")
        objects = _parse_objects([text[start:]]) if start >= 0 else []
    else:
        objects = _parse_objects(lines)
    names = list(dict.fromkeys(str(key) for entry in objects if isinstance(entry, dict) for key in cast(Any, entry)))
    if not names:
        raise DataError(f"{str(path)!r} is not JSON lines: no line of its beginning is an object.")
    return Layout("json", gzipped, names=tuple(names), array=array)


def _parse_objects(texts: Sequence[str]) -> list[Any]:
    decoder = json.JSONDecoder()
    values: list[Any] = []
    for text in texts:
        try:
            values.append(decoder.raw_decode(text.strip())[0])
        except ValueError:
            continue
    return values
