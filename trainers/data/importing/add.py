"""add: imports a file of interactions as a stored dataset."""

from __future__ import annotations

from pathlib import Path

import duckdb

from trainers.contract.wire import NO_ROOM
from trainers.data.dataset import Dataset, ImportReport, Sequences
from trainers.data.demo import refuse_demo
from trainers.data.errors import DataError, check_name, foreign
from trainers.data.importing.clean import SHORTEST, clean
from trainers.data.importing.columns import Wanted
from trainers.data.importing.detect import Layout, detect
from trainers.data.importing.readers import Raw, read
from trainers.data.importing.sql import count
from trainers.data.split import TimeSplit
from trainers.data.staging import staging_folder
from trainers.data.store import find, save

REASONS = {
    "broken_row": "unreadable or with the wrong number of columns",
    "missing_field": "with a missing user, item or timestamp",
    "broken_timestamp": "with a timestamp that is no time",
    "duplicate": "the same user, item and timestamp as an earlier row",
    "short_user": f"of users with fewer than {SHORTEST} events",
    "k_core": "outside the k-core",
    "cold_item": "after the training period with an item that it does not know",
    "cold_user": "of the test period by users with nothing before it",
}
"""Texts for the reasons in an import report; each completes a phrase such as "12 rows …"."""


def add(
    datasets_dir: Path,
    name: str,
    path: Path,
    *,
    user: str | None = None,
    item: str | None = None,
    timestamp: str | None = None,
    k_core: int | None = None,
    format: str | None = None,
    split: TimeSplit | None = None,
    ties_seed: int | None = None,
    updates: str | None = None,
) -> Dataset:
    """Imports the file at `path` as the dataset `name` and returns it; a failed import leaves nothing behind.

    Columns and format are guessed unless they are given. `k_core` keeps users and items with at least that many events,
    repeatedly until all have them; repeats of an item count. Unusable rows are dropped and counted. If `name` already
    has the same content, it is returned as it is. Without a time `split`, the last two events of each user are held
    out. Events with equal timestamps keep the order of the file, or one drawn with `ties_seed`. `updates` names the
    dataset of which this one is a newer version. Raises DataError if the arguments or the file cannot be used.
    """
    check_name(name)
    refuse_demo(name)
    if k_core is not None and k_core < 1:
        raise DataError(f"k_core={k_core!r} must be at least 1; leave it out to keep everything.")
    older = None if updates is None else find(datasets_dir, updates).content_hash
    wanted = Wanted(user, item, timestamp)
    path = Path(path)
    layout = detect(path, wanted, format)
    with staging_folder(datasets_dir) as staging:
        try:
            raw = read(staging.connection, path, layout, wanted, staging.work)
        except (duckdb.Error, UnicodeError, OSError) as error:
            raise _unreadable(path, layout, error) from None
        timed = raw.roles is not None and raw.roles.timestamp is not None
        if not timed and (split is not None or ties_seed is not None):
            option = "--split time" if split is not None else "--ties random"
            raise DataError(
                f"{str(path)!r} has no timestamps, which {option} needs; name their column with --timestamp."
            )
        rows = count(staging.connection, "raw") + raw.broken
        sequences, dropped = clean(staging.connection, timed, k_core, split, ties_seed)
        report = _report(path, layout, raw, rows, sequences, dropped)
        return save(staging, name, sequences, report, updates=older)


def _report(
    path: Path, layout: Layout, raw: Raw, rows: int, sequences: Sequences, dropped: dict[str, int]
) -> ImportReport:
    if raw.broken:
        dropped = {"broken_row": raw.broken, **dropped}
    columns = {} if raw.roles is None else raw.roles.chosen()
    if not len(sequences.items):
        reasons = "; ".join(f"{number:,} {REASONS[reason]}" for reason, number in dropped.items()) or "no rows at all"
        reading = f" (read as {layout.format}" + "".join(f", {role}={name!r}" for role, name in columns.items()) + ")"
        raise DataError(f"Nothing usable is left of {str(path)!r}{reading}: of {rows:,} rows, {reasons}.")
    return ImportReport(
        source=path.name,
        format=layout.format,
        columns=columns,
        rows_read=rows,
        dropped=dropped,
        share_lost=sum(dropped.values()) / rows,
    )


def _unreadable(path: Path, layout: Layout, error: Exception) -> DataError:
    """The DataError for a failed read; the message of DuckDB names a staging file that the user never saw."""
    text = str(error)
    if any(words in text for words in NO_ROOM) or isinstance(error, OSError):
        return foreign("Reading", path, error)
    if layout.format == "parquet":
        return DataError(f"{str(path)!r} is a damaged Parquet file; fetch it again.")
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return DataError(f"Reading {str(path)!r} as {layout.format} failed: {first[:200]}")
