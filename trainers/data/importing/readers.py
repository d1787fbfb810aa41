"""Readers: DuckDB turns a file of any known format into one table of raw events, in the order of the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from trainers.data.errors import DataError
from trainers.data.importing.columns import Roles, Wanted, roles_by_name
from trainers.data.importing.detect import Layout
from trainers.data.importing.plain_text import plain_source
from trainers.data.importing.sql import column, count, text

USUAL_LINE, USUAL_BUFFER, USUAL_OBJECT = 2_000_000, 32_000_000, 16_777_216
"""Limits in bytes for a row, a buffer and a JSON object in DuckDB; a file with longer lines raises them."""
_NESTED = ("STRUCT", "MAP", "UNION", "[")


@dataclass(frozen=True)
class Raw:
    """The number of lines left out of the table raw, and the roles of the columns (None for a file of sequences).

    The table raw (user_id, item_id, stamp) is text in the order of the file; without timestamps, stamp is NULL.
    """

    broken: int
    roles: Roles | None


def read(connection: duckdb.DuckDBPyConnection, path: Path, layout: Layout, wanted: Wanted, work: Path) -> Raw:
    """Creates the table raw from the file at `path`. Raises DataError; errors of DuckDB and the OS pass through."""
    if layout.format == "parquet":
        source = work / "source"
        source.symlink_to(path.resolve())
        return Raw(0, _read_parquet(connection, text(str(source)), path, wanted))
    roles = None if layout.format == "sequences" else roles_by_name(layout.names, wanted, str(path), layout.cells)
    source, longest = plain_source(path, layout.gzipped, work)
    lines = _Lines(text(str(source)), longest)
    if roles is None:
        return Raw(_read_sequences(connection, lines), None)
    if layout.format == "json":
        return Raw(_read_json(connection, lines, layout, roles), roles)
    return Raw(_read_table(connection, lines, layout, roles), roles)


@dataclass(frozen=True)
class _Lines:
    """The path of a plain text file as an SQL string, and the length of its longest line in bytes."""

    place: str
    longest: int


def _read_sequences(connection: duckdb.DuckDBPyConnection, lines: _Lines) -> int:
    """Reads lines `user item item …`, oldest first; a user may have several. Returns how many lines were left out."""
    whole_line = Layout("sequences", delimiter="\x01", names=("line",))
    rejected = _read_csv(connection, lines, whole_line, quote="")
    connection.execute(
        r"""CREATE TABLE split AS SELECT string_split_regex(regexp_replace(c0, '^\s+|\s+$', '', 'g'), '\s+') AS parts
        FROM cells WHERE c0 IS NOT NULL AND NOT regexp_full_match(c0, '\s*')"""
    )
    connection.execute("DROP TABLE cells")
    connection.execute(
        "CREATE TABLE raw AS SELECT parts[1] AS user_id, unnest(parts[2:]) AS item_id, NULL::VARCHAR AS stamp "
        "FROM split"
    )
    alone = count(connection, "split WHERE len(parts) < 2")
    connection.execute("DROP TABLE split")
    return rejected + alone


def _read_table(connection: duckdb.DuckDBPyConnection, lines: _Lines, layout: Layout, roles: Roles) -> int:
    """Reads delimited columns, with or without quotes, whichever keeps more rows; returns how many were left out."""
    quote = '"' if layout.quoted else ""
    rejected = _read_csv(connection, lines, layout, quote)
    if quote and rejected:
        kept = count(connection, "cells")
        quote, rejected = "", _read_csv(connection, lines, layout, "")
        if count(connection, "cells") <= kept:
            quote = '"'
            rejected = _read_csv(connection, lines, layout, quote)
    by_name = {name: f"c{place}" for place, name in reversed(list(enumerate(layout.names)))}
    chosen = [by_name[name] if name is not None else "NULL::VARCHAR" for name in vars(roles).values()]
    if not quote:
        chosen = [f"trim({cells}, '\"')" for cells in chosen]
    _create_raw(connection, chosen, "cells")
    connection.execute("DROP TABLE cells")
    return rejected


def _read_csv(connection: duckdb.DuckDBPyConnection, lines: _Lines, layout: Layout, quote: str) -> int:
    """Creates the table cells (c0, c1, …); returns how many lines had to be left out."""
    types = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(layout.names)))
    row = max(USUAL_LINE, lines.longest + 2)
    connection.execute(
        "DROP TABLE IF EXISTS cells; DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans"
    )
    connection.execute(
        f"CREATE TABLE cells AS SELECT * FROM read_csv({lines.place}, columns = {{{types}}}, auto_detect = false, "
        f"delim = {text(layout.delimiter)}, quote = {text(quote)}, escape = {text(quote)}, header = false, "
        f"compression = 'none', max_line_size = {row}, buffer_size = {max(USUAL_BUFFER, 2 * row)}, "
        "ignore_errors = true, store_rejects = true, rejects_limit = 0, null_padding = false, "
        f"skip = {layout.skip}, strict_mode = {len(layout.names) > 1})"
    )
    return count(connection, "(SELECT DISTINCT line FROM reject_errors)")


def _read_json(connection: duckdb.DuckDBPyConnection, lines: _Lines, layout: Layout, roles: Roles) -> int:
    """Reads JSON objects, one per line or in an array; nested values are no ids. Returns the number of other lines."""
    names = {role: None if name is None else column(name) for role, name in vars(roles).items()}
    types = ", ".join(f"{text(name)}: 'VARCHAR'" for name in roles.chosen().values())
    kind = "format = 'array'" if layout.array else "format = 'newline_delimited', ignore_errors = true"
    chosen = [
        "NULL::VARCHAR" if name is None else f"CASE WHEN {name} ^@ '{{' OR {name} ^@ '[' THEN NULL ELSE {name} END"
        for name in names.values()
    ]
    _create_raw(
        connection,
        chosen,
        f"read_json({lines.place}, columns = {{{types}}}, {kind}, compression = 'uncompressed', "
        f"maximum_object_size = {max(USUAL_OBJECT, 0 if layout.array else lines.longest + 2)})",
    )
    unread = " AND ".join(f"{name} IS NULL" for name in ("user_id", "item_id", "stamp"))
    broken = count(connection, f"raw WHERE {unread}")
    connection.execute(f"DELETE FROM raw WHERE {unread}")
    return broken


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
    """SQL for a column as text; whole numbers stored as floats, as pandas does beside missing values, lose their .0."""
    if kind not in ("DOUBLE", "FLOAT"):
        return f"{name}::VARCHAR"
    whole = f"{name} = trunc({name}) AND abs({name}) < 1e15"
    return f"CASE WHEN {whole} THEN {name}::BIGINT::VARCHAR ELSE {name}::VARCHAR END"


def _create_raw(connection: duckdb.DuckDBPyConnection, chosen: list[str], source: str) -> None:
    user, item, stamp = (f"trim({cells}, ' \t\r\n')" for cells in chosen)
    connection.execute(
        f"CREATE TABLE raw AS SELECT {user} AS user_id, {item} AS item_id, {stamp} AS stamp FROM {source}"
    )
