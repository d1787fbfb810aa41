"""A tiny log of interactions, written out in every format that import reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import duckdb

EVENTS = [
    ("4", "30", 1_000_000_100),
    ("4", "7", 1_000_000_200),
    ("4", "100", 1_000_000_300),
    ("11", "7", 1_000_000_400),
    ("11", "30", 1_000_000_500),
    ("11", "7", 1_000_000_600),
    ("11", "9", 1_000_000_700),
]
"""(user, item, seconds), in order. Ids sort otherwise as text: 4 before 11, and 7, 9, 30, 100."""


def sequences() -> str:
    return "4 30 7 100\n11 7 30 7 9\n"


def table(*columns: str, delimiter: str = ",", header: bool = True) -> str:
    """The log as delimited text; `columns` are names for user, item and timestamp, a rating goes before the last."""
    names = [columns[0], columns[1], "rating", columns[2]]
    rows = [[user, item, "5.0", str(seconds)] for user, item, seconds in EVENTS]
    return "\n".join(delimiter.join(row) for row in ([names] if header else []) + rows) + "\n"


def json_lines(user: str, item: str, timestamp: str, scale: int = 1) -> str:
    return "\n".join(
        json.dumps(
            {user: event[0], "text": 'a "quoted"\nline, with commas', item: event[1], timestamp: event[2] * scale}
        )
        for event in EVENTS
    )


def write_parquet(path: Path) -> None:
    """Whole numbers as floats, as pandas writes a column beside missing values, and true timestamps."""
    rows = ", ".join(f"({user}::DOUBLE, {item}, to_timestamp({seconds}))" for user, item, seconds in EVENTS)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE log AS SELECT * FROM (VALUES {rows}) AS log(user_id, asin, date)")
        connection.execute(f"COPY log TO '{path}' (FORMAT parquet)")


def write(path: Path, content: str | bytes) -> Path:
    """The file at `path` with this content, gzipped where its name says so."""
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
