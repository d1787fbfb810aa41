"""A folder of recorded tables: trainings.parquet, perhaps test.parquet, and each dataset as NAME.txt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb

from server.replay.marker import ReplayHome
from server.replay.recorded import Table, TableError, read
from trainers.contract.fields import space_of
from trainers.contract.metrics import METRICS
from trainers.contract.specs import SPECS

TRAININGS, TEST = "trainings.parquet", "test.parquet"
KEYS = ("dataset", "backbone", "seed")
"""Columns that every table has, besides at least one metric."""
_FIELDS = frozenset(field.name for spec in SPECS.values() for field in space_of(spec).fields)


class Tables:
    """The tables of one folder, read when they are asked for. `datasets`: content hash by name in the tables.

    Trainings are kept once read. The test is read anew each time, and only by `sealed`.
    """

    def __init__(self, folder: Path, datasets: Mapping[str, str]) -> None:
        self.folder = folder
        self._datasets = dict(datasets)
        self._backbones = backbones(folder)
        self._tables: dict[tuple[str, str], Table] = {}

    @classmethod
    def open(cls, replay: ReplayHome) -> Tables:
        """The tables that a home replays. Raises TableError where they are gone, or others than when it was made."""
        if digest(replay.tables) != replay.digest:
            raise TableError(
                f"{replay.tables / TRAININGS} is not the table that this home began with, and a replay home keeps to "
                "one: put the earlier file back, or name a new home with --home."
            )
        return cls(replay.tables, replay.datasets)

    @property
    def recorded(self) -> dict[str, tuple[str, ...]]:
        """The backbones that were recorded, by dataset."""
        return {name: self._backbones[name] for name in self._datasets if name in self._backbones}

    def name_of(self, content_hash: str) -> str:
        """The name in the tables of the dataset with this content. Raises TableError."""
        for name, known in self._datasets.items():
            if known == content_hash:
                return name
        raise TableError(f"No recorded dataset has the content {content_hash!r}.")

    def is_recorded(self, name: str, content_hash: str) -> bool:
        """Whether a dataset of the home is the one that the tables call so."""
        return self._datasets.get(name) == content_hash

    def table(self, dataset: str, backbone: str) -> Table:
        """The recorded trainings of a backbone on a dataset. Raises TableError."""
        key = (dataset, backbone)
        if key not in self._tables:
            self._tables[key] = _read(self.folder / TRAININGS, dataset, backbone)
        return self._tables[key]

    def holds_test(self, dataset: str, backbone: str) -> bool:
        """Whether there are test metrics for a backbone on a dataset. Reads no metric."""
        return (self.folder / TEST).is_file() and backbone in backbones(self.folder, TEST).get(dataset, ())

    def sealed(self, dataset: str, backbone: str) -> Table:
        """The recorded test metrics, for the evaluation that ends a study. Raises TableError."""
        return _read(self.folder / TEST, dataset, backbone)


def _read(path: Path, dataset: str, backbone: str) -> Table:
    try:
        return read(path, space_of(SPECS[backbone]), dataset, {})
    except TableError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TableError(f"{str(path)!r}: a training of {backbone} on {dataset!r} cannot be read: {reason}.") from None


def digest(folder: Path) -> str:
    """The hash of the recorded trainings. Raises TableError where there are none."""
    path = folder / TRAININGS
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _missing(folder, path, error) from None


def _missing(folder: Path, path: Path, error: OSError) -> TableError:
    if not folder.is_dir():
        return TableError(f"{str(folder)!r} is no folder: --replay names one with {TRAININGS} and the datasets.")
    if isinstance(error, FileNotFoundError):
        return TableError(f"{str(folder)!r} holds no {path.name}: `python -m benchmarks.table` makes such a folder.")
    return TableError(f"{str(path)!r} cannot be read: {error.strerror or error}.")


def backbones(folder: Path, name: str = TRAININGS) -> dict[str, tuple[str, ...]]:
    """The built-in backbones that a table holds, by dataset. Raises TableError."""
    rows = _query(folder / name, "SELECT DISTINCT dataset, backbone FROM {table} ORDER BY ALL")
    known = [(str(dataset), str(backbone)) for dataset, backbone in rows if backbone in SPECS]
    return {dataset: tuple(b for d, b in known if d == dataset) for dataset, _ in known}


def check(folder: Path) -> dict[str, Path]:
    """Checks a whole folder; returns the file of each dataset by name. Raises TableError with the first problem."""
    digest(folder)
    columns = _columns(folder / TRAININGS)
    recorded = backbones(folder)
    if not recorded:
        raise TableError(f"{str(folder / TRAININGS)!r} records no training of {' or '.join(SPECS)}.")
    files = {dataset: folder / f"{dataset}.txt" for dataset in recorded}
    if absent := [path.name for path in files.values() if not path.is_file()]:
        raise TableError(
            f"{str(folder)!r} lacks {', '.join(absent)}: each recorded dataset lies beside {TRAININGS} as NAME.txt, "
            "with a line `user item item …` a user."
        )
    for dataset, names in recorded.items():
        for backbone in names:
            _read(folder / TRAININGS, dataset, backbone)
    if (folder / TEST).exists():
        _check_test(folder, columns)
    return files


def _check_test(folder: Path, columns: frozenset[str]) -> None:
    """Checks that the test covers what was recorded. Compares configurations; no metric is read."""
    keys = ["dataset", "backbone", *sorted(columns & _FIELDS)]
    found = _columns(folder / TEST)
    wanted = {*keys, *(columns & set(METRICS))}
    if lacking := sorted(wanted - found):
        raise TableError(f"{str(folder / TEST)!r} lacks the columns {', '.join(lacking)}, which {TRAININGS} has.")
    listed = ", ".join(f'"{name}"' for name in keys)
    scored = "WHERE status = 'ok'" if "status" in columns else ""
    query = (
        f"SELECT count(*) FROM (SELECT {listed} FROM {{table}} {scored} EXCEPT SELECT {listed} FROM read_parquet(?))"
    )
    ((count,),) = _query(folder / TRAININGS, query, folder / TEST)
    if count:
        raise TableError(
            f"{str(folder / TEST)!r} lacks {count} of the configurations in {TRAININGS}: complete it, or remove it and "
            "studies end without a test."
        )


def _columns(path: Path) -> frozenset[str]:
    """The columns of a table. Raises TableError where it lacks one that every table has."""
    columns = frozenset(str(row[0]) for row in _query(path, "DESCRIBE SELECT * FROM {table}"))
    if lacking := [name for name in KEYS if name not in columns]:
        raise TableError(f"{str(path)!r} lacks the columns {', '.join(lacking)}.")
    if not columns & set(METRICS):
        raise TableError(f"{str(path)!r} has no column of a metric; there are {', '.join(METRICS)}.")
    return columns


def _query(path: Path, query: str, *more: Path) -> Iterable[tuple[object, ...]]:
    """Rows of a query over the Parquet file at `path`, which it calls {table}. Raises TableError."""
    try:
        with duckdb.connect() as connection:
            filled = query.format(table="read_parquet(?)")
            return connection.execute(filled, [str(path), *map(str, more)]).fetchall()
    except (duckdb.Error, UnicodeError) as error:
        reason = str(error).splitlines()[0]
        raise TableError(f"{str(path)!r} cannot be read as a table: {reason}") from None
