"""What is odd about the events of an import, in sentences that say what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import duckdb
import numpy as np

from trainers.data.dataset import Sequences
from trainers.data.few_users import FEW_USERS, noise_of
from trainers.data.importing.columns.contents import are_dates, is_number, looks_like_kind, mostly
from trainers.data.importing.columns.names import RATINGS, bare, plain, sounds_like_time
from trainers.data.importing.columns.roles import Columns, Roles
from trainers.data.importing.events import DAY, EARLIEST, Read, latest
from trainers.data.importing.options import Options
from trainers.data.importing.sql import count
from trainers.data.split import Arrays, suggested

LARGE_SHARE, LARGE_RATIO = 0.05, 20
"""A user with more than this share of all events, and this many times the median, may be a bot."""


def odd_columns(columns: Columns, roles: Roles, options: Options) -> list[str]:
    """Unused columns that look as if they said what an event is or is worth, with their values."""
    warnings: list[str] = []
    used = (options.where or "").lower()
    taken = set(roles.chosen().values())
    for name in columns.names:
        if name in taken or bare(name).lower() in used or are_dates(columns.cells.get(name, ())):
            continue
        values = looks_like_kind(name, columns.cells.get(name, ()))
        if values is None or (options.min_rating is not None and plain(name) in RATINGS):
            continue
        shown = ", ".join(values[:6]) + (f" and {len(values) - 6} more" if len(values) > 6 else "")
        warnings.append(
            f"Unused: column {name!r} ({shown}) looks like a rating, a label or an event type, and every row counts as "
            f"an event; {_condition(name, values)} keeps some of them."
        )
    return warnings


def _condition(name: str, values: Sequence[str]) -> str:
    """An example of an option that keeps some of the values."""
    shown = bare(name) if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", bare(name)) else f'\\"{name}\\"'
    if not all(map(is_number, values)):
        return f"--where \"{shown} = '{values[-1]}'\""
    best = max(values, key=float)
    if plain(name) in RATINGS and len(values) > 2:
        return f"--min-rating {best}"
    return f'--where "{shown} = {best}"'


def odd_times(connection: duckdb.DuckDBPyConnection, read: Read) -> list[str]:
    """Times that are hardly those of events, from the table events."""
    if read.time is None:
        return []
    late = latest()
    row = connection.execute(
        f"SELECT min(time), max(time), count(*) FILTER (time < {EARLIEST!r}), arg_min(row, time), "
        f"count(*) FILTER (time > {late!r}), arg_max(row, time) FROM events"
    ).fetchone()
    if row is None or row[0] is None:
        return []
    first, last, early_rows, first_row, late_rows, last_row = row
    if last < 1e8:
        return [
            f"The timestamps are small numbers ({first:g} to {last:g}): they give the order of events, and as dates "
            "they would be in 1970."
        ]
    warnings: list[str] = []
    if early_rows:
        warnings.append(
            f"{_rows(early_rows)} before 1990: row {first_row + 1:,} is at {date(first)}. If that is no time, leave it "
            "out with --where."
        )
    if late_rows:
        warnings.append(
            f"{_rows(late_rows)} after tomorrow: row {last_row + 1:,} is at {date(last)}. Leave it out with --where, "
            "since a time split counts back from the last event."
        )
    return warnings


def odd_events(connection: duckdb.DuckDBPyConnection) -> tuple[list[str], str | None]:
    """Warnings about users with far more events than others and items that hardly repeat, and the id of the first."""
    warnings: list[str] = []
    rows = count(connection, "events")
    items, median = connection.execute(
        "SELECT (SELECT count(DISTINCT item) FROM events), "
        '(SELECT coalesce(median(n), 0) FROM (SELECT count(*) AS n FROM events GROUP BY "user"))'
    ).fetchone() or (0, 0)
    heavy = connection.execute(
        'SELECT any_value(u.id), count(*) AS n FROM events e JOIN users_all u ON u.code = e."user" GROUP BY e."user" '
        f"HAVING n > {LARGE_SHARE * rows!r} AND n > {LARGE_RATIO * float(median)!r} ORDER BY n DESC, 1 LIMIT 20"
    ).fetchall()
    if heavy:
        more = len(heavy) - 1
        others = f", and {more} more {'has' if more == 1 else 'have'} over {LARGE_SHARE:.0%}" if more else ""
        warnings.append(
            f"One user has {heavy[0][1]:,} of {rows:,} events ({heavy[0][1] / rows:.0%}){others}: a bot or a shared "
            "account? --max-events-per-user N keeps the newest N of each user."
        )
    if rows >= 50 and items > 0.9 * rows:
        warnings.append(
            f"Nearly every event has an item of its own ({items:,} items in {rows:,} events), so nothing can be "
            "learned: is --item the right column?"
        )
    return warnings, str(heavy[0][0]) if heavy else None


def odd_repeats(read: Read, dropped: dict[str, int], options: Options) -> list[str]:
    """Duplicates that are alike only because the times are days."""
    duplicates = dropped.get("duplicate", 0)
    if not duplicates or read.time is None or not read.time.day or options.drop_duplicates is not None:
        return []
    return [
        f"{duplicates:,} rows repeat a user, an item and a day, and were dropped as duplicates: the times are days, so "
        "they may be events of their own. --drop-duplicates none keeps them, and exact says that they are none."
    ]


def odd_order(sequences: Sequences, columns: Columns, roles: Roles | None) -> list[str]:
    """Ties that leave the order of events to the file, and a column that could order them."""
    if sequences.times is None or roles is None or len(sequences.times) < 2:
        return []
    owner = np.repeat(np.arange(len(sequences.offsets) - 1), np.diff(sequences.offsets))
    same_user = owner[1:] == owner[:-1]
    share = float((sequences.times[1:] == sequences.times[:-1])[same_user].mean()) if same_user.any() else 0.0
    if share < 0.5:
        return []
    days = bool(np.all(sequences.times % DAY == 0))
    unused = [name for name in columns.names if name not in roles.chosen().values() and sounds_like_time(name)]
    numbers = [name for name in unused if mostly(columns.cells.get(name, ()), is_number)]
    perhaps = f" Column {numbers[0]!r} may say more: sort the file by it." if numbers else ""
    return [
        f"{share:.0%} of neighbouring events of a user have the same time{', which is a day' if days else ''}: they "
        f"keep the order of the file, which may be none. --ties random shows how much that matters.{perhaps}"
    ]


def odd_split(train: Arrays, sealed: Arrays, sequences: Sequences) -> list[str]:
    """Few users to validate or test on, and what a time split could do about it."""
    validated, tested = len(train["validation"]), len(sealed["test"])
    warnings: list[str] = []
    few = min(validated, tested)
    if few < FEW_USERS:
        who = f"{validated:,} users validate" + (f" and {tested:,} test" if tested != validated else " and test")
        warnings.append(f"Only {who}: {noise_of(few)}.")
    if sequences.num_items < 2 or int(np.diff(train["offsets"]).max()) < 2:
        warnings.append(
            "Nothing can be trained on this: "
            + ("there is one item." if sequences.num_items < 2 else "no user has two training events.")
        )
    if "users" in sealed:
        unseen = int(np.count_nonzero(sealed["users"].astype(np.int64) >= len(train["offsets"]) - 1))
        if unseen:
            warnings.append(
                f"{unseen:,} of {tested:,} tested users have no training event: the test reports them apart."
            )
    if sequences.cuts is not None and few < FEW_USERS:
        better = suggested(sequences, FEW_USERS)
        if better is not None:
            warnings.append(better)
    return warnings


def date(time: float) -> str:
    """Seconds since 1970 as a date and time in UTC."""
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{time:g} s after 1970"


def _rows(number: int) -> str:
    return "1 row is" if number == 1 else f"{number:,} rows are"
