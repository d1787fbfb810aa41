"""Cleaning in DuckDB: raw events lose what is unusable, each row counted, and become indexed sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import duckdb
import numpy as np
import numpy.typing as npt

from trainers.data.dataset import Cuts, Sequences
from trainers.data.errors import DataError
from trainers.data.split import TimeSplit
from trainers.data.sql import count

SHORTEST = 3
"""Events a user needs: one to train on, one to validate, one to test."""
_MISSING = "('', 'nan', 'null', 'none', '<na>', '\\n')"
"""Texts that stand for a missing id, in any case; \\N is what databases export."""
_WHOLE = "-?[0-9]{1,38}"


def clean(
    connection: duckdb.DuckDBPyConnection,
    timed: bool,
    k_core: int | None,
    split: TimeSplit | None = None,
    ties_seed: int | None = None,
) -> tuple[Sequences, dict[str, int]]:
    """Sequences out of the table raw, and rows dropped by reason; leaves the tables users and items (index, id).

    Events of a user are ordered by timestamp, equal ones as in the file, or as `ties_seed` draws. Users and items are
    indexed in the order of their ids: by number where all are whole numbers, by text otherwise. Of nothing usable they
    are empty. With a time `split` whatever is dropped, kept or numbered is decided by the training period alone: rows
    of items and users that are not known by then are dropped, and users of later periods are numbered last.
    """
    dropped = _keep_valid(connection, timed)
    _encode(connection)
    cuts = None if split is None else _cut(connection, split)
    least = SHORTEST if cuts is None else 1
    dropped["short_user"] = _drop_rare(connection, "user", least)
    dropped["k_core"] = 0
    while k_core is not None:
        gone = _drop_rare(connection, "item", k_core) + _drop_rare(connection, "user", max(k_core, least))
        dropped["k_core"] += gone
        if not gone:
            break
    _index(connection, "item")
    cold = _join_later(connection, cuts, dropped) if cuts is not None else {}
    _index(connection, "user")
    sequences = _sequences(connection, timed, ties_seed)
    return replace(sequences, cuts=cuts, cold=cold), {reason: rows for reason, rows in dropped.items() if rows}


def _cut(connection: duckdb.DuckDBPyConnection, split: TimeSplit) -> Cuts | None:
    """Move the events that are not of the training period from the table events to the table later."""
    found = connection.execute("SELECT max(time) FROM events").fetchone()
    if found is None or found[0] is None:
        return None
    cuts = split.cuts(float(found[0]))
    connection.execute(f"CREATE TABLE later AS SELECT * FROM events WHERE time >= {cuts.valid!r}")
    connection.execute(f"DELETE FROM events WHERE time >= {cuts.valid!r}")
    if not count(connection, "events"):
        raise DataError(f"No event lies before the validation period ({cuts.words}); move the cuts.")
    return cuts


def _join_later(connection: duckdb.DuckDBPyConnection, cuts: Cuts, dropped: dict[str, int]) -> dict[str, int]:
    """Move what can be used of the later events back; numbers of items and users that only they have."""
    unknown = "{0} NOT IN (SELECT {0} FROM events)"
    new_item, new_user = unknown.format("item"), unknown.format('"user"')
    cold = {
        "users": count(connection, f'(SELECT DISTINCT "user" FROM later WHERE {new_user})'),
        "items": count(connection, f"(SELECT DISTINCT item FROM later WHERE {new_item})"),
    }
    dropped["cold_item"] = count(connection, f"later WHERE {new_item}")
    connection.execute(f"DELETE FROM later WHERE {new_item}")
    nothing_before = f'{new_user} AND "user" NOT IN (SELECT "user" FROM later WHERE time < {cuts.test!r})'
    dropped["cold_user"] = count(connection, f"later WHERE {nothing_before}")
    connection.execute(f"DELETE FROM later WHERE {nothing_before}")
    connection.execute('CREATE TABLE known AS SELECT DISTINCT "user" AS code FROM events')
    connection.execute("INSERT INTO events SELECT * FROM later; DROP TABLE later")
    return cold


def _keep_valid(connection: duckdb.DuckDBPyConnection, timed: bool) -> dict[str, int]:
    """Create the table valid (user_id, item_id, time, row): no missing or broken field, no exact duplicate."""
    missing = f"coalesce(lower(%s) IN {_MISSING}, true)"
    stamp = missing % "stamp" if timed else "false"
    connection.execute(
        f"""CREATE TABLE marked AS SELECT user_id, item_id, rowid AS row,
        coalesce(try_cast(stamp AS DOUBLE), epoch(try_cast(stamp AS TIMESTAMPTZ))) AS time,
        CASE WHEN {missing % "user_id"} OR {missing % "item_id"} OR {stamp} THEN 'missing_field'
        WHEN {timed} AND NOT coalesce(isfinite(time), false) THEN 'broken_timestamp' END AS reason FROM raw"""
    )
    connection.execute("DROP TABLE raw")
    counted = connection.execute(
        "SELECT reason, count(*) FROM marked WHERE reason IS NOT NULL GROUP BY reason"
    ).fetchall()
    dropped = {"missing_field": 0, "broken_timestamp": 0, **{str(reason): int(rows) for reason, rows in counted}}
    first = "min(row) AS row FROM marked WHERE reason IS NULL GROUP BY user_id, item_id, time"
    every = "row FROM marked WHERE reason IS NULL"
    connection.execute(f"CREATE TABLE valid AS SELECT user_id, item_id, time, {first if timed else every}")
    kept, usable = count(connection, "valid"), count(connection, "marked") - sum(dropped.values())
    connection.execute("DROP TABLE marked")
    return {**dropped, "duplicate": usable - kept}


def _encode(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables users_all, items_all (code, id) and events (user, item, time, row) in numbers, for speed."""
    for side in ("user", "item"):
        connection.execute(
            f"CREATE TABLE {side}s_all AS SELECT row_number() OVER () AS code, id "
            f"FROM (SELECT DISTINCT {side}_id AS id FROM valid)"
        )
    connection.execute(
        'CREATE TABLE events AS SELECT u.code AS "user", i.code AS item, v.time, v.row FROM valid v '
        "JOIN users_all u ON u.id = v.user_id JOIN items_all i ON i.id = v.item_id"
    )
    connection.execute("DROP TABLE valid")


def _drop_rare(connection: duckdb.DuckDBPyConnection, side: str, least: int) -> int:
    """Delete the events of users (or items) that have fewer than `least`; how many went."""
    before = count(connection, "events")
    connection.execute(
        f'DELETE FROM events WHERE "{side}" IN '
        f'(SELECT "{side}" FROM events GROUP BY "{side}" HAVING count(*) < {least})'
    )
    return before - count(connection, "events")


def _index(connection: duckdb.DuckDBPyConnection, side: str) -> None:
    """Create the table users or items (index, code, id) of what is left, in the order of the ids."""
    connection.execute(
        f'CREATE TABLE left_over AS SELECT * FROM {side}s_all WHERE code IN (SELECT "{side}" FROM events)'
    )
    known = side == "user" and count(connection, "duckdb_tables() WHERE table_name = 'known'") > 0
    numbered = "left_over WHERE code IN (SELECT code FROM known)" if known else "left_over"
    whole = connection.execute(f"SELECT bool_and(regexp_full_match(id, '{_WHOLE}')) FROM {numbered}").fetchone()
    order = "try_cast(id AS HUGEINT), id" if whole is not None and whole[0] else "id"
    if known:
        order = f"code NOT IN (SELECT code FROM known), {order}"
    connection.execute(
        f"CREATE TABLE {side}s AS SELECT (row_number() OVER (ORDER BY {order}) - 1)::INTEGER AS index, code, id "
        "FROM left_over"
    )
    connection.execute(f"DROP TABLE left_over; DROP TABLE {side}s_all")


def _sequences(connection: duckdb.DuckDBPyConnection, timed: bool, ties_seed: int | None) -> Sequences:
    ordered = _columns(
        connection,
        f"""SELECT i.index AS item{", e.time, e.row, u.index AS owner" if timed else ""} FROM events e
        JOIN users u ON u.code = e."user" JOIN items i ON i.code = e.item ORDER BY u.index, e.time, e.row""",
    )
    if timed and ties_seed is not None:
        order = np.lexsort((_shuffled(ordered["row"], ties_seed), ordered["time"], ordered["owner"]))
        ordered["item"] = ordered["item"][order]
    lengths = _columns(
        connection,
        'SELECT count(*) AS events FROM events e JOIN users u ON u.code = e."user" GROUP BY u.index ORDER BY u.index',
    )["events"]
    return Sequences(
        items=np.asarray(ordered["item"], dtype=np.int32),
        offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        num_items=count(connection, "items"),
        times=np.asarray(ordered["time"], dtype=np.float64) if timed else None,
    )


def _shuffled(rows: npt.NDArray[np.generic], seed: int) -> npt.NDArray[np.uint64]:
    """A number for each row of the file that depends on nothing but that row and the seed (splitmix64)."""
    start = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    z = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _columns(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, npt.NDArray[np.generic]]:
    """A query's columns as arrays; duckdb's own type of them names pandas, which need not be installed."""
    fetch = cast(Callable[[], dict[str, npt.NDArray[np.generic]]], getattr(connection.execute(query), "fetchnumpy"))  # noqa: B009
    return fetch()
