"""Cleaning in DuckDB: rare users and items are dropped and counted, and the other events become indexed sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import duckdb
import numpy as np
import numpy.typing as npt

from trainers.data.dataset import Cuts, Sequences
from trainers.data.errors import DataError
from trainers.data.importing.options import Options
from trainers.data.importing.sql import count
from trainers.data.split import TimeSplit

SHORTEST = 3
"""Number of events that a user needs: one each for training, validation and test."""
_WHOLE = "-?[0-9]{1,38}"


def clean(connection: duckdb.DuckDBPyConnection, timed: bool, options: Options) -> tuple[Sequences, dict[str, int]]:
    """The sequences in the table events, and dropped rows by reason; leaves the tables users and items (index, id).

    Events of a user are ordered by timestamp; equal ones keep the order of the file, or one drawn with `ties_seed`.
    Users and items are indexed in the order of their ids: by number if all are whole numbers, by text otherwise. If
    nothing is usable, the sequences are empty. With a time split, the training period alone decides: later rows of
    items that it does not have are dropped, as are test rows of users with no earlier event, and users who first
    appear later are numbered last. Raises DataError if the split leaves no training events.
    """
    dropped: dict[str, int] = {}
    split, k_core = options.split, options.k_core
    cuts = None if split is None else _move_later_events(connection, TimeSplit(**split.model_dump()))
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
    sequences = _read_sequences(connection, timed, options.ties_seed)
    return replace(sequences, cuts=cuts, cold=cold), dropped


def _move_later_events(connection: duckdb.DuckDBPyConnection, split: TimeSplit) -> Cuts | None:
    """Moves the events after the training period from the table events to the table later; returns the cuts."""
    newest = connection.execute("SELECT max(time) FROM events").fetchone()
    if newest is None or newest[0] is None:
        return None
    cuts = split.cuts(float(newest[0]))
    connection.execute(f"CREATE TABLE later AS SELECT * FROM events WHERE time >= {cuts.valid!r}")
    connection.execute(f"DELETE FROM events WHERE time >= {cuts.valid!r}")
    if not count(connection, "events"):
        raise DataError(f"No event lies before the validation period ({cuts.words}); move the cuts.")
    return cuts


def _join_later(connection: duckdb.DuckDBPyConnection, cuts: Cuts, dropped: dict[str, int]) -> dict[str, int]:
    """Moves the usable later events back to events; returns the numbers of users and items that only they have."""
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


def _drop_rare(connection: duckdb.DuckDBPyConnection, side: str, least: int) -> int:
    """Deletes the events of users (or items) that have fewer than `least`; returns how many were deleted."""
    before = count(connection, "events")
    connection.execute(
        f'DELETE FROM events WHERE "{side}" IN '
        f'(SELECT "{side}" FROM events GROUP BY "{side}" HAVING count(*) < {least})'
    )
    return before - count(connection, "events")


def _index(connection: duckdb.DuckDBPyConnection, side: str) -> None:
    """Creates the table users or items (index, code, id) of those that still have events, in the order of ids."""
    connection.execute(
        f'CREATE TABLE left_over AS SELECT * FROM {side}s_all WHERE code IN (SELECT "{side}" FROM events)'
    )
    split_by_time = side == "user" and count(connection, "duckdb_tables() WHERE table_name = 'known'") > 0
    numbered = "left_over WHERE code IN (SELECT code FROM known)" if split_by_time else "left_over"
    whole = connection.execute(f"SELECT bool_and(regexp_full_match(id, '{_WHOLE}')) FROM {numbered}").fetchone()
    order = "try_cast(id AS HUGEINT), id" if whole is not None and whole[0] else "id"
    if split_by_time:
        order = f"code NOT IN (SELECT code FROM known), {order}"
    connection.execute(
        f"CREATE TABLE {side}s AS SELECT (row_number() OVER (ORDER BY {order}) - 1)::INTEGER AS index, code, id "
        "FROM left_over"
    )
    connection.execute(f"DROP TABLE left_over; DROP TABLE {side}s_all")


def _read_sequences(connection: duckdb.DuckDBPyConnection, timed: bool, ties_seed: int | None) -> Sequences:
    ordered = _columns(
        connection,
        f"""SELECT i.index AS item{", e.time, e.row, u.index AS owner" if timed else ""} FROM events e
        JOIN users u ON u.code = e."user" JOIN items i ON i.code = e.item ORDER BY u.index, e.time, e.row""",
    )
    if timed and ties_seed is not None:
        order = np.lexsort((_random_keys(ordered["row"], ties_seed), ordered["time"], ordered["owner"]))
        ordered["item"], ordered["time"] = ordered["item"][order], ordered["time"][order]
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


def _random_keys(rows: npt.NDArray[np.generic], seed: int) -> npt.NDArray[np.uint64]:
    """A random number for each of `rows` (N,) that depends only on the row and the seed (splitmix64)."""
    start = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    z = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _columns(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, npt.NDArray[np.generic]]:
    """A query's columns as arrays; `getattr` avoids duckdb's type hint, which needs pandas."""
    fetch = cast(Callable[[], dict[str, npt.NDArray[np.generic]]], getattr(connection.execute(query), "fetchnumpy"))  # noqa: B009
    return fetch()
