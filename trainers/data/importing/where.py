"""Checks the expression of --where: comparisons of the file's columns, with nothing that reads, loops or allocates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import duckdb

from trainers.data.errors import DataError
from trainers.data.importing.sql import column

LONGEST = 2_000
FUNCTIONS = {
    "lower", "upper", "trim", "ltrim", "rtrim", "length", "strlen", "substr", "substring", "left", "right",
    "contains", "starts_with", "ends_with", "prefix", "suffix", "regexp_matches", "regexp_full_match",
    "abs", "round", "floor", "ceil", "ceiling", "sign", "coalesce", "ifnull", "nullif", "greatest", "least", "isnan",
    "isfinite", "year", "month", "day", "hour", "minute", "second", "dayofweek", "weekday", "date_part", "datepart",
    "date_trunc", "datetrunc", "epoch", "strptime", "try_strptime", "to_timestamp", "concat", "instr", "strpos",
    "position", "like_escape", "not_like_escape", "ilike_escape", "not_ilike_escape", "+", "-", "*", "/", "//", "%",
    "||", "~~", "!~~", "~~*", "!~~*", "~~~", "!~", "~", "^@",
}  # fmt: skip
"""Functions and operators that take a bounded time for a row; everything else is refused."""
TYPES = {
    "VARCHAR", "TEXT", "STRING", "INTEGER", "INT", "BIGINT", "HUGEINT", "SMALLINT", "TINYINT", "DOUBLE", "FLOAT",
    "REAL", "DECIMAL", "NUMERIC", "BOOLEAN", "BOOL", "DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "INTERVAL",
}  # fmt: skip
_CLASSES = {
    "COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "FUNCTION", "OPERATOR", "BETWEEN", "CASE", "CAST", "TYPE",
}  # fmt: skip
_EMPTY: tuple[object, ...] = (None, [], {}, False)


def check_where(expression: str, types: Mapping[str, str]) -> tuple[str, ...]:
    """The columns that `expression` uses, if it is a condition over the columns in `types` (SQL types by name).

    Raises DataError if it does anything else. The expression is parsed and typed in a database of its own, which is
    closed to files, the network and settings, and has no rows.
    """
    if not expression.strip():
        raise _refused(expression, "it is empty")
    if len(expression) > LONGEST:
        raise DataError(f"--where has {len(expression):,} characters; at most {LONGEST:,} are read.")
    used = _columns(_parsed(expression), expression)
    by_lower = {name.lower(): name for name in reversed(list(types))}
    for name in used:
        if name.lower() not in by_lower:
            shown = ", ".join(repr(name) for name in list(types)[:20])
            raise DataError(
                f"--where {expression!r} names {name!r}, which is no column; there are {shown}. Text stands in single "
                "quotes."
            )
    present = {by_lower[name.lower()]: types[by_lower[name.lower()]] for name in used}
    with _closed() as connection:
        try:
            declared = ", ".join(f"{column(name)} {kind}" for name, kind in present.items()) or "nothing INTEGER"
            connection.execute(f"CREATE TABLE t ({declared})")
            kind = connection.execute(f"DESCRIBE SELECT (\n{expression}\n) AS kept FROM t").fetchall()[0][1]
        except duckdb.Error as error:
            raise _refused(expression, _line(error)) from None
    if kind != "BOOLEAN":
        raise _refused(expression, f"it is {kind}, not a condition")
    return tuple(present)


def _parsed(expression: str) -> dict[str, Any]:
    with _closed() as connection:
        query = f"SELECT 1 FROM t WHERE (\n{expression}\n)"
        try:
            row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)::VARCHAR", [query]).fetchone()
            parsed: dict[str, Any] = json.loads(str(row[0])) if row else {}
        except (duckdb.Error, ValueError, RecursionError) as error:
            raise _refused(expression, _line(error)) from None
    if parsed.get("error"):
        raise _refused(expression, str(parsed.get("error_message", "it is no SQL")).split("\n")[0])
    statements: list[dict[str, Any]] = parsed.get("statements", [])
    node: dict[str, Any] = statements[0]["node"] if len(statements) == 1 else {}
    others = {name: value for name, value in node.items() if name not in ("type", "select_list", "from_table")}
    condition = others.pop("where_clause", None)
    plain = others.pop("cte_map", {}).get("map") == [] and others.pop("aggregate_handling", "") == "STANDARD_HANDLING"
    one_table = node.get("from_table", {}).get("type") == "BASE_TABLE" and len(node.get("select_list", ())) == 1
    if not condition or not plain or not one_table or any(value not in _EMPTY for value in others.values()):
        raise _refused(expression, "it must be one condition")
    return condition


def _columns(condition: dict[str, Any], expression: str) -> tuple[str, ...]:
    """The names of columns in a parsed condition. Raises DataError for what is not allowed in it."""
    used: dict[str, None] = {}
    pending: list[Any] = [condition]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += cast(list[Any], value)
        if not isinstance(value, dict):
            continue
        node = cast(dict[str, Any], value)
        kind = node.get("class")
        if kind is not None and kind not in _CLASSES:
            raise _refused(expression, f"{str(kind).lower().replace('_', ' ')} is not allowed in it")
        if kind == "COLUMN_REF":
            names = node["column_names"]
            if len(names) != 1:
                raise _refused(expression, f"{'.'.join(names)!r} is no column of the file")
            used[names[0]] = None
        if kind == "FUNCTION" and (str(node["function_name"]).lower() not in FUNCTIONS or node.get("schema")):
            raise _refused(expression, f"the function {node['function_name']!r} is not allowed in it")
        if kind == "TYPE" and str(node["type_name"]).upper() not in TYPES:
            raise _refused(expression, f"the type {node['type_name']!r} is not allowed in it")
        pending += node.values()
    return tuple(used)


def _closed() -> duckdb.DuckDBPyConnection:
    """An empty database without files, network and settings."""
    connection = duckdb.connect(
        config={
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "memory_limit": "100MB",
            "threads": "1",
            "lock_configuration": "true",
        }
    )
    return connection


def _refused(expression: str, reason: str) -> DataError:
    shown = expression if len(expression) <= 120 else expression[:117] + "…"
    return DataError(
        f"--where {' '.join(shown.split())!r} cannot be used: {reason}. It is a condition over the file's columns, "
        "such as \"event_type = 'purchase' AND price > 0\"."
    )


def _line(error: BaseException) -> str:
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)
