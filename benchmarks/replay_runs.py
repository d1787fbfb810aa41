"""Replayed studies as resumable rows: one for each start, policy, memory and seed, with all cells that count."""

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

from benchmarks.machine import commit, versions
from benchmarks.replay_arms import policy
from benchmarks.replay_cells import Cell, cells_of
from benchmarks.replay_generated import family
from benchmarks.replay_loop import play
from benchmarks.replay_measures import Run, worth_of
from benchmarks.replay_memory import NONE, advised, landscape_of
from benchmarks.rows import RESULTS, Row, Store
from memory.landscape import Landscape

ROWS = RESULTS / "replay.jsonl"
TEACHER = "hybrid"
"""The policy of the studies that filled memory; without any itself."""
LATER = 1000
"""Added to a study's seed where memory is filled: a table draws luck by configuration and seed, whatever the dataset,
and what was lucky there must not be lucky here again."""
CODE = (
    "benchmarks/replay_*.py", "server/policies", "server/studies.py", "server/admission.py", "trainers/space.py",
    "memory/claims.py", "memory/distill.py", "memory/effects.py", "memory/elsewhere.py", "memory/landscape.py",
    "memory/noise.py", "memory/priors.py", "memory/retrieval.py", "memory/verdict.py",
)  # fmt: skip
"""What a replay depends on."""


@dataclass(frozen=True)
class Settings:
    """What all studies of one call share."""

    tables: Path | None
    """None for generated ones."""
    trainings: int
    learned: int
    """Trainings on each other dataset, where memory is filled."""


@dataclass(frozen=True)
class Unit:
    """One study in each cell of a start."""

    start: str
    policy: str
    memory: str
    seed: int


@cache
def cells(tables: Path | None, start: str) -> list[Cell]:
    """Read once in each process; without tables, `start` is a family of generated ones."""
    if tables is None:
        return family(start)
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        return cells_of(tables, Path(scratch), start)


@cache
def _taught(settings: Settings, start: str, seed: int) -> dict[str, Landscape]:
    """By cell: what a study of it left in memory."""
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
    """The unit's studies, one for each cell with headroom."""
    found: list[Run] = []
    for cell in cells(settings.tables, unit.start):
        if not cell.kept:
            continue
        others: list[Landscape] = []
        if unit.memory != NONE:
            left = _taught(settings, unit.start, unit.seed)
            others = [left[other] for other in _others(settings, unit.start, cell)]
        book = play(
            cell.table, cell.space, cell.facts, partial(policy, unit.policy), unit.seed, settings.trainings,
            partial(advised, unit.memory, others, cell, unit.seed),
        )  # fmt: skip
        found.append(Run(worth_of(book.steps, cell.means, cell.scale), cell.title, unit.seed))
    return found


def _others(settings: Settings, start: str, cell: Cell) -> list[str]:
    """The cells of the same backbone on other datasets."""
    alike = [one for one in cells(settings.tables, start) if one.space.backbone == cell.space.backbone]
    return [one.title for one in alike if one.title != cell.title]


def complete(
    store: Store, settings: Settings, units: Iterable[Unit], minutes: float, jobs: int
) -> dict[Unit, list[Run]]:
    """The runs of every unit: those that have a row, and as many others as can be begun within `minutes`."""
    until = time.monotonic() + 60 * minutes
    rows = {unit: _row(settings, unit) for unit in units}
    missing = [unit for unit, row in rows.items() if not store.has(row.key)]
    with ProcessPoolExecutor(jobs) as pool:
        while missing and time.monotonic() < until:
            now, missing = missing[: 2 * jobs], missing[2 * jobs :]
            for unit, runs in zip(now, pool.map(partial(replayed, settings), now), strict=True):
                print(*(str(part) for part in (unit.start, unit.policy, unit.memory, unit.seed)), file=sys.stderr)
                store.add(replace(rows[unit], values={run.cell: _packed(run.worth) for run in runs}))
    known = {row.key: row for row in store.rows}
    return {
        unit: [Run(_unpacked(str(worth)), cell, unit.seed) for cell, worth in known[row.key].values.items()]
        for unit, row in rows.items()
        if row.key in known
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
    found = hashlib.sha256()
    for path in [tables / "trainings.parquet", *sorted(tables.glob("*.txt"))]:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _packed(worth: Sequence[float]) -> str:
    """Each value with how often it stands in a row: a leader keeps for long."""
    parts: list[tuple[str, int]] = []
    for value in worth:
        text = f"{value:.5f}"
        if parts and parts[-1][0] == text:
            parts[-1] = (text, parts[-1][1] + 1)
        else:
            parts.append((text, 1))
    return " ".join(f"{text}x{count}" for text, count in parts)


def _unpacked(text: str) -> tuple[float, ...]:
    found: list[float] = []
    for part in text.split():
        value, _, count = part.partition("x")
        found += [float(value)] * int(count)
    return tuple(found)
