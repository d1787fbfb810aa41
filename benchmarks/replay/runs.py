"""Replayed studies as resumable rows: one for each start, policy, memory and seed, over all cells with headroom."""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from benchmarks.harness.machine import commit, versions
from benchmarks.harness.rows import RESULTS, Row, Store
from benchmarks.replay.arms import policy
from benchmarks.replay.cells import Cell, cells_of
from benchmarks.replay.generated import family
from benchmarks.replay.loop import play
from benchmarks.replay.measures import Run, worth_of
from benchmarks.replay.memory import NONE, advised, landscape_of
from memory.statistics.landscape import Landscape

ROWS = RESULTS / "replay.jsonl"
TEACHER = "hybrid"
"""The policy of the studies that fill memory. They run without memory."""
LATER = 1000
"""Added to the seed of the studies that fill memory. A table draws its noise by configuration and seed, not by dataset,
so with equal seeds the same configurations would be lucky again."""
CODE = (
    "benchmarks/replay", "server/policies", "server/study", "trainers/contract", "memory/claim.py",
    "memory/advice", "memory/statistics",
)  # fmt: skip
"""The code that a replay depends on."""


@dataclass(frozen=True)
class Settings:
    """The settings that all studies of one call share."""

    tables: Path | None
    """The folder of the tables, None for generated tables."""
    trainings: int
    learned: int
    """The trainings on each other dataset that fill memory."""


@dataclass(frozen=True)
class Unit:
    """A row: one study in each cell of a start."""

    start: str
    policy: str
    memory: str
    seed: int


@cache
def cells(tables: Path | None, start: str) -> list[Cell]:
    """The cells of a start, read once per process. Without tables, `start` names a family of generated ones."""
    if tables is None:
        return family(start)
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        return cells_of(tables, Path(scratch), start)


@cache
def _landscapes_left(settings: Settings, start: str, seed: int) -> dict[str, Landscape]:
    """The landscape that a study of each cell left in memory, by the title of the cell."""
    return {
        cell.title: landscape_of(
            play(cell.table, cell.space, cell.facts, lambda: policy(TEACHER), LATER + seed, settings.learned),
            cell.dataset_hash,
            cell.facts,
            cell.space,
        )
        for cell in cells(settings.tables, start)
    }


def replayed(settings: Settings, unit: Unit) -> list[Run]:
    """Replays the studies of a unit, one for each cell with headroom."""
    runs: list[Run] = []
    for cell in cells(settings.tables, unit.start):
        if not cell.kept:
            continue
        others: list[Landscape] = []
        if unit.memory != NONE:
            landscapes = _landscapes_left(settings, unit.start, unit.seed)
            others = [landscapes[title] for title in _titles_elsewhere(settings, unit.start, cell)]
        replay = play(
            cell.table, cell.space, cell.facts, partial(policy, unit.policy), unit.seed, settings.trainings,
            partial(advised, unit.memory, others, cell, unit.seed),
        )  # fmt: skip
        runs.append(Run(worth_of(replay.steps, cell.means, cell.scale), cell.title, unit.seed))
    return runs


def _titles_elsewhere(settings: Settings, start: str, cell: Cell) -> list[str]:
    """The titles of the cells with the same backbone on other datasets."""
    alike = [other for other in cells(settings.tables, start) if other.space.backbone == cell.space.backbone]
    return [other.title for other in alike if other.title != cell.title]


def complete(
    store: Store, settings: Settings, units: Iterable[Unit], minutes: float, jobs: int
) -> dict[Unit, list[Run]]:
    """The runs of all units that have a row, and of as many others as can be started within `minutes`."""
    deadline = time.monotonic() + 60 * minutes
    rows = {unit: _row(settings, unit) for unit in units}
    missing = [unit for unit, row in rows.items() if not store.has(row.key)]
    with ProcessPoolExecutor(jobs) as pool:
        while missing and time.monotonic() < deadline:
            batch, missing = missing[: 2 * jobs], missing[2 * jobs :]
            for unit, runs in zip(batch, pool.map(partial(replayed, settings), batch), strict=True):
                print(*(str(part) for part in (unit.start, unit.policy, unit.memory, unit.seed)), file=sys.stderr)
                store.add(replace(rows[unit], values={run.cell: _pack(run.worth) for run in runs}))
    stored = {row.key: row for row in store.rows}
    return {
        unit: [Run(_unpack(str(worth)), cell, unit.seed) for cell, worth in stored[row.key].values.items()]
        for unit, row in rows.items()
        if row.key in stored
    }


def _row(settings: Settings, unit: Unit) -> Row:
    taught = "" if unit.memory == NONE else f", {settings.learned} of {TEACHER} elsewhere with seeds from {LATER}"
    return Row(
        name=f"{unit.policy} {unit.memory}", dataset=unit.start, dataset_hash=_digest(settings.tables),
        spec_hash=f"{settings.trainings} trainings{taught}", seed=unit.seed, commit=commit(*CODE),
        hardware="any", versions=versions("numpy", "optuna"), values={},
    )  # fmt: skip


@cache
def _digest(tables: Path | None) -> str:
    if tables is None:
        return "generated"
    digest = hashlib.sha256()
    for path in [tables / "trainings.parquet", *sorted(tables.glob("*.txt"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _pack(worth: Sequence[float]) -> str:
    """Run-length encodes the values, because a leader stays for many trainings."""
    parts: list[tuple[str, int]] = []
    for value in worth:
        text = f"{value:.5f}"
        if parts and parts[-1][0] == text:
            parts[-1] = (text, parts[-1][1] + 1)
        else:
            parts.append((text, 1))
    return " ".join(f"{text}x{count}" for text, count in parts)


def _unpack(text: str) -> tuple[float, ...]:
    values: list[float] = []
    for part in text.split():
        value, _, count = part.partition("x")
        values += [float(value)] * int(count)
    return tuple(values)
