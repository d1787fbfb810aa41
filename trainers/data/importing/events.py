"""From raw rows to coded events: reads the times, drops what is missing or repeated, and keeps what was asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import duckdb

from trainers.data.errors import DataError
from trainers.data.importing.columns.contents import MISSING
from trainers.data.importing.columns.times import UNITS, TimeFormat, of_words, settled
from trainers.data.importing.options import Options
from trainers.data.importing.sql import count, text

_MISSING = "(" + ", ".join(map(text, MISSING)) + ")"
DAY = 86_400
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC).timestamp()
_WHOLE_WITH_ZEROS = r"-?\d{1,37}(\.0+)?"


@dataclass(frozen=True)
class Read:
    """How the rows were read. `dropped` counts rows by reason, in the order in which they were dropped."""

    dropped: dict[str, int]
    notes: tuple[str, ...] = ()
    time: TimeFormat | None = None
    not_times: str | None = None
    """The first value of the timestamp column that is no time."""


def latest() -> float:
    """The end of tomorrow, after which no event can have happened."""
    return (datetime.now(UTC) + timedelta(days=1)).timestamp()


def keep_usable(connection: duckdb.DuckDBPyConnection, found: TimeFormat | None, options: Options) -> Read:
    """Turns the table raw into events ("user", item, time, row); users_all and items_all (code, id) have the ids.

    `found` is None without timestamps; then time is NULL. Raises DataError if dates can be read in two ways.
    """
    if found is not None and options.timestamp_format is not None:
        found = of_words(options.timestamp_format)
    notes: list[str] = []
    if found is not None and found.unsettled:
        found = _settle_day(connection, found)
    seconds = "NULL::DOUBLE"
    if found is not None and found.unit:
        found, note = _with_unit(connection, found)
        notes += note
    if found is not None:
        seconds = found.sql.replace("{0}", "stamp")
    missing = f"coalesce(lower(%s) IN {_MISSING}, true)"
    stamp = missing % "stamp" if found is not None else "false"
    timed = found is not None
    reason = (
        f"CASE WHEN NOT kept THEN 'where' WHEN NOT rated THEN 'low_rating' "
        f"WHEN {missing % 'user_id'} OR {missing % 'item_id'} OR {stamp} THEN 'missing_field' "
        f"WHEN {timed} AND NOT coalesce(isfinite(time), false) THEN 'broken_timestamp' END"
    )
    connection.execute(
        f"CREATE TEMP VIEW marked AS SELECT user_id, item_id, rowid AS row, {seconds} AS time, {reason} AS reason"
        f"{', stamp' if timed else ''} FROM raw"
    )
    counted = dict(
        connection.execute("SELECT reason, count(*) FROM marked WHERE reason IS NOT NULL GROUP BY reason").fetchall()
    )
    order = ("where", "low_rating", "missing_field", "broken_timestamp")
    dropped = {reason: int(counted[reason]) for reason in order if reason in counted}
    bad = None
    if "broken_timestamp" in dropped:
        first = connection.execute("SELECT stamp FROM marked WHERE reason = 'broken_timestamp' LIMIT 1").fetchone()
        bad = None if first is None else str(first[0])
    for side in ("user", "item"):
        notes += _encode(connection, side)
    connection.execute(
        'CREATE TABLE events AS SELECT u.code AS "user", i.code AS item, m.time, m.row FROM marked m '
        "JOIN user_codes u ON u.id = m.user_id JOIN item_codes i ON i.id = m.item_id WHERE m.reason IS NULL"
    )
    connection.execute("DROP VIEW marked; DROP TABLE raw; DROP TABLE user_codes; DROP TABLE item_codes")
    return Read(dropped, tuple(notes), found, bad)


def choose_events(connection: duckdb.DuckDBPyConnection, timed: bool, options: Options) -> dict[str, int]:
    """Drops repeats and old events from the table events as the options say; returns drops by reason."""
    how = options.drop_duplicates or "exact"
    dropped: dict[str, int] = {}
    if how == "day" and not timed:
        raise DataError("--drop-duplicates day needs timestamps; name their column with --timestamp.")
    if how != "none" and timed:
        key = "time" if how == "exact" else f"floor(time / {DAY})"
        before = count(connection, "events")
        connection.execute(
            f'CREATE TABLE once AS SELECT "user", item, min(row) AS row FROM events GROUP BY "user", item, {key}'
        )
        dropped["duplicate"] = before - count(connection, "once")
        if dropped["duplicate"]:
            connection.execute(
                "CREATE TABLE left_over AS SELECT e.* FROM events e SEMI JOIN once o ON o.row = e.row; "
                "DROP TABLE events; ALTER TABLE left_over RENAME TO events"
            )
        connection.execute("DROP TABLE once")
    if options.collapse_repeats:
        window = 'lag(item) OVER (PARTITION BY "user" ORDER BY time, row) IS DISTINCT FROM item'
        dropped["repeat"] = _keep(connection, window)
    if options.max_events_per_user is not None:
        window = (
            f'row_number() OVER (PARTITION BY "user" ORDER BY time DESC, row DESC) <= {options.max_events_per_user}'
        )
        dropped["old_event"] = _keep(connection, window)
    return dropped


def _keep(connection: duckdb.DuckDBPyConnection, condition: str) -> int:
    """Keeps the events for which a window condition holds; returns how many were dropped."""
    before = count(connection, "events")
    connection.execute(
        f"CREATE TABLE left_over AS SELECT * FROM events QUALIFY {condition}; DROP TABLE events; "
        "ALTER TABLE left_over RENAME TO events"
    )
    return before - count(connection, "events")


def _encode(connection: duckdb.DuckDBPyConnection, side: str) -> list[str]:
    """Creates the tables {side}s_all and {side}_codes (code, id); the latter has the ids as the rows spell them.

    Where all ids are whole numbers, 101 and 101.0 are one id.
    """
    connection.execute(
        f"CREATE TABLE {side}_codes AS SELECT row_number() OVER () AS code, id "
        f"FROM (SELECT DISTINCT {side}_id AS id FROM raw WHERE NOT coalesce(lower({side}_id) IN {_MISSING}, true))"
    )
    spelled = connection.execute(
        f"SELECT coalesce(bool_and(regexp_full_match(id, '{_WHOLE_WITH_ZEROS}')), false), "
        f"count(*) FILTER (contains(id, '.')) FROM {side}_codes"
    ).fetchone()
    notes: list[str] = []
    if spelled is not None and spelled[0] and spelled[1]:
        before = count(connection, f"{side}_codes")
        connection.execute(
            f"CREATE TABLE {side}s_all AS SELECT min(code) AS code, regexp_replace(id, '\\.0+$', '') AS id "
            f"FROM {side}_codes GROUP BY 2"
        )
        connection.execute(
            f"CREATE OR REPLACE TABLE {side}_codes AS SELECT a.code, c.id FROM {side}_codes c "
            f"JOIN {side}s_all a ON a.id = regexp_replace(c.id, '\\.0+$', '')"
        )
        merged = before - count(connection, f"{side}s_all")
        if merged:
            notes.append(
                f"{merged:,} {side} ids are spelled in two ways, such as 101 and 101.0, and were taken as one id each."
            )
    else:
        connection.execute(f"CREATE TABLE {side}s_all AS SELECT * FROM {side}_codes")
    return notes


def _settle_day(connection: duckdb.DuckDBPyConnection, found: TimeFormat) -> TimeFormat:
    """Finds out from all rows whether the day or the month comes first. Raises DataError if they do not tell."""
    first, second = (
        f"max(try_cast(regexp_extract(stamp, '(\\d{{1,2}})[/-](\\d{{1,2}})[/-]', {group}) AS INTEGER))"
        for group in (1, 2)
    )
    row = connection.execute(
        f"SELECT {first}, {second}, bool_and(regexp_matches(stamp, '[AaPp][Mm]')), any_value(stamp) FROM raw "
        f"WHERE NOT coalesce(lower(stamp) IN {_MISSING}, true)"
    ).fetchone()
    largest_first, largest_second, halves, example = row if row is not None else (0, 0, False, "")
    day_first, month_first = (largest_first or 0) > 12, (largest_second or 0) > 12
    if day_first and month_first:
        raise DataError(
            f"Some dates have the day first and some the month, such as {example!r}; write them in one way (ISO 8601 "
            "is the safest)."
        )
    if not day_first and not month_first and not halves:
        clock = found.patterns[0].partition(" ")[2]
        shown = " ".join(filter(None, ("%d/%m/%Y", clock)))
        american = " ".join(filter(None, ("%m/%d/%Y", clock)))
        mark = found.patterns[0][2]
        raise DataError(
            f"Dates such as {example!r} could have the day or the month first; say which with "
            f"--timestamp-format {shown.replace('/', mark)!r} or {american.replace('/', mark)!r}."
        )
    return settled(found, month_first or not day_first)


def _with_unit(connection: duckdb.DuckDBPyConnection, found: TimeFormat) -> tuple[TimeFormat, list[str]]:
    """The format with the unit of its numbers: that of most rows, or the one in which alone a row is a time."""
    number = found.sql.replace("{0}", "stamp")
    bounds = ((0, 1e11, "s"), (1e11, 1e14, "ms"), (1e14, 1e17, "us"), (1e17, 1e300, "ns"))
    counts = ", ".join(f"count(*) FILTER (abs(v) >= {low!r} AND abs(v) < {high!r})" for low, high, _ in bounds)
    row = connection.execute(f"SELECT max(abs(v)), {counts} FROM (SELECT {number} AS v FROM raw)").fetchone()
    largest, *numbers = row or (None, 0, 0, 0, 0)
    rows = dict(zip((unit for *_, unit in bounds), numbers, strict=True))
    main = max(rows, key=lambda unit: rows[unit])
    if not largest or largest < 1e8:
        words = "small numbers, taken as an order" if largest is not None else "numbers"
        return replace(found, sql=f"coalesce({found.sql}, {_ISO})", words=words), []
    plain = replace(found, sql=f"coalesce({found.sql} / {UNITS[main]!r}, {_ISO})", words=f"{main} since 1970")
    others = [unit for unit in rows if unit != main and rows[unit]]
    if not others:
        return plain, []
    cases = {unit: f"({found.sql}) / {UNITS[unit]!r} BETWEEN {EARLIEST!r} AND {latest()!r}" for unit in (main, *others)}
    chosen = " ".join(f"WHEN {case} THEN ({found.sql}) / {UNITS[unit]!r}" for unit, case in cases.items())
    other = f"CASE {chosen} ELSE ({found.sql}) / {UNITS[main]!r} END"
    elsewhere = " OR ".join(cases[unit] for unit in others)
    mixed = count(connection, f"raw WHERE NOT ({cases[main]}) AND ({elsewhere})".replace("{0}", "stamp"))
    if not mixed:
        return plain, []
    note = (
        f"The timestamps mix units: most are in {main}, and {mixed:,} rows are times only in {' or '.join(others)}; "
        "each row was read in its own unit."
    )
    words = f"numbers since 1970 in mixed units, most in {main}"
    return replace(found, sql=f"coalesce({other}, {_ISO})", words=words), [note]


_ISO = "epoch(try_cast({0} AS TIMESTAMPTZ))"
