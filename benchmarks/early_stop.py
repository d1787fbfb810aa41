"""How much early stopping saves and costs: rules replayed over recorded full curves of real trainings.

python -m benchmarks.early_stop [--tables DIR] [--seeds 30] [--jobs 2] [--json] [--write]

DIR holds trainings.parquet and the datasets' .txt files (default: replay/ in VIRTUALMLE_TEST_DATA). The first table
leaves out one dataset at a time. A family's parameters are those that save the most seconds on the other datasets, with
the choice lost in at most 1 % of their studies. Its row counts only the left-out datasets. The families, the parameters
to try and the shipped family were chosen with all datasets in view. The other tables show the shipped rule, with the
parameters that the same criterion picks on all datasets. No test metric is read.
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

from benchmarks.stopping.page import Results, page
from benchmarks.stopping.replay import ORDERS, SIZES, Cell, Outcome, play, read_cells, shares, total
from benchmarks.stopping.rules import FAMILIES, SHIPPED

LOST_AT_MOST = 0.01
PAGE = Path(__file__).parents[1] / "docs" / "results" / "early-stop.md"

Setting = tuple[str, tuple[float, ...]]
"""The name of a family of rules, and its parameters."""
CellOutcomes = dict[Setting, dict[tuple[str, int], Outcome]]
"""The outcomes of one cell, by setting, then by order and size; summed over the seeds."""


def play_all(cell: Cell, seeds: int, settings: Sequence[Setting]) -> CellOutcomes:
    """Replays every setting in every order and size."""
    return {
        (family, values): {
            (order, size): total([play(cell, FAMILIES[family][values], order, size, seed) for seed in range(seeds)])
            for order in ORDERS
            for size in SIZES
        }
        for family, values in settings
    }


def held_out(cells: Sequence[Cell], outcomes_by_cell: Sequence[CellOutcomes], family: str) -> dict[str, Setting]:
    """For each dataset, the setting of the family that is best on the other datasets."""
    best: dict[str, Setting] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        others = [outcomes for cell, outcomes in zip(cells, outcomes_by_cell, strict=True) if cell.dataset != dataset]
        sums = {values: _pooled(others, (family, values)) for values in FAMILIES[family]}
        best[dataset] = (family, best_setting(sums))
    return best


def best_setting(sums: dict[tuple[float, ...], Outcome]) -> tuple[float, ...]:
    """The parameters that save the most seconds with an acceptable loss; without any, those that lose the least."""
    summaries = {values: shares(outcome) for values, outcome in sums.items()}
    acceptable = [values for values in summaries if summaries[values]["choice_lost"] <= LOST_AT_MOST]
    if acceptable:
        return max(acceptable, key=lambda values: summaries[values]["seconds_saved"])
    return min(summaries, key=lambda values: summaries[values]["choice_lost"])


def _pooled(outcomes_by_cell: Sequence[CellOutcomes], setting: Setting) -> Outcome:
    return total([outcome for outcomes in outcomes_by_cell for outcome in outcomes[setting].values()])


def summarise(cells: Sequence[Cell], outcomes_by_cell: Sequence[CellOutcomes], seeds: int) -> Results:
    """Everything that the page and --json show."""
    rows = list(zip(cells, outcomes_by_cell, strict=True))
    families: dict[str, dict[str, float]] = {}
    chosen: dict[str, dict[str, tuple[float, ...]]] = {}
    for family, grid in FAMILIES.items():
        settings = held_out(cells, outcomes_by_cell, family)
        families[family] = shares(total([_pooled([outcomes], settings[cell.dataset]) for cell, outcomes in rows]))
        on_all = best_setting({values: _pooled(outcomes_by_cell, (family, values)) for values in grid})
        chosen[family] = {dataset: values for dataset, (_, values) in settings.items()} | {"all": on_all}
    kinds = [(order, size) for order in ORDERS for size in SIZES]
    by_cell = {f"{cell.dataset} {cell.backbone}": shares(_pooled([outcomes], SHIPPED)) for cell, outcomes in rows}
    by_kind = {
        f"{order}, {n}": shares(total([outcomes[SHIPPED][order, n] for outcomes in outcomes_by_cell]))
        for order, n in kinds
    }
    return Results(
        seeds=seeds,
        studies=seeds * len(kinds) * len(cells),
        lost_at_most=LOST_AT_MOST,
        held_out=families,
        chosen=chosen,
        cells=by_cell | {"all": shares(_pooled(outcomes_by_cell, SHIPPED))},
        kinds=by_kind,
        settings={
            family: {_parameters_text(values): shares(_pooled(outcomes_by_cell, (family, values))) for values in grid}
            for family, grid in FAMILIES.items()
        },
    )


def _parameters_text(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def main(words: Sequence[str] | None = None) -> None:
    """Replays, prints the tables, and writes them with --write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.early_stop", description="Replay early stopping.")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="trainings.parquet and the datasets it is of")
    parser.add_argument("--seeds", type=int, default=30, help="studies of each kind a cell")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.parent.name}/{PAGE.name}")
    options = parser.parse_args(words)
    data = os.environ.get("VIRTUALMLE_TEST_DATA")
    if options.tables is None and data is None:
        parser.error("name the tables with --tables DIR, or the test data with VIRTUALMLE_TEST_DATA")
    cells = read_cells(options.tables or Path(str(data)) / "replay")
    settings = [(family, values) for family, grid in FAMILIES.items() for values in grid]
    replay_cell = partial(play_all, seeds=options.seeds, settings=settings)
    if options.jobs > 1:
        with ProcessPoolExecutor(options.jobs) as pool:
            outcomes_by_cell = list(pool.map(replay_cell, cells))
    else:
        outcomes_by_cell = [replay_cell(cell) for cell in cells]
    summary = summarise(cells, outcomes_by_cell, options.seeds)
    text = page(summary)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    print(json.dumps(asdict(summary), indent=1) if options.json else text)


if __name__ == "__main__":
    main()
