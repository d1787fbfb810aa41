"""The loop of a benchmark: measures the rows that are missing until the time is up, and reports the rest."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.harness.children import ChildFailed
from benchmarks.harness.rows import Row, Store, Value


@dataclass(frozen=True)
class Wanted:
    """A row without its values, and the function that measures them. `measure` may raise ChildFailed."""

    title: str
    row: Row
    measure: Callable[[], dict[str, Value]]


def complete(store: Store, wanted: Iterable[Wanted], minutes: float) -> list[str]:
    """Measures what `store` lacks, starting nothing new after `minutes`; returns a line for each missing row."""
    deadline, missing = time.monotonic() + 60 * minutes, list[str]()
    for item in wanted:
        if store.has(item.row.key):
            continue
        if time.monotonic() >= deadline:
            missing.append(item.title)
            continue
        print(item.title, file=sys.stderr)
        try:
            store.add(replace(item.row, values=item.measure()))
        except ChildFailed as error:
            missing.append(f"{item.title}: {error}")
    return missing


def exit_code(missing: Sequence[str]) -> int:
    """Prints a line for each missing row; returns 1 where there is one, otherwise 0."""
    for line in missing:
        print(f"missing: {line}", file=sys.stderr)
    return 1 if missing else 0
