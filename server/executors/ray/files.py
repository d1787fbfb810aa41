"""The owner's side of what travels to a node and back: files of a run directory, code and datasets."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import trainers
from server.executors.base import write_whole
from server.executors.needs import dataset_files, needs_of
from server.executors.ray.node import GROWING, PASSING
from trainers.contract.regular_files import append_regular, is_regular
from trainers.contract.wire import ATTEMPT_FILE, RESULT_FILES, SPEC_FILE, ChildTask
from trainers.data import find_by_hash
from trainers.data.errors import DataError

EPOCHS, LOG = GROWING
_PACKAGES = ("server", "trainers")
_OURS = (*GROWING, SPEC_FILE)
"""Files that are never overwritten with a node's version."""


@dataclass(frozen=True)
class Parcel:
    """A folder as a zip file. `digest` is its SHA-256, by which a node recognises a parcel that it already has."""

    kind: str
    name: str
    digest: str
    content: bytes


@cache
def code() -> Parcel:
    """The packages that run a training on a node."""
    root = Path(trainers.__file__).resolve().parent.parent
    paths = (path for package in _PACKAGES for path in (root / package).rglob("*") if path.is_file())
    return _parcel("code", "", root, (path for path in paths if "__pycache__" not in path.parts))


def dataset(datasets: Path, directory: Path, task: ChildTask) -> Parcel | None:
    """The files of a dataset that a task reads; None where there is none, which the training itself will report."""
    content_hash = needs_of(directory, task).dataset_hash
    try:
        stored = find_by_hash(datasets, content_hash or "")
    except DataError:
        return None
    return _dataset(stored.path, stored.content_hash, dataset_files(directory, task, datasets))


@lru_cache(maxsize=4)
def _dataset(folder: Path, content_hash: str, files: tuple[Path, ...]) -> Parcel:
    return _parcel("dataset", folder.name, folder, files)


def _parcel(kind: str, name: str, root: Path, paths: Iterable[Path]) -> Parcel:
    """Zips files so that the same files give the same bytes, wherever and whenever they were written."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for path in sorted(paths):
            archive.writestr(zipfile.ZipInfo(path.relative_to(root).as_posix()), path.read_bytes())
    content = written.getvalue()
    return Parcel(kind, name, hashlib.sha256(content).hexdigest(), content)


class RunFiles:
    """The files of a run directory while nodes work on it."""

    def __init__(self, directory: Path, task: ChildTask) -> None:
        self.directory = directory
        self.needs = needs_of(directory, task)
        self._not_sent = {*GROWING, ATTEMPT_FILE, RESULT_FILES[task]}
        self._last_epoch = 0

    def to_send(self) -> dict[str, bytes]:
        """Contents by path under the trials: its own files, and those of the trials that it reads. Raises OSError."""
        own_files = [path for path in self.directory.iterdir() if path.name not in self._not_sent]
        needed_files = [path for folder in self.needs.trials for path in folder.iterdir() if path.name != LOG]
        contents: dict[str, bytes] = {}
        for path in (*own_files, *needed_files):
            if is_regular(path) and path.suffix not in PASSING:
                with suppress(FileNotFoundError):  # the weights of a trial that were removed meanwhile
                    contents[f"{path.parent.name}/{path.name}"] = path.read_bytes()
        return contents

    def take(self, grown: Mapping[str, bytes], whole: Mapping[str, bytes]) -> None:
        """Writes what a node has sent. Raises OSError.

        A node that resumes a lost training may repeat epochs: those already recorded stay as they are.
        """
        if EPOCHS in grown:
            self._append(EPOCHS, b"".join(line for line in grown[EPOCHS].splitlines(True) if self._is_new(line)))
        if LOG in grown:
            self._append(LOG, grown[LOG])
        for name, content in whole.items():
            if name not in _OURS and Path(name).name == name:
                write_whole(self.directory / name, content)

    def note(self, line: str) -> None:
        """Adds a line to the log. Raises OSError."""
        self._append(LOG, f"{line}\n".encode())

    def _append(self, name: str, content: bytes) -> None:
        with append_regular(self.directory / name) as file:
            file.write(content)

    def _is_new(self, line: bytes) -> bool:
        epoch = int(json.loads(line)["epoch"])
        if epoch <= self._last_epoch:
            return False
        self._last_epoch = epoch
        return True
