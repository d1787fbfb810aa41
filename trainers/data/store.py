"""The stored form of datasets: a folder each, renamed into place when complete, so none is seen half-written."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

from trainers.contract.regular_files import check_regular, read_regular
from trainers.data.content import TABLES, ContentHash, changed, ids, training_hash
from trainers.data.dataset import SPLIT, Dataset, ImportReport, Sequences, TrainingData
from trainers.data.errors import NAME_PATTERN, DataError, check_name, foreign
from trainers.data.facts import facts_of
from trainers.data.held_out import HeldOut
from trainers.data.split import Arrays, parts
from trainers.data.staging import Staging, publish, throw_away

ITEMS = "items.parquet"
"""The file of item numbers and ids, in the columns index and id."""
_WHOLE = "whole.safetensors"
"""The file of all events of a time split, including those after the test items, which no metric reads."""


def find(datasets_dir: Path, name: str) -> Dataset:
    """The dataset called `name`. Raises DataError with the nearest name and the existing ones."""
    check_name(name)
    if (datasets_dir / name / "dataset.json").is_file():
        return _read(datasets_dir / name)
    names = [dataset.name for dataset in list_datasets(datasets_dir)]
    near = difflib.get_close_matches(name, [*names, "demo"], 1, 0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    existing = f" There are: {', '.join(names)}." if names else " There are none yet."
    raise DataError(f"Unknown dataset {name!r}.{hint}{existing} Add one with `virtualmle data add NAME PATH`.")


def find_by_hash(datasets_dir: Path, content_hash: str) -> Dataset:
    """A dataset with this content, whatever its name. Raises DataError if there is none."""
    for dataset in list_datasets(datasets_dir):
        if dataset.content_hash == content_hash:
            return dataset
    raise DataError(f"No dataset under {str(datasets_dir)!r} has the content {content_hash!r}; add its file again.")


def list_datasets(datasets_dir: Path) -> list[Dataset]:
    """All readable datasets, sorted by name. Damaged ones are left out; `find` says what is wrong with them."""
    datasets: list[Dataset] = []
    for folder in sorted(datasets_dir.iterdir()) if datasets_dir.is_dir() else []:
        if re.fullmatch(NAME_PATTERN, folder.name) and (folder / "dataset.json").is_file():
            try:
                datasets.append(_read(folder))
            except DataError:
                continue
    return datasets


def remove(datasets_dir: Path, name: str) -> None:
    """Deletes the dataset called `name`, damaged or not, in one step. Raises DataError."""
    folder = datasets_dir / check_name(name)
    if not folder.is_dir():
        find(datasets_dir, name)
    try:
        throw_away(folder)
    except OSError as error:
        raise foreign("Removing", folder, error) from None


def save(
    staging: Staging,
    name: str,
    sequences: Sequences,
    report: ImportReport,
    *,
    synthetic: bool = False,
    updates: str | None = None,
) -> Dataset:
    """Stores sequences as the dataset `name` beside the staging folder; if the same content is there, it stays as is.

    The connection of `staging` holds the tables users and items (index, id). Raises DataError if `name` has other
    content.
    """
    folder = staging.folder
    train, sealed = parts(sequences)
    split = SPLIT if sequences.cuts is None else sequences.cuts.words
    dataset = Dataset(
        name=name,
        content_hash=_write(folder, split, train, sealed, _all_events(sequences), staging.connection),
        split=split,
        facts=facts_of(sequences, len(train["validation"]) if "validated" in train else None),
        report=report,
        cold=dict(sequences.cold),
        updates=updates,
        synthetic=synthetic,
    )
    text = json.dumps({"version": 1, **dataset.model_dump(mode="json")}, indent=1)
    (folder / "dataset.json").write_text(text + "\n", encoding="utf-8")
    staging.connection.close()
    target = folder.with_name(name)
    if not target.exists() and publish(folder, target):
        return dataset.model_copy(update={"path": target})
    present = find(folder.parent, name)
    if present.content_hash != dataset.content_hash:
        raise DataError(
            f"There is a dataset {name!r} with other content; choose another name, or remove it with "
            f"`virtualmle data remove {name}`."
        )
    return present


def load_training(folder: Path, expected_hash: str | None = None) -> TrainingData:
    """What a training may see of a dataset; the test items are in a file that this never opens.

    `expected_hash`: what `check_content` returned for it, None to load unchecked. Raises DataError.
    """
    dataset = _read(folder)
    facts = dataset.facts
    arrays = _load(folder / "train.safetensors", ("items", "offsets", "validation"), ("validated",))
    items, offsets, validation = arrays["items"], arrays["offsets"], arrays["validation"]
    validated = arrays.get("validated")
    valid = (
        _packed(items, offsets, facts.items)
        and len(offsets) == facts.users + 1
        and validation.dtype == np.int32
        and bool(validation.min() >= 0 and validation.max() < facts.items)
        and len(validation) == (facts.users if validated is None else len(validated))
        and (validated is None or _increasing(validated, facts.users))
    )
    if not valid:
        raise _damaged(folder, "train.safetensors does not fit dataset.json")
    if expected_hash is not None and (found := training_hash(dataset.split, arrays)) != expected_hash:
        raise changed(folder, f"train.safetensors has the hash {found!r}, not {expected_hash!r}")
    return TrainingData(items, offsets, validation, facts.items, facts, validated)


def load_test(folder: Path) -> HeldOut:
    """The sealed test items, each with all earlier items of its user; no training reads them. Raises DataError."""
    facts = _read(folder).facts
    arrays = _load(folder / "test.safetensors", ("test",), ("items", "offsets", "users"))
    test = arrays["test"]
    valid = test.dtype == np.int32 and bool(test.min() >= 0 and test.max() < facts.items)
    if "offsets" in arrays:
        items, offsets = arrays["items"], arrays["offsets"]
        valid = valid and _packed(items, offsets, facts.items) and len(offsets) == len(test) + 1
    else:
        data = load_training(folder)
        items = np.insert(data.items, data.offsets[1:], data.validation)
        offsets = data.offsets + np.arange(len(data.offsets))
        valid = valid and len(test) == facts.users
    if not valid:
        raise _damaged(folder, "test.safetensors does not fit dataset.json")
    return HeldOut(items, offsets, test)


def load_whole(folder: Path) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """All events of the dataset in `folder`, including sealed ones: items (N,) and offsets (users + 1,).

    They serve to train on everything once a study is finished; such weights get no test score. Raises DataError.
    """
    dataset = _read(folder)
    if dataset.split == SPLIT:
        test = load_test(folder)
        items = np.insert(test.items, test.offsets[1:], test.targets)
        return items, test.offsets + np.arange(len(test.offsets))
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
    """The item ids (V,) of the dataset in `folder`, by item number. Raises DataError."""
    path = folder / ITEMS
    try:
        check_regular(path)
        with duckdb.connect() as connection:
            rows = connection.execute("SELECT id FROM read_parquet(?) ORDER BY index", [str(path)]).fetchall()
    except (duckdb.Error, UnicodeError, OSError) as error:  # DuckDB may quote bytes of the file that are no text
        reason = str(error).strip().split("\n")[0] or type(error).__name__  # DuckDB may have no words for it
        raise _damaged(folder, f"{ITEMS}: {reason}") from None
    return [str(row[0]) for row in rows]


def _packed(items: npt.NDArray[Any], offsets: npt.NDArray[Any], num_items: int) -> bool:
    """Whether `items` (N,) and `offsets` are non-empty sequences of valid item numbers."""
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
        values = json.loads(read_regular(folder / "dataset.json"))
        return Dataset.model_validate({**values, "path": folder, "name": folder.name})
    except FileNotFoundError:
        raise DataError(f"{str(folder)!r} holds no dataset: dataset.json is missing.") from None
    except OSError as error:
        raise foreign("Reading", folder, error) from None
    except (ValidationError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(folder, f"dataset.json: {str(error).splitlines()[0]}") from None


def _load(path: Path, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, npt.NDArray[Any]]:
    try:
        check_regular(path)
        arrays = load_file(path)
    except FileNotFoundError:
        raise _damaged(path.parent, f"{path.name} is missing") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path.parent, f"{path.name}: {str(error).splitlines()[0]}") from None
    if set(arrays) - set(optional) != set(names) or any(array.ndim != 1 or not len(array) for array in arrays.values()):
        raise _damaged(path.parent, f"{path.name} does not hold {', '.join(names)}")
    return arrays


def _damaged(folder: Path, reason: str) -> DataError:
    return DataError(
        f"Dataset {folder.name!r} is damaged ({reason}); remove it with `virtualmle data remove {folder.name}` "
        "and add its file again."
    )


def _all_events(sequences: Sequences) -> Arrays:
    """All events of a time split, since those after the test items are in neither part; else nothing."""
    return {} if sequences.cuts is None else {"items": sequences.items, "offsets": sequences.offsets}


def _write(
    folder: Path, split: str, train: Arrays, sealed: Arrays, whole: Arrays, connection: duckdb.DuckDBPyConnection
) -> str:
    """Writes the files of the stored form and the id tables; returns the content hash."""
    save_file(train, folder / "train.safetensors")
    save_file(sealed, folder / "test.safetensors")
    if whole:
        save_file(whole, folder / _WHOLE)
    digest = ContentHash(split)
    for array in (*train.values(), *sealed.values(), *whole.values()):
        digest.add_array(array)
    for table in TABLES:
        target = str(folder / f"{table}.parquet").replace("'", "''")
        connection.execute(f"COPY (SELECT index, id FROM {table} ORDER BY index) TO '{target}' (FORMAT parquet)")
        digest.add_ids(ids(connection, table))
    return str(digest)
