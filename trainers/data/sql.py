"""Small steps that every DuckDB query of an import needs."""

from __future__ import annotations

import duckdb


def count(connection: duckdb.DuckDBPyConnection, rows: str) -> int:
    """How many rows a table has; `rows` may go on with WHERE."""
    found = connection.execute(f"SELECT count(*) FROM {rows}").fetchone()
    return int(found[0]) if found else 0


def text(value: str) -> str:
    """`value` as an SQL string."""
    return "'" + value.replace("'", "''") + "'"


def column(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
