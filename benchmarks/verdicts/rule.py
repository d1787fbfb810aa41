"""How often verdicts are wrong, what they find, and what their intervals hold, in simulated studies."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks.harness.markdown import table
from benchmarks.verdicts.simulated import MOST_SEEDS, WORLDS, Outcome, World, from_table, lone, null

HEADING = "The rule"
WORDS = """\
Simulated studies whose true effects are known, judged by `server.study.verdicts`: a default of three seeds, then
thirty configurations; what a verdict asks for is trained, at most three seeds of the configuration itself, and a
leader gets a second seed. *False better*: studies of thirty worthless configurations that call any of them better.
*6 sigma*, *3 sigma*: a lone gain of that size that is called better with at most one, or three, further trainings.
The other columns are studies of recorded configurations, judged by a prior that was made without their dataset:
what is called better with the wrong sign, the sum of claimed gains over the sum of true ones, and how often a 90 %
interval holds the truth, for what was called better, for the leader against the default at the end, and for both
where each side has two seeds. Regret is what the choice lacks to the best of the thirty."""


def share(values: Sequence[bool]) -> float:
    return fmean(values) if values else math.nan


def summary(runs: dict[str, list[Outcome]]) -> dict[str, float]:
    """The figures of one world: from studies without effect, with lone effects, and of recorded tables."""
    better = [one for run in runs["tables"] for one in run.better]
    leaders = [run.leader for run in runs["tables"] if run.leader is not None]
    two = [one for one in (*better, *leaders) if one.seeds > 1]
    within = {
        name: share([bool(run.extra) and run.extra[0] <= most for run in runs[name]])
        for name, most in (("lone 6", 1), ("lone 3", MOST_SEEDS))
    }
    return {
        "false better": share([bool(run.better) for run in runs["null"]]),
        "null trainings": fmean(run.trainings for run in runs["null"]),
        "6 sigma": within["lone 6"], "3 sigma": within["lone 3"],
        "wrong sign": share([one.true <= 0 for one in better]),
        "claimed over true": sum(one.gain for one in better) / (sum(one.true for one in better) or math.nan),
        "better covered": share([one.covers for one in better]),
        "leaders covered": share([one.covers for one in leaders]),
        "two seeds covered": share([one.covers for one in two]),
        "width": fmean(one.high - one.low for one in leaders),
        "regret": fmean(run.regret for run in runs["tables"]),
        "trainings": fmean(run.trainings for run in runs["tables"]),
    }  # fmt: skip


def section(pool: Executor, folder: Path, studies: int) -> str:
    """The table over all worlds."""
    summaries: dict[str, dict[str, float]] = {}
    for world in WORLDS:
        kinds: dict[str, Callable[[World, int], Outcome]] = {
            "null": null, "lone 6": partial(lone, 6), "lone 3": partial(lone, 3), "tables": partial(from_table, folder),
        }  # fmt: skip
        runs = {
            name: list(pool.map(partial(kind, world), range(studies), chunksize=10)) for name, kind in kinds.items()
        }
        summaries[world.name] = summary(runs)
        print(world.name, {name: round(value, 3) for name, value in summaries[world.name].items()}, file=sys.stderr)
    heads = [
        "world", "false better", "6 sigma found", "3 sigma found", "wrong sign", "claimed / true", "better covered",
        "leaders covered", "from two seeds", "interval, mean width", "regret", "trainings, null", "trainings",
    ]  # fmt: skip
    lines = [
        [
            name, f"{row['false better']:.1%}", f"{row['6 sigma']:.0%}", f"{row['3 sigma']:.0%}",
            f"{row['wrong sign']:.1%}", f"{row['claimed over true']:.2f}", f"{row['better covered']:.0%}",
            f"{row['leaders covered']:.0%}", f"{row['two seeds covered']:.0%}", f"{row['width']:.1%}",
            f"{row['regret']:.1%}", f"{row['null trainings']:.1f}", f"{row['trainings']:.1f}",
        ]
        for name, row in summaries.items()
    ]  # fmt: skip
    return table(heads, lines)
