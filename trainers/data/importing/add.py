"""add: imports a file of interactions as a stored dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
from pydantic import ValidationError

from trainers.contract.wire import NO_ROOM
from trainers.data.dataset import Dataset, Event, ImportReport, Sequences
from trainers.data.demo import refuse_demo
from trainers.data.errors import DataError, check_name, foreign
from trainers.data.importing import odd
from trainers.data.importing.clean import SHORTEST, clean
from trainers.data.importing.columns.roles import Roles, odd_ids
from trainers.data.importing.columns.times import FORMATS_READ, TimeFormat, guess
from trainers.data.importing.events import Read, choose_events, keep_usable
from trainers.data.importing.files.detect import Layout, detect
from trainers.data.importing.files.sources import Part, parts_of
from trainers.data.importing.options import FORMATS, Duplicates, Options, Split
from trainers.data.importing.readers import Raw, read
from trainers.data.importing.sql import count
from trainers.data.split import TimeSplit, parts
from trainers.data.staging import Staging, staging_folder
from trainers.data.store import find, save

REASONS = {
    "broken_row": "unreadable or with the wrong number of columns",
    "where": "that --where leaves out",
    "low_rating": "rated below --min-rating, or not at all",
    "missing_field": "with a missing user, item or timestamp",
    "broken_timestamp": "with a timestamp that is no time",
    "duplicate": "the same user, item and timestamp as an earlier row",
    "repeat": "that repeat the item before (--collapse-repeats)",
    "old_event": "older than the newest events of a user (--max-events-per-user)",
    "short_user": f"of users with fewer than {SHORTEST} events",
    "k_core": "outside the k-core",
    "cold_item": "after the training period with an item that it does not know",
    "cold_user": "of the test period by users with nothing before it",
}
"""Texts for the reasons in an import report; each completes a phrase such as "12 rows …"."""
ASKED_FOR = ("where", "low_rating", "repeat", "old_event", "k_core", "cold_item", "cold_user")
"""Reasons that an option of the user gives; rows dropped for them are not lost."""


CONDITIONS = ("where", "low_rating")
"""Reasons of rows that are none of this dataset."""


def add(
    datasets_dir: Path,
    name: str,
    path: Path,
    *,
    user: str | None = None,
    item: str | None = None,
    timestamp: str | None = None,
    format: str | None = None,
    delimiter: str | None = None,
    no_header: bool = False,
    timestamp_format: str | None = None,
    where: str | None = None,
    min_rating: float | None = None,
    drop_duplicates: Duplicates | None = None,
    collapse_repeats: bool = False,
    max_events_per_user: int | None = None,
    k_core: int | None = None,
    split: TimeSplit | None = None,
    ties_seed: int | None = None,
    updates: str | None = None,
    dry_run: bool = False,
) -> Dataset:
    """Imports the file, or the folder of parts, at `path` as the dataset `name`; a failed import leaves nothing behind.

    Columns and format are guessed unless they are given; what was understood is in the report. Unusable rows are
    dropped and counted. `k_core` keeps users and items with at least that many events, repeatedly until all have them;
    repeats of an item count. If `name` already has the same content, it is returned as it is. Without a time `split`,
    the last two events of each user are held out. Events with equal timestamps keep the order of the file, or one drawn
    with `ties_seed`. `updates` names the dataset of which this one is a newer version. A `dry_run` stores nothing.
    Raises DataError if the arguments or the file cannot be used.
    """
    check_name(name)
    refuse_demo(name)
    if format is not None and format not in FORMATS:
        raise DataError(f"Unknown format {format!r}; there are {', '.join(FORMATS)}.")
    given = {
        "user": user, "item": item, "timestamp": timestamp, "format": format, "delimiter": delimiter,
        "no_header": no_header, "timestamp_format": timestamp_format, "where": where, "min_rating": min_rating,
        "drop_duplicates": drop_duplicates, "collapse_repeats": collapse_repeats,
        "max_events_per_user": max_events_per_user, "k_core": k_core, "ties_seed": ties_seed,
        "split": None if split is None else Split(**vars(split)),
    }  # fmt: skip
    try:
        options = Options.model_validate(given).checked()
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{first['loc'][0]}={first['input']!r} cannot be used: {first['msg'].lower()}.") from None
    older = None if updates is None else find(datasets_dir, updates).content_hash
    return _Import(Path(path), options).into(datasets_dir, name, older, dry_run)


class _Import:
    """One import, from the parts of its source to the stored dataset."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path, self.options = path, options
        self.parts = parts_of(path)
        self.layout = _layout_of(path, self.parts, options)

    def into(self, datasets_dir: Path, name: str, updates: str | None, dry_run: bool) -> Dataset:
        with staging_folder(datasets_dir) as staging:
            try:
                raw = read(staging.connection, self.path, self.parts, self.layout, self.options, staging.work)
            except (duckdb.Error, UnicodeError, OSError) as error:
                raise _unreadable(self.path, self.layout, error) from None
            sequences, report = self._understood(staging, raw)
            return save(staging, name, sequences, report, updates=updates, recipe=self._recipe(raw), dry_run=dry_run)

    def _understood(self, staging: Staging, raw: Raw) -> tuple[Sequences, ImportReport]:
        connection, options = staging.connection, self.options
        timed = raw.roles is not None and raw.roles.timestamp is not None
        if not timed and (options.split is not None or options.ties_seed is not None):
            option = "--split time" if options.split is not None else "--ties random"
            raise DataError(
                f"{str(self.path)!r} has no timestamps, which {option} needs; name their column with --timestamp."
            )
        rows = count(connection, "raw") + raw.broken
        kept = keep_usable(connection, self._time_format(raw) if timed else None, options)
        warnings = self._odd_columns(raw) + list(kept.notes) + odd.odd_times(connection, kept)
        chosen = choose_events(connection, timed, options)
        of_events, heaviest = odd.odd_events(connection)
        warnings += odd.odd_repeats(kept, chosen, options) + of_events
        examples = _examples(connection)
        before = {"broken_row": raw.broken, **kept.dropped, **chosen}
        try:
            sequences, cleaned = clean(connection, timed, options)
            dropped = {reason: number for reason, number in {**before, **cleaned}.items() if number}
            if not len(sequences.items):
                raise self._nothing_left(raw, rows, dropped, kept)
            warnings += odd.odd_order(sequences, raw.columns, raw.roles) + odd.odd_split(*parts(sequences), sequences)
        except DataError as error:
            outliers = [warning for warning in warnings if "after tomorrow" in warning]
            raise DataError(" ".join([str(error), *outliers])) from None
        times = sequences.times
        return sequences, ImportReport(
            source=self.path.name,
            format=self.layout.words(),
            columns={} if raw.roles is None else raw.roles.chosen(),
            ignored=[] if raw.roles is None else _ignored(raw, raw.roles),
            time_format=None if kept.time is None else kept.time.words,
            rows_read=rows,
            dropped=dropped,
            share_lost=self._share_lost(rows, dropped),
            examples=examples,
            heaviest_user=heaviest,
            span=None if times is None else (odd.date(float(times.min())), odd.date(float(times.max()))),
            warnings=warnings + self._not_times(kept),
        )

    def _share_lost(self, rows: int, dropped: Mapping[str, int]) -> float:
        """The share that was dropped unasked of the rows that the conditions keep."""
        lost = sum(number for reason, number in dropped.items() if not self._asked_for(reason))
        return lost / (rows - sum(dropped.get(reason, 0) for reason in CONDITIONS))

    def _asked_for(self, reason: str) -> bool:
        return reason in ASKED_FOR or (reason == "duplicate" and self.options.drop_duplicates is not None)

    def _time_format(self, raw: Raw) -> TimeFormat:
        """The format of the timestamp column: guessed from its sample, else any of the usual ones."""
        assert raw.roles is not None
        found = guess(raw.columns.cells.get(raw.roles.timestamp or "", ()), named=True)
        return found or TimeFormat("", "try_cast({0} AS DOUBLE)", unit=True)

    def _odd_columns(self, raw: Raw) -> list[str]:
        if raw.roles is None:
            return []
        return [
            *raw.roles.notes,
            *odd_ids(raw.roles, raw.columns),
            *odd.odd_columns(raw.columns, raw.roles, self.options),
        ]

    def _not_times(self, kept: Read) -> list[str]:
        if kept.not_times is None:
            return []
        return [f"{kept.not_times[:60]!r} is no time. Read are {FORMATS_READ}; --timestamp-format names another one."]

    def _nothing_left(self, raw: Raw, rows: int, dropped: dict[str, int], kept: Read) -> DataError:
        columns = {} if raw.roles is None else raw.roles.chosen()
        reasons = "; ".join(f"{number:,} {REASONS[reason]}" for reason, number in dropped.items()) or "no rows at all"
        reading = f" (read as {self.layout.words()}" + "".join(f", {role}={n!r}" for role, n in columns.items()) + ")"
        said = " ".join(["", *self._not_times(kept)])
        return DataError(f"Nothing usable is left of {str(self.path)!r}{reading}: of {rows:,} rows, {reasons}.{said}")

    def _recipe(self, raw: Raw) -> str:
        """The options with the columns that were guessed, so that the same file gives the same dataset again."""
        options = self.options
        if raw.roles is not None:
            found = {"user": raw.roles.user, "item": raw.roles.item, "timestamp": raw.roles.timestamp or "none"}
            options = options.model_copy(update=found)
        return " ".join(options.arguments())


def _ignored(raw: Raw, roles: Roles) -> list[str]:
    """The columns that neither a role nor a condition used."""
    used = {*roles.chosen().values(), *raw.conditions}
    return [name for name in raw.columns.names if name not in used]


def _layout_of(path: Path, found: Sequence[Part], options: Options) -> Layout:
    """The layout that all parts share. Raises DataError if they do not."""
    if not found:
        raise DataError(f"{str(path)!r} is empty; it holds no interactions.")
    first = detect(found[0], options)
    for part in found[1:]:
        layout = detect(part, options)
        if replace(layout, columns=replace(layout.columns, cells={})) != replace(
            first, columns=replace(first.columns, cells={}), quote=layout.quote
        ):
            raise DataError(
                f"{str(path)!r} holds {found[0].path.name!r} and {part.path.name!r}, which differ in format or "
                "columns; a folder is read as one dataset if all its files are alike."
            )
    return first


def _examples(connection: duckdb.DuckDBPyConnection) -> list[Event]:
    """The first three events of the file, as they were understood."""
    rows = connection.execute(
        "SELECT u.id, i.id, e.time FROM (SELECT * FROM events ORDER BY row LIMIT 3) e "
        'JOIN users_all u ON u.code = e."user" JOIN items_all i ON i.code = e.item ORDER BY e.row'
    ).fetchall()
    return [Event(user=str(u), item=str(i), time=None if t is None else odd.date(float(t))) for u, i, t in rows]


def _unreadable(path: Path, layout: Layout, error: Exception) -> DataError:
    """The DataError for a failed read; the message of DuckDB names a staging file that the user never saw."""
    text = str(error)
    if any(words in text for words in NO_ROOM) or isinstance(error, OSError):
        return foreign("Reading", path, error)
    if layout.format == "parquet" and not isinstance(error, duckdb.ConversionException):
        return DataError(f"{str(path)!r} is a damaged Parquet file; fetch it again.")
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return DataError(f"Reading {str(path)!r} as {layout.words()} failed: {first[:200]}")
