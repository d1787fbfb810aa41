"""The loop of a benchmark: what has no row yet is measured, until the time is up; what is still missing is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.children import ChildFailed
from benchmarks.rows import Row, Store, Value


@dataclass(frozen=True)
class Wanted:
    """A row without its values, and what measures them; `measure` may raise ChildFailed."""

    title: str
    row: Row
    measure: Callable[[], dict[str, Value]]


def complete(store: Store, wanted: Iterable[Wanted], minutes: float) -> list[str]:
    """Measures what `store` lacks, starting nothing new after `minutes`; a line for each that is still missing."""
    until, left = time.monotonic() + 60 * minutes, list[str]()
    for one in wanted:
        if store.has(one.row.key):
            continue
        if time.monotonic() >= until:
            left.append(one.title)
            continue
        print(one.title, file=sys.stderr)
        try:
            store.add(replace(one.row, values=one.measure()))
        except ChildFailed as error:
            left.append(f"{one.title}: {error}")
    return left


def exit_code(left: Sequence[str]) -> int:
    """1, after a line each, where something is missing."""
    for line in left:
        print(f"missing: {line}", file=sys.stderr)
    return 1 if left else 0
