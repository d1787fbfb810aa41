"""Readers: DuckDB turns a file of any known format into one table of raw events, in the file's order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from trainers.data.columns import Roles, Wanted, roles_by_name
from trainers.data.detect import Layout
from trainers.data.errors import DataError
from trainers.data.plain import plain_source
from trainers.data.sql import column, count, text

USUAL_LINE, USUAL_BUFFER, USUAL_OBJECT = 2_000_000, 32_000_000, 16_777_216
"""Bytes of a row, a buffer and a JSON object that DuckDB counts on; more is asked for where a longer line is."""
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
    """A plain text file as SQL names it, and the bytes of its longest line."""

    place: str
    longest: int


def _read_sequences(connection: duckdb.DuckDBPyConnection, lines: _Lines) -> int:
    """Lines `user item item …`, oldest first; the lines of a user that has several follow each other."""
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
    """Delimited columns. Where quotes break rows, the reading (with or without quotes) that keeps more rows wins."""
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
    """Create the table cells (c0, c1, …), and return how many lines had to be left out of it."""
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
    """JSON objects, one a line or in one array; a nested value is no id. Lines that are no object: how many."""
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
