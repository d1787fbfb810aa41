"""The description of a stored dataset, dataset.json, and the arrays beside it; moves older forms to the present one."""

from __future__ import annotations

import contextlib
import json
import secrets
from pathlib import Path
from typing import Any

import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

from trainers.contract.regular_files import check_regular, read_regular
from trainers.data.content import SEALED, TEST, TRAIN, WHOLE, checksums
from trainers.data.dataset import Dataset
from trainers.data.errors import DataError, foreign
from trainers.data.facts import repeating_users


def read_description(folder: Path) -> Dataset:
    try:
        values = json.loads(read_regular(folder / "dataset.json"))
        dataset = Dataset.model_validate({**values, "path": folder, "name": folder.name})
        return dataset if values.get("version", 1) > 1 else _migrated(dataset)
    except FileNotFoundError:
        raise DataError(f"{str(folder)!r} holds no dataset: dataset.json is missing.") from None
    except OSError as error:
        raise foreign("Reading", folder, error) from None
    except (ValidationError, ValueError, TypeError, RecursionError) as error:
        raise damaged(folder, f"dataset.json: {str(error).splitlines()[0]}") from None


def _migrated(dataset: Dataset) -> Dataset:
    """A dataset of version 1 in the present form, with its content hash: its sealed arrays get a folder of their own.

    Each step can be repeated, so that one that was interrupted is finished by the next reader. Raises OSError.
    """
    folder = dataset.path
    (folder / SEALED).mkdir(exist_ok=True)
    (folder / SEALED).chmod(0o700)
    for name in (TEST, WHOLE):
        with contextlib.suppress(FileNotFoundError):
            (folder / Path(name).name).rename(folder / name)
    facts = dataset.facts
    with contextlib.suppress(DataError):
        arrays = load_arrays(folder, TRAIN, ("items", "offsets", "validation"), ("validated",))
        facts = facts.model_copy(update={"repeating_users": repeating_users(arrays["items"], arrays["offsets"])})
    dataset = dataset.model_copy(update={"facts": facts, "checksums": checksums(folder)})
    write_description(folder, dataset)
    return dataset


def write_description(folder: Path, dataset: Dataset) -> None:
    """Writes dataset.json in one step."""
    text = json.dumps({"version": 2, **dataset.model_dump(mode="json")}, indent=1)
    written = folder / f".dataset-{secrets.token_hex(6)}.json"
    written.write_text(text + "\n", encoding="utf-8")
    written.chmod(0o600)
    written.replace(folder / "dataset.json")


def load_arrays(
    folder: Path, file: str, names: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, npt.NDArray[Any]]:
    path = folder / file
    try:
        check_regular(path)
        arrays = load_file(path)
    except FileNotFoundError:
        raise damaged(folder, f"{path.name} is missing") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise damaged(folder, f"{path.name}: {str(error).splitlines()[0]}") from None
    if set(arrays) - set(optional) != set(names) or any(array.ndim != 1 or not len(array) for array in arrays.values()):
        raise damaged(folder, f"{path.name} does not hold {', '.join(names)}")
    return arrays


def damaged(folder: Path, reason: str) -> DataError:
    return DataError(
        f"Dataset {folder.name!r} is damaged ({reason}); remove it with `virtualmle data remove {folder.name}` "
        "and add its file again."
    )
