"""Measured rows in JSON lines. A row with a known key is not measured again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[1] / "results"
"""The folder of the rows that the docs quote. It is committed."""

Value = bool | int | float | str | None


class Key(NamedTuple):
    """The values that tell two measurements apart. `commit` is our commit, or the version of a peer's package."""

    name: str
    dataset: str
    dataset_hash: str
    spec_hash: str
    seed: int
    run: int
    epoch: int
    commit: str
    hardware: str
    versions: str


@dataclass(frozen=True)
class Row:
    """One measurement. `run` counts processes, and `epoch` the epochs within one; 0 where that does not apply."""

    name: str
    dataset: str
    dataset_hash: str
    spec_hash: str
    commit: str
    hardware: str
    versions: str
    values: dict[str, Value]
    seed: int = 0
    run: int = 0
    epoch: int = 0
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())

    @property
    def key(self) -> Key:
        return Key(*(getattr(self, name) for name in Key._fields))

    def number(self, name: str) -> float:
        """The value `name`, which must be a number."""
        value = self.values[name]
        assert isinstance(value, int | float), f"{name}={value!r} is no number"
        return float(value)


class Store:
    """The rows of one file. A line that was cut short by an interruption is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = list(_read(path))
        self._keys = {row.key for row in self.rows}

    def has(self, key: Key) -> bool:
        return key in self._keys

    def add(self, row: Row) -> None:
        """Appends `row` and syncs it to disk. Raises ValueError where its key exists already."""
        if row.key in self._keys:
            raise ValueError(f"there is a row for {row.key!r} in {self.path.name} already")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            cut = file.tell() > 0 and self.path.read_bytes()[-1:] != b"\n"
            file.write((b"\n" if cut else b"") + json.dumps(asdict(row), ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        self._keys.add(row.key)


def _read(path: Path) -> Iterator[Row]:
    names = {column.name for column in fields(Row)}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            values: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        yield Row(**{name: value for name, value in values.items() if name in names})
