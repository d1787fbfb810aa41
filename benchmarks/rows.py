"""Measured rows in JSON lines: whatever stands there under its key is not measured again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
"""Where the rows are kept that the docs quote; committed."""

Value = bool | int | float | str | None


class Key(NamedTuple):
    """What makes a measurement another one. `commit` is the code's: ours, or the version of somebody else's package."""

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
    """One measurement. `run` counts processes and `epoch` epochs within one; 0 where there is no such thing."""

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
    """The rows of one file. A line that an interruption cut short is as if it were not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = list(_read(path))
        self._keys = {row.key for row in self.rows}

    def has(self, key: Key) -> bool:
        return key in self._keys

    def add(self, row: Row) -> None:
        """Appends `row`, on disk before this returns. ValueError where there is one under its key."""
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
    names = {one.name for one in fields(Row)}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        yield Row(**{name: value for name, value in found.items() if name in names})
