"""Quoting and counting for the DuckDB queries of an import."""

from __future__ import annotations

import duckdb


def count(connection: duckdb.DuckDBPyConnection, rows: str) -> int:
    """The number of rows in a table; `rows` names it, and may continue with WHERE."""
    row = connection.execute(f"SELECT count(*) FROM {rows}").fetchone()
    return int(row[0]) if row else 0


def text(value: str) -> str:
    """`value` as a quoted SQL string."""
    return "'" + value.replace("'", "''") + "'"


def column(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
