"""add: a file of interactions becomes a stored dataset."""

from __future__ import annotations

from pathlib import Path

import duckdb

from trainers.data.clean import SHORTEST, clean
from trainers.data.columns import Wanted
from trainers.data.dataset import Dataset, ImportReport, Sequences
from trainers.data.demo import refuse_demo
from trainers.data.detect import Layout, detect
from trainers.data.errors import DataError, check_name, foreign
from trainers.data.readers import Raw, read
from trainers.data.split import TimeSplit
from trainers.data.sql import count
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
"""What the reasons of an import report mean, after "12 rows …"."""


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
    """Import the file at `path` as the dataset `name` and return it; nothing is left behind where that fails.

    Columns are guessed where not named, the format where not given. `k_core` keeps users and items with at least so
    many events, repeatedly until all have them; repeats of an item count. Rows that cannot be used are dropped and
    counted; DataError only where nothing usable is left. Content that is there already under `name` is returned as is.
    Without a time `split` the last two events of each user are held out. Events of equal time stay as in the file, or
    as `ties_seed` draws. `updates` names the dataset that this one is a newer version of.
    """
    check_name(name)
    refuse_demo(name)
    if k_core is not None and k_core < 1:
        raise DataError(f"k_core={k_core!r} must be at least 1; leave it out to keep everything.")
    older = None if updates is None else find(datasets_dir, updates).content_hash
    wanted = Wanted(user, item, timestamp)
    path = Path(path)
    layout = detect(path, wanted, format)

    def build(connection: duckdb.DuckDBPyConnection, work: Path) -> tuple[Sequences, ImportReport]:
        try:
            raw = read(connection, path, layout, wanted, work)
        except (duckdb.Error, OSError) as error:
            raise _unreadable(path, layout, error) from None
        timed = raw.roles is not None and raw.roles.timestamp is not None
        if not timed and (split is not None or ties_seed is not None):
            asked = "--split time" if split is not None else "--ties random"
            raise DataError(
                f"{str(path)!r} has no timestamps, which {asked} needs; name their column with --timestamp."
            )
        rows = count(connection, "raw") + raw.broken
        sequences, dropped = clean(connection, timed, k_core, split, ties_seed)
        return sequences, _reported(path, layout, raw, rows, sequences, dropped)

    return save(datasets_dir, name, build, updates=older)


def _reported(
    path: Path, layout: Layout, raw: Raw, rows: int, sequences: Sequences, dropped: dict[str, int]
) -> ImportReport:
    if raw.broken:
        dropped = {"broken_row": raw.broken, **dropped}
    columns = {} if raw.roles is None else raw.roles.chosen()
    if not len(sequences.items):
        why = "; ".join(f"{number:,} {REASONS[reason]}" for reason, number in dropped.items()) or "no rows at all"
        seen = f" (read as {layout.format}" + "".join(f", {role}={name!r}" for role, name in columns.items()) + ")"
        raise DataError(f"Nothing usable is left of {str(path)!r}{seen}: of {rows:,} rows, {why}.")
    return ImportReport(
        source=path.name,
        format=layout.format,
        columns=columns,
        rows_read=rows,
        dropped=dropped,
        share_lost=sum(dropped.values()) / rows,
    )


def _unreadable(path: Path, layout: Layout, error: Exception) -> DataError:
    """A reader's failure in words: what DuckDB says names a staging file that the user never saw."""
    text = str(error)
    if "No space left" in text or isinstance(error, OSError):
        return foreign("Reading", path, error)
    if layout.format == "parquet":
        return DataError(f"{str(path)!r} is a damaged Parquet file; fetch it again.")
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return DataError(f"Reading {str(path)!r} as {layout.format} failed: {first[:200]}")
