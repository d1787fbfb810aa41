"""The dataset files that the benchmarks run on, and their stored form in a scratch folder."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.harness.task import Arrays
from trainers.data import Dataset, add, ensure, load_training
from trainers.data.demo import DEMO

VARIABLE = "VIRTUALMLE_TEST_DATA"


def folder_of(option: Path | None) -> Path:
    """The folder of `user item item …` files, from the option or the environment variable. Exits without either."""
    folder = option or Path(os.environ.get(VARIABLE, ""))
    if (option is None and not os.environ.get(VARIABLE)) or not folder.is_dir():
        sys.exit(f"No folder of dataset files: give --data DIR or set {VARIABLE}; got {str(folder)!r}.")
    return folder


def names_in(folder: Path) -> list[str]:
    """The names of the datasets in `folder`."""
    return sorted(path.stem for path in folder.glob("*.txt"))


def stored(datasets: Path, data: Path | None, name: str) -> Dataset:
    """The dataset `name` in the folder `datasets`, imported from its file if it is not there yet."""
    if name == DEMO:
        return ensure(datasets, name)
    path = folder_of(data) / f"{name}.txt"
    if not path.is_file():
        sys.exit(
            f"There is no {path.name!r} in the data folder; it holds {', '.join(names_in(path.parent)) or 'none'}."
        )
    return add(datasets, name, path)


def arrays_of(dataset: Dataset) -> Arrays:
    """The training split as arrays that other interpreters can read."""
    data = load_training(dataset.path)
    return Arrays(data.items, data.offsets, data.validation, data.num_items)


def options(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"folder of dataset files; default: ${VARIABLE}")
    parser.add_argument("--minutes", type=float, default=float("inf"), metavar="N", help="start nothing new after N")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each training")
    parser.add_argument("--results", type=Path, metavar="FILE", help="the file of rows")
    return parser
