"""Readers: DuckDB turns the files of any known format into one table of raw events, in the order of the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from trainers.data.errors import DataError
from trainers.data.importing.columns.roles import Columns, Roles, roles_of
from trainers.data.importing.files.detect import Layout
from trainers.data.importing.files.plain_text import PlainText, plain_text
from trainers.data.importing.files.sources import Part
from trainers.data.importing.options import Options
from trainers.data.importing.selection import Selection, selection_of
from trainers.data.importing.sql import column, count, text

USUAL_LINE, USUAL_BUFFER, USUAL_OBJECT = 2_000_000, 32_000_000, 16_777_216
"""Limits in bytes for a row, a buffer and a JSON object in DuckDB; a file with longer lines raises them."""
_NESTED = ("STRUCT", "MAP", "UNION", "[")
_SAMPLED = 1_000
BOMB_ROWS, BOMB_ROWS_A_BYTE = 1_000_000, 64
"""A Parquet file that claims more rows than these two limits allow is no log."""


@dataclass(frozen=True)
class Raw:
    """What became the table raw, and how many lines were left out of it. `roles` is None for a file of sequences.

    The table raw (user_id, item_id, stamp, kept, rated) is text in the order of the file; without timestamps, stamp is
    NULL. `kept` and `rated` say whether --where and --min-rating keep a row.
    """

    broken: int
    roles: Roles | None
    columns: Columns = field(default_factory=lambda: Columns(()))
    conditions: tuple[str, ...] = ()
    """The columns that --where and --min-rating used."""


def read(
    connection: duckdb.DuckDBPyConnection,
    source: Path,
    parts: Sequence[Part],
    layout: Layout,
    options: Options,
    work: Path,
) -> Raw:
    """Creates the table raw from the files. Raises DataError; errors of DuckDB and the OS pass through."""
    if layout.format == "parquet":
        return _read_parquet(connection, _link(parts, work), source, options)
    if layout.format == "sequences" or layout.mapping:
        for name in ("where", "min_rating", "delimiter", "timestamp_format"):
            if getattr(options, name) is not None:
                raise DataError(
                    f"{str(source)!r} was read as {layout.words()}, which has no columns for "
                    f"--{name.replace('_', '-')}; if it is a table, name its columns with --user and --item."
                )
    texts = _Texts(tuple(plain_text(part, work / f"source-{number}") for number, part in enumerate(parts)))
    if layout.format == "sequences":
        return Raw(_read_sequences(connection, texts), None)
    if layout.mapping:
        return Raw(_read_mapping(connection, texts), None)
    roles = roles_of(layout.columns, options, str(source))
    selected = selection_of(layout.columns, {}, roles.chosen().values(), options, str(source))
    if layout.format == "json":
        return Raw(_read_json(connection, texts, layout, roles, selected), roles, layout.columns, selected.columns)
    broken = _read_table(connection, texts, layout, roles, selected)
    return Raw(broken, roles, layout.columns, selected.columns)


@dataclass(frozen=True)
class _Texts:
    """The plain text files of a source."""

    files: tuple[PlainText, ...]

    @property
    def places(self) -> str:
        """The paths as an SQL list."""
        return "[" + ", ".join(text(str(file.path)) for file in self.files) + "]"

    @property
    def longest(self) -> int:
        """The length of the longest line in bytes."""
        return max(file.longest for file in self.files)


def _link(parts: Sequence[Part], work: Path) -> str:
    """Links to Parquet files as an SQL list, so that quotes and wildcards in a path never reach SQL."""
    links: list[str] = []
    for number, part in enumerate(parts):
        link = work / f"source-{number}"
        link.symlink_to(part.path.resolve())
        links.append(text(str(link)))
    return "[" + ", ".join(links) + "]"


def _read_sequences(connection: duckdb.DuckDBPyConnection, texts: _Texts) -> int:
    """Reads lines `user item item …`, oldest first; a user may have several. Returns how many lines were left out."""
    whole_line = Layout("sequences", delimiter="\x01", columns=Columns(("line",)))
    connection.execute(f"CREATE TABLE cells AS SELECT * FROM {_csv(texts, whole_line, '', '')}")
    rejected = _rejected(connection)
    connection.execute(
        r"""CREATE TABLE split AS SELECT string_split_regex(regexp_replace(c0, '^\s+|\s+$', '', 'g'), '\s+') AS parts
        FROM cells WHERE c0 IS NOT NULL AND NOT regexp_full_match(c0, '\s*')"""
    )
    connection.execute("DROP TABLE cells")
    connection.execute(
        "CREATE TABLE raw AS SELECT parts[1] AS user_id, unnest(parts[2:]) AS item_id, NULL::VARCHAR AS stamp, "
        "true AS kept, true AS rated FROM split"
    )
    alone = count(connection, "split WHERE len(parts) < 2")
    connection.execute("DROP TABLE split")
    return rejected + alone


def _read_mapping(connection: duckdb.DuckDBPyConnection, texts: _Texts) -> int:
    """Reads JSON objects `{"user": [item, …], …}`. Returns how many users have no list."""
    size = max(USUAL_OBJECT, *(file.path.stat().st_size + 2 for file in texts.files))
    connection.execute(
        "CREATE TABLE split AS SELECT unnest(json_keys(json)) AS key, json FROM "
        f"read_json_objects({texts.places}, format = 'unstructured', maximum_object_size = {size})"
    )
    connection.execute(
        "CREATE TABLE lists AS SELECT key, try_cast(json_extract(json, '/' || replace(replace(key, '~', '~0'), '/', "
        "'~1')) AS VARCHAR[]) AS items FROM split"
    )
    connection.execute(
        "CREATE TABLE raw AS SELECT key AS user_id, unnest(items) AS item_id, NULL::VARCHAR AS stamp, true AS kept, "
        "true AS rated FROM lists"
    )
    broken = count(connection, "lists WHERE items IS NULL")
    connection.execute("DROP TABLE split; DROP TABLE lists")
    return broken


def _read_table(
    connection: duckdb.DuckDBPyConnection, texts: _Texts, layout: Layout, roles: Roles, selected: Selection
) -> int:
    """Reads delimited columns with the quoting that keeps the most rows; returns how many lines were left out."""
    by_name = {name: f"c{place}" for place, name in reversed(list(enumerate(layout.columns.names)))}
    trials: list[tuple[int, int, str, str]] = []
    ways = _quotings(texts, layout.quote)
    for quote, escape in ways:
        kept, rejected = _read_quoted(connection, texts, layout, roles, selected, by_name, quote, escape)
        trials.append((kept, -rejected, quote, escape))
        if not rejected:
            return 0
    _, rejected, quote, escape = max(trials, key=lambda trial: trial[:2])
    if (quote, escape) != trials[-1][2:]:
        _read_quoted(connection, texts, layout, roles, selected, by_name, quote, escape)
    return -rejected


def _quotings(texts: _Texts, quote: str) -> list[tuple[str, str]]:
    """Pairs of a quotation mark and what escapes it, those to try first at the front."""
    if quote == '"' and not any(file.quotes for file in texts.files):
        return [("", "")]
    ways = [(quote, quote)]
    if quote == "'" or any(file.escaped_quotes for file in texts.files):
        ways.append((quote, "\\"))
    return [*ways, ("", "")]


def _read_quoted(
    connection: duckdb.DuckDBPyConnection,
    texts: _Texts,
    layout: Layout,
    roles: Roles,
    selected: Selection,
    by_name: dict[str, str],
    quote: str,
    escape: str,
) -> tuple[int, int]:
    """Creates the table raw; returns how many rows it has, and how many lines had to be left out."""
    chosen = ["NULL::VARCHAR" if name is None else by_name[name] for name in (roles.user, roles.item, roles.timestamp)]
    if not quote:
        chosen = [f"trim({cells}, '\"')" for cells in chosen]
    connection.execute("DROP TABLE IF EXISTS raw")
    _create_raw(connection, chosen, _csv(texts, layout, quote, escape), selected, by_name)
    return count(connection, "raw"), _rejected(connection)


def _csv(texts: _Texts, layout: Layout, quote: str, escape: str) -> str:
    """The table function that reads the columns c0, c1, … as text and notes the lines that it leaves out."""
    types = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(layout.columns.names)))
    row = max(USUAL_LINE, texts.longest + 2)
    return (
        f"read_csv({texts.places}, columns = {{{types}}}, auto_detect = false, delim = {text(layout.delimiter)}, "
        f"quote = {text(quote)}, escape = {text(escape)}, header = false, compression = 'none', max_line_size = {row}, "
        f"buffer_size = {max(USUAL_BUFFER, 2 * row)}, ignore_errors = true, store_rejects = true, rejects_limit = 0, "
        f"null_padding = false, skip = {layout.skip}, strict_mode = {len(layout.columns.names) > 1})"
    )


def _rejected(connection: duckdb.DuckDBPyConnection) -> int:
    """How many lines the last reading of text left out."""
    lines = count(connection, "(SELECT DISTINCT file_id, line FROM reject_errors)")
    connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
    return lines


def _read_json(
    connection: duckdb.DuckDBPyConnection, texts: _Texts, layout: Layout, roles: Roles, selected: Selection
) -> int:
    """Reads JSON objects, one per line or in an array; nested values are no ids. Returns the number of other lines."""
    read = dict.fromkeys([*roles.chosen().values(), *selected.columns])
    types = ", ".join(f"{text(name)}: 'VARCHAR'" for name in read)
    kind = "format = 'array'" if layout.array else "format = 'newline_delimited', ignore_errors = true"
    chosen = [
        "NULL::VARCHAR"
        if name is None
        else f"CASE WHEN {column(name)} ^@ '{{' OR {column(name)} ^@ '[' THEN NULL ELSE {column(name)} END"
        for name in (roles.user, roles.item, roles.timestamp)
    ]
    _create_raw(
        connection,
        chosen,
        f"read_json({texts.places}, columns = {{{types}}}, {kind}, compression = 'uncompressed', "
        f"maximum_object_size = {max(USUAL_OBJECT, 0 if layout.array else texts.longest + 2)})",
        selected,
        {name: column(name) for name in read},
    )
    unread = " AND ".join(f"{name} IS NULL" for name in ("user_id", "item_id", "stamp"))
    broken = count(connection, f"raw WHERE {unread}")
    connection.execute(f"DELETE FROM raw WHERE {unread}")
    return broken


def _read_parquet(connection: duckdb.DuckDBPyConnection, places: str, source: Path, options: Options) -> Raw:
    claimed = connection.execute(
        f"SELECT num_rows, file_size_bytes FROM parquet_file_metadata({places}) ORDER BY num_rows DESC LIMIT 1"
    ).fetchone()
    if claimed is not None and claimed[0] > max(BOMB_ROWS, BOMB_ROWS_A_BYTE * claimed[1]):
        raise DataError(
            f"{str(source)!r} claims {claimed[0]:,} rows in {claimed[1]:,} bytes, which no log does; fetch it again."
        )
    reader = f"read_parquet({places}, hive_partitioning = false)"
    described = connection.execute(f"DESCRIBE SELECT * FROM {reader}").fetchall()
    types = {str(row[0]): str(row[1]) for row in described}
    shown = ", ".join(f"coalesce({_as_text(column(name), kind)}, '')" for name, kind in types.items())
    sample = connection.execute(f"SELECT {shown} FROM {reader} LIMIT {_SAMPLED}").fetchall()
    columns = Columns(tuple(types), {name: [str(row[at]) for row in sample] for at, name in enumerate(types)})
    roles = roles_of(columns, options, str(source))
    for role, name in roles.chosen().items():
        if any(mark in types[name] for mark in _NESTED):
            raise DataError(
                f"{str(source)!r}: column {name!r} for --{role} holds {types[name]}; it must hold single values."
            )
    chosen = [
        "NULL::VARCHAR" if name is None else _as_text(column(name), types[name])
        for name in (roles.user, roles.item, roles.timestamp)
    ]
    selected = selection_of(columns, types, roles.chosen().values(), options, str(source))
    _create_raw(connection, chosen, reader, selected, {name: column(name) for name in types})
    return Raw(0, roles, columns, selected.columns)


def _as_text(name: str, kind: str) -> str:
    """SQL for a column as text; whole numbers stored as floats, as pandas does beside missing values, lose their .0."""
    if kind not in ("DOUBLE", "FLOAT"):
        return f"{name}::VARCHAR"
    whole = f"{name} = trunc({name}) AND abs({name}) < 1e15"
    return f"CASE WHEN {whole} THEN {name}::BIGINT::VARCHAR ELSE {name}::VARCHAR END"


def _create_raw(
    connection: duckdb.DuckDBPyConnection,
    chosen: list[str],
    source: str,
    selected: Selection,
    places: Mapping[str, str],
) -> None:
    user, item, stamp = (cells if cells.startswith("NULL") else f"trim({cells}, ' \t\r\n')" for cells in chosen)
    inner = [
        f'{user} AS "-user"',
        f'{item} AS "-item"',
        f'{stamp} AS "-stamp"',
        f'{selected.rated(places)} AS "-rated"',
    ]
    connection.execute(
        'CREATE TABLE raw AS SELECT "-user" AS user_id, "-item" AS item_id, "-stamp" AS stamp, '
        f'{selected.kept()} AS kept, "-rated" AS rated FROM (SELECT {", ".join(inner + selected.typed(places))} '
        f"FROM {source})"
    )
