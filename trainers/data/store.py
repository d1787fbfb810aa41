"""The stored form of datasets: one folder each, written beside and renamed, so that none is ever seen half-written."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

from trainers.data.dataset import SPLIT, Dataset, ImportReport, Sequences, TrainingData
from trainers.data.errors import NAME_PATTERN, DataError, check_name, foreign
from trainers.data.facts import facts_of
from trainers.data.split import Arrays, parts
from trainers.data.staging import publish, staging_folder, throw_away
from trainers.held_out import HeldOut

ITEMS = "items.parquet"
"""Item numbers and ids: columns index and id."""
_WHOLE = "whole.safetensors"
"""Of a time split: every event, also those after the test items, which no metric reads."""


def find(datasets_dir: Path, name: str) -> Dataset:
    """The dataset called `name`; DataError with the nearest name and what is there."""
    check_name(name)
    if (datasets_dir / name / "dataset.json").is_file():
        return _read(datasets_dir / name)
    names = [dataset.name for dataset in list_datasets(datasets_dir)]
    near = difflib.get_close_matches(name, [*names, "demo"], 1, 0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    there = f" There are: {', '.join(names)}." if names else " There are none yet."
    raise DataError(f"Unknown dataset {name!r}.{hint}{there} Add one with `virtualmle data add NAME PATH`.")


def find_by_hash(datasets_dir: Path, content_hash: str) -> Dataset:
    """A dataset with this content, whatever its name."""
    for dataset in list_datasets(datasets_dir):
        if dataset.content_hash == content_hash:
            return dataset
    raise DataError(f"No dataset under {str(datasets_dir)!r} has the content {content_hash!r}; add its file again.")


def list_datasets(datasets_dir: Path) -> list[Dataset]:
    """All readable datasets by name; a damaged one is left out here, and `find` says what is wrong with it."""
    found: list[Dataset] = []
    for folder in sorted(datasets_dir.iterdir()) if datasets_dir.is_dir() else []:
        if re.fullmatch(NAME_PATTERN, folder.name) and (folder / "dataset.json").is_file():
            try:
                found.append(_read(folder))
            except DataError:
                continue
    return found


def remove(datasets_dir: Path, name: str) -> None:
    """Delete the dataset called `name`, damaged or not, in one step."""
    folder = datasets_dir / check_name(name)
    if not folder.is_dir():
        find(datasets_dir, name)
    try:
        throw_away(folder)
    except OSError as error:
        raise foreign("Removing", folder, error) from None


def save(
    datasets_dir: Path,
    name: str,
    build: Callable[[duckdb.DuckDBPyConnection, Path], tuple[Sequences, ImportReport]],
    synthetic: bool = False,
    updates: str | None = None,
) -> Dataset:
    """Store what `build` makes under `name` and return it; the same content under that name is left as it is.

    `build` gets a DuckDB connection and a scratch folder, and leaves tables users and items (index, id).
    """
    with staging_folder(datasets_dir) as (folder, connection):
        sequences, report = build(connection, folder / "work")
        train, sealed = parts(sequences)
        split = SPLIT if sequences.cuts is None else sequences.cuts.words
        dataset = Dataset(
            name=name,
            content_hash=_write(folder, split, train, sealed, _rest(sequences), connection),
            split=split,
            facts=facts_of(sequences, len(train["validation"]) if "validated" in train else None),
            report=report,
            cold=dict(sequences.cold),
            updates=updates,
            synthetic=synthetic,
        )
        text = json.dumps({"version": 1, **dataset.model_dump(mode="json")}, indent=1)
        (folder / "dataset.json").write_text(text + "\n", encoding="utf-8")
        connection.close()
        target = datasets_dir / name
        if not target.exists() and publish(folder, target):
            return dataset.model_copy(update={"path": target})
    present = find(datasets_dir, name)
    if present.content_hash != dataset.content_hash:
        raise DataError(
            f"There is a dataset {name!r} with other content; choose another name, or remove it with "
            f"`virtualmle data remove {name}`."
        )
    return present


def load_training(folder: Path) -> TrainingData:
    """What a training may see of the dataset in `folder`; the test items are in a file that this never opens."""
    facts = _read(folder).facts
    arrays = _load(folder / "train.safetensors", ("items", "offsets", "validation"), ("validated",))
    items, offsets, validation = arrays["items"], arrays["offsets"], arrays["validation"]
    validated = arrays.get("validated")
    whole = (
        _packed(items, offsets, facts.items)
        and len(offsets) == facts.users + 1
        and validation.dtype == np.int32
        and bool(validation.min() >= 0 and validation.max() < facts.items)
        and len(validation) == (facts.users if validated is None else len(validated))
        and (validated is None or _increasing(validated, facts.users))
    )
    if not whole:
        raise _damaged(folder, "train.safetensors does not fit dataset.json")
    return TrainingData(items, offsets, validation, facts.items, facts, validated)


def load_test(folder: Path) -> HeldOut:
    """The sealed test items and what their users had before; only the reveal of a finished study reads them."""
    facts = _read(folder).facts
    arrays = _load(folder / "test.safetensors", ("test",), ("items", "offsets", "users"))
    test = arrays["test"]
    whole = test.dtype == np.int32 and bool(test.min() >= 0 and test.max() < facts.items)
    if "offsets" in arrays:
        items, offsets = arrays["items"], arrays["offsets"]
        whole = whole and _packed(items, offsets, facts.items) and len(offsets) == len(test) + 1
    else:
        data = load_training(folder)
        items = np.insert(data.items, data.offsets[1:], data.validation)
        offsets = data.offsets + np.arange(len(data.offsets))
        whole = whole and len(test) == facts.users
    if not whole:
        raise _damaged(folder, "test.safetensors does not fit dataset.json")
    return HeldOut(items, offsets, test)


def load_whole(folder: Path) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Every event that was kept of the dataset in `folder`, sealed ones too: items (N,) and offsets (users + 1,).

    For weights that will have no test score: a training of all there is, once a study is finished.
    """
    dataset = _read(folder)
    if dataset.split == SPLIT:
        held = load_test(folder)
        items = np.insert(held.items, held.offsets[1:], held.targets)
        return items, held.offsets + np.arange(len(held.offsets))
    if not (folder / _WHOLE).exists():
        raise DataError(
            f"Dataset {folder.name!r} was added by a version that kept no events after the test items: remove it and "
            "add its file again."
        )
    arrays = _load(folder / _WHOLE, ("items", "offsets"))
    items, offsets = arrays["items"], arrays["offsets"]
    if not _packed(items, offsets, dataset.facts.items):
        raise _damaged(folder, f"{_WHOLE} does not fit dataset.json")
    return items, offsets


def load_ids(folder: Path) -> list[str]:
    """The item ids of the dataset in `folder`, by number."""
    path = folder / ITEMS
    try:
        with duckdb.connect() as connection:
            rows = connection.execute("SELECT id FROM read_parquet(?) ORDER BY index", [str(path)]).fetchall()
    except duckdb.Error as error:
        raise _damaged(folder, f"{ITEMS}: {str(error).splitlines()[0]}") from None
    return [str(row[0]) for row in rows]


def _packed(items: npt.NDArray[Any], offsets: npt.NDArray[Any], num_items: int) -> bool:
    """Whether they are sequences of known items, none of them empty."""
    return (
        (items.dtype, offsets.dtype) == (np.int32, np.int64)
        and (offsets[0], offsets[-1]) == (0, len(items))
        and bool(np.all(np.diff(offsets) > 0))
        and bool(items.min() >= 0 and items.max() < num_items)
    )


def _increasing(users: npt.NDArray[Any], count: int) -> bool:
    return bool(users.dtype == np.int64 and users[0] >= 0 and users[-1] < count and np.all(np.diff(users) > 0))


def _read(folder: Path) -> Dataset:
    try:
        text = (folder / "dataset.json").read_text(encoding="utf-8")
        return Dataset.model_validate({**json.loads(text), "path": folder, "name": folder.name})
    except FileNotFoundError:
        raise DataError(f"{str(folder)!r} holds no dataset: dataset.json is missing.") from None
    except OSError as error:
        raise foreign("Reading", folder, error) from None
    except (ValidationError, ValueError, TypeError) as error:
        raise _damaged(folder, f"dataset.json: {str(error).splitlines()[0]}") from None


def _load(path: Path, names: tuple[str, ...], others: tuple[str, ...] = ()) -> dict[str, npt.NDArray[Any]]:
    try:
        arrays = load_file(path)
    except FileNotFoundError:
        raise _damaged(path.parent, f"{path.name} is missing") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path.parent, f"{path.name}: {str(error).splitlines()[0]}") from None
    if set(arrays) - set(others) != set(names) or any(array.ndim != 1 or not len(array) for array in arrays.values()):
        raise _damaged(path.parent, f"{path.name} does not hold {', '.join(names)}")
    return arrays


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(
        f"Dataset {folder.name!r} is damaged ({what}); remove it with `virtualmle data remove {folder.name}` "
        "and add its file again."
    )


def _rest(sequences: Sequences) -> Arrays:
    """Of a time split every event: those after the test items are in neither part."""
    return {} if sequences.cuts is None else {"items": sequences.items, "offsets": sequences.offsets}


def _write(
    folder: Path, split: str, train: Arrays, sealed: Arrays, whole: Arrays, connection: duckdb.DuckDBPyConnection
) -> str:
    """Write the files of the stored form and the id tables; returns the content hash."""
    save_file(train, folder / "train.safetensors")
    save_file(sealed, folder / "test.safetensors")
    if whole:
        save_file(whole, folder / _WHOLE)
    digest = hashlib.sha256(f"virtualmle dataset 1, {split}".encode())
    for array in (*train.values(), *sealed.values(), *whole.values()):
        digest.update(f"\n{len(array)} {array.dtype.name}\n".encode())
        digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
    for table in ("users", "items"):
        target = str(folder / f"{table}.parquet").replace("'", "''")
        connection.execute(f"COPY (SELECT index, id FROM {table} ORDER BY index) TO '{target}' (FORMAT parquet)")
        for ids in _ids(connection, table):
            digest.update("".join(f"{len(text)}:{text}" for text in ids).encode())
        digest.update(b"\n")
    return digest.hexdigest()[:20]


def _ids(connection: duckdb.DuckDBPyConnection, table: str) -> Iterable[list[str]]:
    result = connection.execute(f"SELECT id FROM {table} ORDER BY index")
    while rows := result.fetchmany(50_000):
        yield [row[0] for row in rows]
