"""Readers: DuckDB turns a file of any known format into one table of raw events, in the file's order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from trainers.data.columns import Roles, Wanted, roles_by_name
from trainers.data.detect import Layout
from trainers.data.errors import DataError
from trainers.data.sql import column, count, text

LONGEST_LINE = 1 << 29
"""Bytes of the longest line that is read: a user with many millions of events."""
_NESTED = ("STRUCT", "MAP", "UNION", "[")


@dataclass(frozen=True)
class Raw:
    """The lines that found no place in the table raw, and the roles of the columns; None for sequence lines.

    raw (user_id, item_id, stamp) is all text, in the file's order; without timestamps every stamp is NULL.
    """

    broken: int
    roles: Roles | None


def read(connection: duckdb.DuckDBPyConnection, path: Path, layout: Layout, wanted: Wanted, work: Path) -> Raw:
    """Create the table raw from the file at `path`; foreign errors are left to the caller."""
    source = work / "source"
    source.symlink_to(path.resolve())  # a path's quotes and wildcards never reach SQL, nor its suffix the reader
    place = text(str(source))
    if layout.format == "sequences":
        return Raw(_read_sequences(connection, place, layout), None)
    if layout.format == "parquet":
        return Raw(0, _read_parquet(connection, place, path, wanted))
    roles = roles_by_name(layout.names, wanted, str(path), layout.cells)
    if layout.format == "json":
        return Raw(_read_json(connection, place, layout, roles), roles)
    return Raw(_read_table(connection, place, layout, roles), roles)


def _read_sequences(connection: duckdb.DuckDBPyConnection, place: str, layout: Layout) -> int:
    """Lines `user item item …`, oldest first; the lines of a user that has several follow each other."""
    rejected = _read_csv(connection, place, layout, ("line",), "\x01", quote="", header=False)
    connection.execute(
        r"""CREATE TABLE split AS SELECT string_split_regex(regexp_replace(line, '^\s+|\s+$', '', 'g'), '\s+') AS parts
        FROM cells WHERE line IS NOT NULL AND NOT regexp_full_match(line, '\s*')"""
    )
    connection.execute("DROP TABLE cells")
    connection.execute(
        "CREATE TABLE raw AS SELECT parts[1] AS user_id, unnest(parts[2:]) AS item_id, NULL::VARCHAR AS stamp "
        "FROM split"
    )
    alone = count(connection, "split WHERE len(parts) < 2")
    connection.execute("DROP TABLE split")
    return rejected + alone


def _read_table(connection: duckdb.DuckDBPyConnection, place: str, layout: Layout, roles: Roles) -> int:
    """Delimited columns. Where quotes break rows, the reading (with or without quotes) that keeps more rows wins."""
    columns = tuple(f"c{number}" for number in range(len(layout.names)))
    quotes = ('"', "") if layout.quoted else ("",)
    kept: dict[str, tuple[int, int]] = {}
    for quote in quotes:
        rejected = _read_csv(connection, place, layout, columns, layout.delimiter, quote, layout.header)
        kept[quote] = (count(connection, "cells"), rejected)
        if not rejected:
            break
    best = max(kept, key=lambda quote: kept[quote][0])
    if best != list(kept)[-1]:
        _read_csv(connection, place, layout, columns, layout.delimiter, best, layout.header)
    by_name = dict(zip(reversed(layout.names), reversed(columns), strict=True))
    chosen = [by_name[name] if name is not None else "NULL::VARCHAR" for name in vars(roles).values()]
    if not layout.quoted:
        chosen = [f"trim({cells}, '\"')" for cells in chosen]
    _create_raw(connection, chosen, "cells")
    connection.execute("DROP TABLE cells")
    return kept[best][1]


def _read_csv(
    connection: duckdb.DuckDBPyConnection,
    place: str,
    layout: Layout,
    columns: tuple[str, ...],
    delimiter: str,
    quote: str,
    header: bool,
) -> int:
    """Create the table cells, and return how many lines had to be left out of it."""
    types = ", ".join(f"'{name}': 'VARCHAR'" for name in columns)
    connection.execute(
        "DROP TABLE IF EXISTS cells; DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans"
    )
    connection.execute(
        f"CREATE TABLE cells AS SELECT * FROM read_csv({place}, columns = {{{types}}}, auto_detect = false, "
        f"delim = {text(delimiter)}, quote = {text(quote)}, escape = {text(quote)}, header = {header}, "
        f"compression = '{'gzip' if layout.gzipped else 'none'}', ignore_errors = true, store_rejects = true, "
        f"rejects_limit = 0, strict_mode = {len(columns) > 1}, null_padding = false, max_line_size = {LONGEST_LINE})"
    )
    return count(connection, "(SELECT DISTINCT line FROM reject_errors)")


def _read_json(connection: duckdb.DuckDBPyConnection, place: str, layout: Layout, roles: Roles) -> int:
    """JSON objects, one a line or in one array; a nested value is no id, and a broken line becomes an empty row."""
    names = [name for name in vars(roles).values() if name is not None]
    types = ", ".join(f"{text(name)}: 'VARCHAR'" for name in names)
    lines = "format = 'array'" if layout.array else "format = 'newline_delimited', ignore_errors = true"
    chosen = [
        "NULL::VARCHAR"
        if name is None
        else f"CASE WHEN {column(name)} ^@ '{{' OR {column(name)} ^@ '[' THEN NULL ELSE {column(name)} END"
        for name in vars(roles).values()
    ]
    compression = "gzip" if layout.gzipped else "uncompressed"
    _create_raw(
        connection, chosen, f"read_json({place}, columns = {{{types}}}, {lines}, compression = '{compression}')"
    )
    return 0


def _read_parquet(connection: duckdb.DuckDBPyConnection, place: str, path: Path, wanted: Wanted) -> Roles:
    reader = f"read_parquet({place}, hive_partitioning = false)"
    described = connection.execute(f"DESCRIBE SELECT * FROM {reader}").fetchall()
    types = {str(row[0]): str(row[1]) for row in described}
    roles = roles_by_name(tuple(types), wanted, str(path), {name: [] for name in types})
    for role, name in roles.chosen().items():
        if any(mark in types[name] for mark in _NESTED):
            raise DataError(
                f"{str(path)!r}: column {name!r} for --{role} holds {types[name]}; it must hold single values."
            )
    chosen = [
        _as_text(column(name), types[name]) if name is not None else "NULL::VARCHAR" for name in vars(roles).values()
    ]
    _create_raw(connection, chosen, reader)
    return roles


def _as_text(name: str, kind: str) -> str:
    """Text of a column; whole numbers that were stored as floats, as pandas does beside missing ones, lose their .0."""
    if kind not in ("DOUBLE", "FLOAT"):
        return f"{name}::VARCHAR"
    whole = f"{name} = trunc({name}) AND abs({name}) < 1e15"
    return f"CASE WHEN {whole} THEN {name}::BIGINT::VARCHAR ELSE {name}::VARCHAR END"


def _create_raw(connection: duckdb.DuckDBPyConnection, chosen: list[str], source: str) -> None:
    user, item, stamp = (f"trim({cells}, ' \t\r\n')" for cells in chosen)
    connection.execute(
        f"CREATE TABLE raw AS SELECT {user} AS user_id, {item} AS item_id, {stamp} AS stamp FROM {source}"
    )
