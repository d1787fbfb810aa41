"""The stored form of datasets: a folder each, renamed into place when complete, so none is seen half-written."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

from trainers.contract.regular_files import check_regular
from trainers.data.content import (
    SEALED,
    TABLES,
    TEST,
    TRAIN,
    WHOLE,
    ContentHash,
    changed,
    check_file,
    checksums,
    ids,
    training_hash,
)  # fmt: skip
from trainers.data.dataset import SPLIT, Dataset, ImportReport, Sequences, TrainingData
from trainers.data.description import damaged, load_arrays, read_description, write_description
from trainers.data.errors import NAME_PATTERN, DataError, check_name, foreign
from trainers.data.facts import facts_of
from trainers.data.held_out import HeldOut
from trainers.data.split import Arrays, parts
from trainers.data.staging import Staging, publish, throw_away

ITEMS = "items.parquet"
"""The file of item numbers and ids, in the columns index and id."""


def find(datasets_dir: Path, name: str) -> Dataset:
    """The dataset called `name`. Raises DataError with the nearest name and the existing ones."""
    check_name(name)
    if (datasets_dir / name / "dataset.json").is_file():
        return read_description(datasets_dir / name)
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
                datasets.append(read_description(folder))
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
    recipe: str | None = None,
    dry_run: bool = False,
) -> Dataset:
    """Stores sequences as the dataset `name` beside the staging folder; if the same content is there, it stays as is.

    The connection of `staging` holds the tables users and items (index, id). A `dry_run` stores nothing. Raises
    DataError if `name` has other content.
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
        cold=_cold(sequences, train, sealed),
        tested_users=len(sealed["test"]) if "users" in sealed else None,
        updates=updates,
        recipe=recipe,
        synthetic=synthetic,
    )
    if dry_run:
        return dataset
    dataset = dataset.model_copy(update={"checksums": checksums(folder)})
    write_description(folder, dataset)
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
    dataset = read_description(folder)
    facts = dataset.facts
    arrays = load_arrays(folder, TRAIN, ("items", "offsets", "validation"), ("validated", "times"))
    items, offsets, validation = arrays["items"], arrays["offsets"], arrays["validation"]
    validated, times = arrays.get("validated"), arrays.get("times")
    valid = (
        _packed(items, offsets, facts.items)
        and len(offsets) == facts.users + 1
        and validation.dtype == np.int32
        and bool(validation.min() >= 0 and validation.max() < facts.items)
        and len(validation) == (facts.users if validated is None else len(validated))
        and (validated is None or _increasing(validated, facts.users))
        and (times is None or (times.dtype, len(times)) == (np.float64, len(items)))
    )
    if not valid:
        raise damaged(folder, "train.safetensors does not fit dataset.json")
    if expected_hash is not None and (found := training_hash(dataset.split, arrays)) != expected_hash:
        raise changed(folder, f"train.safetensors has the hash {found!r}, not {expected_hash!r}")
    check_file(dataset, TRAIN)
    return TrainingData(items, offsets, validation, facts.items, facts, validated, times)


def load_test(folder: Path) -> HeldOut:
    """The sealed test items, each with all earlier items of its user; no training reads them. Raises DataError."""
    dataset = read_description(folder)
    facts = dataset.facts
    arrays = load_arrays(folder, TEST, ("test",), ("items", "offsets", "users"))
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
        raise damaged(folder, "test.safetensors does not fit dataset.json")
    check_file(dataset, TEST)
    untrained = arrays["users"] >= facts.users if "users" in arrays else None
    return HeldOut(items, offsets, test, untrained if untrained is not None and untrained.any() else None)


def load_whole(folder: Path) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """All events of the dataset in `folder`, including sealed ones: items (N,) and offsets (users + 1,).

    They serve to train on everything once a study is finished; such weights get no test score. Raises DataError.
    """
    dataset = read_description(folder)
    if dataset.split == SPLIT:
        test = load_test(folder)
        items = np.insert(test.items, test.offsets[1:], test.targets)
        return items, test.offsets + np.arange(len(test.offsets))
    if not (folder / WHOLE).exists():
        raise DataError(
            f"Dataset {folder.name!r} was added by a version that kept no events after the test items: remove it and "
            "add its file again."
        )
    arrays = load_arrays(folder, WHOLE, ("items", "offsets"))
    items, offsets = arrays["items"], arrays["offsets"]
    if not _packed(items, offsets, dataset.facts.items):
        raise damaged(folder, f"{WHOLE} does not fit dataset.json")
    check_file(dataset, WHOLE)
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
        raise damaged(folder, f"{ITEMS}: {reason}") from None
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


def _all_events(sequences: Sequences) -> Arrays:
    """All events of a time split, since those after the test items are in neither part; else nothing."""
    return {} if sequences.cuts is None else {"items": sequences.items, "offsets": sequences.offsets}


def _cold(sequences: Sequences, train: Arrays, sealed: Arrays) -> dict[str, int]:
    """Numbers of users and items that only appear after the training period, and of users tested without training."""
    if "users" not in sealed:
        return dict(sequences.cold)
    untrained = np.count_nonzero(sealed["users"].astype(np.int64) >= len(train["offsets"]) - 1)
    return {**sequences.cold, "tested": int(untrained)}


def _write(
    folder: Path, split: str, train: Arrays, sealed: Arrays, whole: Arrays, connection: duckdb.DuckDBPyConnection
) -> str:
    """Writes the files of the stored form and the id tables; returns the content hash."""
    (folder / SEALED).mkdir()
    save_file(train, folder / TRAIN)
    save_file(sealed, folder / TEST)
    if whole:
        save_file(whole, folder / WHOLE)
    digest = ContentHash(split)
    hashed = [array for name, array in train.items() if name != "times"]
    for array in (*hashed, *sealed.values(), *whole.values()):
        digest.add_array(array)
    for table in TABLES:
        target = str(folder / f"{table}.parquet").replace("'", "''")
        connection.execute(f"COPY (SELECT index, id FROM {table} ORDER BY index) TO '{target}' (FORMAT parquet)")
        digest.add_ids(ids(connection, table))
    return str(digest)
