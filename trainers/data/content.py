"""The content hash of a dataset: computes it when a dataset is stored, and checks the stored files against it.

The hash begins with the training arrays, so a training can check these alone and never opens the sealed ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from trainers.contract.regular_files import check_regular
from trainers.data.dataset import Dataset
from trainers.data.errors import DataError

SEALED = "sealed"
"""The folder of the arrays that no training of a search reads."""
TRAIN, TEST, WHOLE = "train.safetensors", f"{SEALED}/test.safetensors", f"{SEALED}/whole.safetensors"
_ARRAYS = {
    TRAIN: ("items", "offsets", "validation", "validated"),
    TEST: ("test", "items", "offsets", "users"),
    WHOLE: ("items", "offsets"),
}
"""The arrays of each file in the order in which they are hashed; some datasets lack the last ones.

Further arrays and columns, such as the times of training events, are covered by the checksums of the files alone, so
that datasets with and without them have the same hash.
"""
TABLES = ("users", "items")
"""The tables of ids, users.parquet and items.parquet."""

Array = npt.NDArray[Any]
_Stamp = tuple[tuple[str, int, int, int, int], ...]

_intact: dict[Path, tuple[int, int, int, int]] = {}
"""By file what it looked like when this process compared it with its checksum."""
_checked: dict[Path, tuple[_Stamp, str]] = {}
"""By folder what its files looked like when this process checked them, and the hash of the training arrays."""
_checking = Lock()


class ContentHash:
    """The hash of a dataset with this split, computed piece by piece: training, test, whole, then the ids."""

    def __init__(self, split: str) -> None:
        self._digest = hashlib.sha256(f"virtualmle dataset 1, {split}".encode())

    def add_array(self, array: Array) -> None:
        """Adds an array (N,)."""
        self._digest.update(f"\n{len(array)} {array.dtype.name}\n".encode())
        self._digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)

    def add_ids(self, batches: Iterable[list[str]]) -> None:
        """Adds all ids of a table, in batches."""
        for ids in batches:
            self._digest.update("".join(f"{len(text)}:{text}" for text in ids).encode())
        self._digest.update(b"\n")

    def __str__(self) -> str:
        return self._digest.hexdigest()[:20]


def training_hash(split: str, arrays: Mapping[str, Array]) -> str:
    """The hash of the training arrays alone."""
    digest = ContentHash(split)
    for name in _ARRAYS[TRAIN]:
        if name in arrays:
            digest.add_array(arrays[name])
    return str(digest)


def check_content(dataset: Dataset) -> str:
    """Compares the files of a dataset with its content hash; returns the hash of its training arrays alone.

    The files are read once in a process, and again only when one of them was replaced or written to. Raises DataError.
    """
    with _checking:
        try:
            stamp = _stamp(dataset.path)
            before = _checked.get(dataset.path)
            if before is not None and before[0] == stamp:
                return before[1]
            training, content = _read(dataset)
        except (OSError, SafetensorError, duckdb.Error, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise changed(dataset.path, f"its files cannot be read: {reason}") from None
        if content != dataset.content_hash:
            reason = f"its files have the content hash {content!r}, and dataset.json says {dataset.content_hash!r}"
            raise changed(dataset.path, reason)
        for file in dataset.checksums:
            check_file(dataset, file)
        _checked[dataset.path] = stamp, training
        return training


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a dataset but dataset.json, by its place in the folder."""
    names = (*_ARRAYS, *(f"{table}.parquet" for table in TABLES))
    return {name: _sha256(folder / name) for name in names if (folder / name).exists()}


def check_file(dataset: Dataset, file: str) -> None:
    """Compares a file with its checksum, once in a process unless it is written to. Raises DataError, OSError."""
    path, expected = dataset.path / file, dataset.checksums.get(file)
    if expected is None:
        return
    at = path.stat()
    stamp = (at.st_mtime_ns, at.st_ctime_ns, at.st_size, at.st_ino)
    if _intact.get(path) != stamp:
        if _sha256(path) != expected:
            raise changed(dataset.path, f"{file} is not the file that was stored")
        _intact[path] = stamp


def _sha256(path: Path) -> str:
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed(folder: Path, reason: str) -> DataError:
    """The error for a dataset that is not what was added."""
    return DataError(
        f"Dataset {folder.name!r} was changed after it was added ({reason}), so nothing trains on it: put its files "
        f"back from a backup, or remove it with `virtualmle data remove {folder.name}` and add its file again."
    )


def _read(dataset: Dataset) -> tuple[str, str]:
    """The hashes of the training arrays and of everything. One array at a time is in memory."""
    digest, training = ContentHash(dataset.split), ""
    for file, names in _ARRAYS.items():
        if file != WHOLE or (dataset.path / WHOLE).exists():
            for array in _arrays(dataset.path / file, names):
                digest.add_array(array)
        training = training or str(digest)
    with duckdb.connect() as connection:
        for table in TABLES:
            check_regular(dataset.path / f"{table}.parquet")
            digest.add_ids(ids(connection, "read_parquet(?)", [str(dataset.path / f"{table}.parquet")]))
    return training, str(digest)


def ids(connection: duckdb.DuckDBPyConnection, table: str, values: list[str] | None = None) -> Iterator[list[str]]:
    """The ids of a table with the columns index and id, in batches in the order of their index."""
    result = connection.execute(f"SELECT id FROM {table} ORDER BY index", values or [])
    while rows := result.fetchmany(50_000):
        yield [str(row[0]) for row in rows]


def _arrays(path: Path, names: Iterable[str]) -> Iterator[Array]:
    """The arrays of these names that a file has, one at a time."""
    check_regular(path)
    with safe_open(path, "np") as file:  # pyright: ignore[reportUnknownVariableType]
        there: set[str] = set(file.keys())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        for name in names:
            if name in there:
                yield file.get_tensor(name)  # pyright: ignore[reportUnknownMemberType]


def _stamp(folder: Path) -> _Stamp:
    """What changes when a file of the dataset is replaced or written to."""
    names = ("dataset.json", *_ARRAYS, *(f"{table}.parquet" for table in TABLES))
    found = ((name, (folder / name).stat()) for name in names if (folder / name).exists())
    return tuple((name, at.st_mtime_ns, at.st_ctime_ns, at.st_size, at.st_ino) for name, at in found)
