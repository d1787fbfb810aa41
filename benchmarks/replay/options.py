"""The options that the benchmarks on tables share, and the studies that they replay."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.rows import Store
from benchmarks.replay.arms import MODEL, NAMES, unknown
from benchmarks.replay.cells import STARTS
from benchmarks.replay.generated import FAMILIES
from benchmarks.replay.measures import Run
from benchmarks.replay.runs import ROWS, Settings, Unit, cells, complete

DOCS = Path(__file__).parents[2] / "docs" / "results"


def arguments_of(words: Sequence[str] | None, description: str | None, policies: str) -> argparse.Namespace:
    """Parses the arguments of both benchmarks on tables."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--tables", type=Path, metavar="DIR", help="trainings.parquet and NAME.txt files")
    where.add_argument("--generated", action="store_true", help="tables that are generated, for what memory can know")
    parser.add_argument(
        "--policies", default=policies, metavar="A,B", help=f"of {', '.join(NAMES)}, {MODEL}NAME; with +racing"
    )
    parser.add_argument("--seeds", type=int, default=30, metavar="N")
    parser.add_argument("--trainings", type=int, default=40, metavar="N", help="replicates count, too")
    parser.add_argument("--learned", type=int, default=30, metavar="N", help="trainings on each other dataset")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes")
    parser.add_argument("--minutes", type=float, default=600.0, metavar="N", help="then nothing new is begun")
    parser.add_argument("--rows", type=Path, default=ROWS, metavar="FILE", help="where studies are kept")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON")
    parser.add_argument("--write", action="store_true", help="write the page in docs/results/")
    options = parser.parse_args(words)
    options.names = options.policies.split(",")
    options.starts = FAMILIES if options.generated else STARTS
    options.where = "--generated" if options.generated else "--tables DIR"
    if options.tables is not None and not (options.tables / "trainings.parquet").is_file():
        parser.error(f"--tables {options.tables} has no trainings.parquet; benchmarks.table makes such a folder")
    if unknown_names := unknown(options.names):
        parser.error(f"--policies: there is no {', '.join(unknown_names)}; there are {', '.join(NAMES)}")
    return options


def replay_units(options: argparse.Namespace, memories: Sequence[str]) -> tuple[dict[Unit, list[Run]], list[str]]:
    """Replays every start, policy, memory and seed. Returns the runs, and a line for each unit that is missing."""
    settings = Settings(options.tables, options.trainings, options.learned)
    starts = [start for start in options.starts if any(cell.kept for cell in cells(options.tables, start))]
    units = [
        Unit(start, name, memory, seed)
        for start in starts
        for seed in range(options.seeds)
        for memory in memories
        for name in options.names
    ]
    runs = complete(Store(options.rows), settings, units, options.minutes, options.jobs)
    return runs, [f"{unit.start} {unit.policy} {unit.memory} {unit.seed}" for unit in units if unit not in runs]


def titles_of(tables: Path | None, start: str) -> dict[str, list[str]]:
    """The titles of the cells with and without headroom."""
    all_cells = cells(tables, start)
    return {
        "cells": [cell.title for cell in all_cells if cell.kept],
        "dropped": [cell.title for cell in all_cells if not cell.kept],
    }
