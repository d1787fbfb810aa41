"""Search policies replayed on tables of finished trainings: trainings to a target, success and regret, by policy.

python -m benchmarks.replay --tables DIR [--policies random,tpe,playbook] [--seeds 30] [--trainings 40] [--jobs 2]
                            [--minutes N] [--json] [--write]

Every study that was replayed is kept as a row, so a call that was cut short goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.measuring import exit_code
from benchmarks.replay_arms import MODEL, NAMES, unknown
from benchmarks.replay_cells import STARTS
from benchmarks.replay_curves import picture
from benchmarks.replay_generated import FAMILIES
from benchmarks.replay_measures import Run, expected_running_time, interval, success_rate
from benchmarks.replay_memory import NONE
from benchmarks.replay_runs import ROWS, Settings, Unit, cells, complete
from benchmarks.rows import Store
from benchmarks.tables import table

DOCS = Path(__file__).parents[1] / "docs"
TARGETS = (0.5, 0.75, 0.9)
REGRETS = (5, 10, 20, 30)
POLICIES = "grid,random,random+racing,tpe,tpe+racing,cma-es+racing,playbook,hybrid,gp"
HEAD = """# Search policies, replayed

What each policy needs on tables of finished trainings, without memory of other datasets. Every study begins with the
same default, every training counts, replicates too, and a hit is judged by the table's mean of the configuration that
leads, not by the score that was seen. ERT: trainings that all studies spent until they hit, by each hit. `+racing`: the
policy's leaders are trained on a second seed before it goes on, as `playbook`, `hybrid` and `gp` do of themselves.

"""


def summary(runs: Sequence[Run], budget: int) -> dict[str, Any]:
    """The numbers of one policy."""
    times = {target: expected_running_time(runs, target, budget) for target in TARGETS}
    return {
        "ert": {f"{target:g}": times[target] for target in TARGETS},
        "interval": interval(runs, TARGETS[-1], budget, Random(0)),
        "success": {f"{target:g}": success_rate(runs, target) for target in TARGETS},
        "regret": {str(count): fmean(run.regret(count) for run in runs) for count in REGRETS},
        "runs": len(runs),
    }


def lines_of(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The table's lines: fewest trainings to the last target first."""
    lines: list[list[str]] = []
    for name, one in sorted(found.items(), key=lambda pair: pair[1]["ert"][f"{TARGETS[-1]:g}"] or float("inf")):
        low, high = one["interval"]
        ends = f"{_trainings(low)} – {_trainings(high)}"
        times = [_trainings(time) for time in one["ert"].values()]
        lines.append([name, *times, ends, f"{one['success'][f'{TARGETS[-1]:g}']:.0%}",
                      *(f"{regret:.2f}" for regret in one["regret"].values())])  # fmt: skip
    return lines


def _trainings(count: float | None) -> str:
    return "∞" if count is None else f"{count:.1f}"


def page(answer: dict[str, Any], seeds: int, trainings: int) -> str:
    """A table for each start."""
    heads = ["policy", *(f"ERT {target:.0%}" for target in TARGETS), f"95 % of ERT {TARGETS[-1]:.0%}"]
    heads += [f"success {TARGETS[-1]:.0%}", *(f"regret at {count}" for count in REGRETS)]
    parts: list[str] = []
    for start, found in answer.items():
        dropped = f" Without headroom, and left out: {', '.join(found['dropped'])}." if found["dropped"] else ""
        parts.append(
            f"## From `{start}`\n\nTrainings, replicates included, until the leader's mean in the table is so much of "
            f"the way from start to best; {seeds} seeds in each of {', '.join(found['cells']) or 'no cell'}; at most "
            f"{trainings} trainings a study.{dropped}\n\n{table(heads, lines_of(found['policies']))}\n"
        )
    return "\n".join(parts)


def arguments_of(words: Sequence[str] | None, description: str | None, policies: str) -> argparse.Namespace:
    """What both benchmarks on tables are asked."""
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
    parser.add_argument("--write", action="store_true", help="write the page in docs/")
    given = parser.parse_args(words)
    given.names = given.policies.split(",")
    given.starts = FAMILIES if given.generated else STARTS
    given.where = "--generated" if given.generated else "--tables DIR"
    if given.tables is not None and not (given.tables / "trainings.parquet").is_file():
        parser.error(f"--tables {given.tables} has no trainings.parquet; benchmarks.table makes such a folder")
    if wrong := unknown(given.names):
        parser.error(f"--policies: there is no {', '.join(wrong)}; there are {', '.join(NAMES)}")
    return given


def measured(given: argparse.Namespace, memories: Sequence[str]) -> tuple[dict[Unit, list[Run]], list[str]]:
    """The runs of every start, policy, memory and seed, and a line for each that is missing."""
    settings = Settings(given.tables, given.trainings, given.learned)
    starts = [start for start in given.starts if any(cell.kept for cell in cells(given.tables, start))]
    units = [
        Unit(start, name, memory, seed)
        for start in starts
        for seed in range(given.seeds)
        for memory in memories
        for name in given.names
    ]
    found = complete(Store(given.rows), settings, units, given.minutes, given.jobs)
    return found, [f"{one.start} {one.policy} {one.memory} {one.seed}" for one in units if one not in found]


def names_of(tables: Path | None, start: str) -> dict[str, list[str]]:
    """The cells with and without headroom."""
    found = cells(tables, start)
    return {"cells": [cell.title for cell in found if cell.kept], "dropped": [c.title for c in found if not c.kept]}


def main(words: Sequence[str] | None = None) -> int:
    given = arguments_of(words, __doc__, POLICIES)
    found, missing = measured(given, [NONE])
    page_name = "replay-generated" if given.generated else "replay"
    answer: dict[str, Any] = {}
    for start in given.starts:
        runs: dict[str, list[Run]] = {}
        for unit, its in found.items():
            if unit.start == start:
                runs.setdefault(unit.policy, []).extend(its)
        policies = {name: summary(its, given.trainings) for name, its in runs.items()}
        answer[start] = {**names_of(given.tables, start), "policies": policies}
        if given.write and runs and not missing:
            drawing = picture(
                runs, given.trainings, TARGETS[-1], f"Studies from {start} that reached {TARGETS[-1]:.0%}"
            )
            (DOCS / f"{page_name}-{start}.svg").write_text(drawing, encoding="utf-8")
    text = page(answer, given.seeds, given.trainings)
    if given.write and not missing:
        drawn = "".join(
            f"![Share of studies that hit, by trainings, from {s}]({page_name}-{s}.svg)\n" for s in given.starts
        )
        again = f"python -m benchmarks.replay {given.where} --seeds {given.seeds} --policies {given.policies}"
        (DOCS / f"{page_name}.md").write_text(f"{HEAD}{text}\n{drawn}\nAgain: `{again}`\n", encoding="utf-8")
    print(json.dumps(answer, indent=1) if given.as_json else text)
    return exit_code(missing)


if __name__ == "__main__":
    sys.exit(main())
