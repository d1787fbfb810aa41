"""What early stopping saves and what it costs, by replaying rules over recorded full curves of real trainings.

python -m benchmarks.early_stop [--tables DIR] [--seeds 30] [--jobs 2] [--json] [--write]

DIR holds trainings.parquet and the datasets' .txt files (default: replay/ in VIRTUALMLE_TEST_DATA). Honesty: the first
table leaves one dataset out at a time. A family's parameters are those that save most seconds on the other datasets
while the choice is lost in at most 1 % of their studies, and its row counts the left-out datasets only. The families
and the parameters to try were written down with all datasets in view, and so was the choice of the shipped family.
The other tables are of the shipped rule, whose parameters the same criterion picks on all datasets. No test metric
is read.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.stopping_page import Found, page
from benchmarks.stopping_replay import ORDERS, SIZES, Cell, Outcome, play, read_cells, shares, total
from benchmarks.stopping_rules import FAMILIES, SHIPPED

LOST_AT_MOST = 0.01
PAGE = Path(__file__).parents[1] / "docs" / "early-stop.md"

Setting = tuple[str, tuple[float, ...]]
"""A family and its parameters."""
Played = dict[Setting, dict[tuple[str, int], Outcome]]
"""Of one cell: by order and size, summed over the seeds."""


def play_all(cell: Cell, seeds: int, settings: Sequence[Setting]) -> Played:
    """Every setting in every order and size."""
    return {
        (family, values): {
            (order, size): total([play(cell, FAMILIES[family][values], order, size, seed) for seed in range(seeds)])
            for order in ORDERS
            for size in SIZES
        }
        for family, values in settings
    }


def held_out(cells: Sequence[Cell], played: Sequence[Played], family: str) -> dict[str, Setting]:
    """By dataset, the family's setting that is best on the other datasets."""
    found: dict[str, Setting] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        others = [one for cell, one in zip(cells, played, strict=True) if cell.dataset != dataset]
        sums = {values: _pooled(others, (family, values)) for values in FAMILIES[family]}
        found[dataset] = (family, best_setting(sums))
    return found


def best_setting(sums: dict[tuple[float, ...], Outcome]) -> tuple[float, ...]:
    """The parameters that save most seconds at an admissible loss; where none is admissible, those that lose least."""
    told = {values: shares(outcome) for values, outcome in sums.items()}
    good = [values for values in told if told[values]["choice_lost"] <= LOST_AT_MOST]
    if good:
        return max(good, key=lambda values: told[values]["seconds_saved"])
    return min(told, key=lambda values: told[values]["choice_lost"])


def _pooled(played: Sequence[Played], setting: Setting) -> Outcome:
    return total([outcome for one in played for outcome in one[setting].values()])


def summarise(cells: Sequence[Cell], played: Sequence[Played], seeds: int) -> Found:
    """All that the page and --json say."""
    rows = list(zip(cells, played, strict=True))
    families: dict[str, dict[str, float]] = {}
    chosen: dict[str, dict[str, tuple[float, ...]]] = {}
    for family, grid in FAMILIES.items():
        settings = held_out(cells, played, family)
        families[family] = shares(total([_pooled([one], settings[cell.dataset]) for cell, one in rows]))
        on_all = best_setting({values: _pooled(played, (family, values)) for values in grid})
        chosen[family] = {dataset: values for dataset, (_, values) in settings.items()} | {"all": on_all}
    kinds = [(order, size) for order in ORDERS for size in SIZES]
    by_cell = {f"{cell.dataset} {cell.backbone}": shares(_pooled([one], SHIPPED)) for cell, one in rows}
    by_kind = {f"{order}, {n}": shares(total([one[SHIPPED][order, n] for one in played])) for order, n in kinds}
    return Found(
        seeds=seeds,
        studies=seeds * len(kinds) * len(cells),
        lost_at_most=LOST_AT_MOST,
        held_out=families,
        chosen=chosen,
        cells=by_cell | {"all": shares(_pooled(played, SHIPPED))},
        kinds=by_kind,
        settings={
            family: {_words(values): shares(_pooled(played, (family, values))) for values in grid}
            for family, grid in FAMILIES.items()
        },
    )


def _words(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def main(words: Sequence[str] | None = None) -> None:
    """Replays, prints the tables, and with --write keeps them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.early_stop", description="Replay early stopping.")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="trainings.parquet and the datasets it is of")
    parser.add_argument("--seeds", type=int, default=30, help="studies of each kind a cell")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.parent.name}/{PAGE.name}")
    asked = parser.parse_args(words)
    data = os.environ.get("VIRTUALMLE_TEST_DATA")
    if asked.tables is None and data is None:
        parser.error("name the tables with --tables DIR, or the test data with VIRTUALMLE_TEST_DATA")
    cells = read_cells(asked.tables or Path(str(data)) / "replay")
    settings = [(family, values) for family, grid in FAMILIES.items() for values in grid]
    work = partial(play_all, seeds=asked.seeds, settings=settings)
    if asked.jobs > 1:
        with ProcessPoolExecutor(asked.jobs) as pool:
            played = list(pool.map(work, cells))
    else:
        played = [work(cell) for cell in cells]
    found = summarise(cells, played, asked.seeds)
    text = page(found)
    if asked.write:
        PAGE.write_text(text, encoding="utf-8")
    print(json.dumps(asdict(found), indent=1) if asked.json else text)


if __name__ == "__main__":
    main()
