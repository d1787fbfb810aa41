"""What memory of other datasets saves on a new one, by replaying tables of finished trainings.

python -m benchmarks.transfer --tables DIR|--generated [--policies hybrid,gp] [--seeds 30] [--trainings 40]
                              [--learned 30] [--jobs 2] [--minutes N] [--json] [--write]

Leave-one-dataset-out, with frozen memory. On each other dataset a study of the policy `hybrid` without memory was
trained first (--learned trainings), with seeds of its own; what it leaves is all that memory holds. Arms: `none`;
`best`, the best configurations of the other datasets without claims, which is the honest rival; `claims`, what a
deterministic distiller claims of single fields; `memory`, both and the trainings themselves, as the server tells of
them; and two placebos, `permuted` (the scores of each other dataset dealt out among its configurations anew) and
`flipped` (its gains over the default turned into losses). Start, targets, counting and rows are those of
benchmarks.replay.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.measuring import exit_code
from benchmarks.replay import DOCS, arguments_of, measured, names_of
from benchmarks.replay_measures import RESAMPLES, Run, expected_running_time, success_rate
from benchmarks.replay_memory import ARMS, NONE
from benchmarks.replay_runs import Unit
from benchmarks.tables import table

TARGET = 0.9
HEAD = """# What memory of other datasets saves

Leave-one-dataset-out on tables of finished trainings: a study of the policy `hybrid` was replayed on each other dataset
first, with seeds of its own, and what it left is all that memory holds. `best` are the best configurations of the other
datasets without claims, `claims` what a distiller claims of single fields, `memory` both and, for `gp`, the trainings
themselves; `permuted` and `flipped` are placebos (scores dealt out anew among configurations; gains turned into
losses). "Times fewer" is the ERT of the same policy without memory by that with it, paired by cell and seed: below 1,
memory costs trainings. "Later than none" counts the studies that it made slower.

"""

HEAD_GENERATED = """# What memory saves where it is known what it can know

The same as [transfer.md](transfer.md) on tables that are generated: a score is a function of configuration and
dataset, and noise ([replay_generated.py](../benchmarks/replay_generated.py)). In `shifting` the best setting moves with
the mean length of histories, in `same` it is in one place for all datasets, and in the control `unrelated` each dataset
has its own.

"""


def summary(runs: Sequence[Run], none: Sequence[Run], budget: int) -> dict[str, Any]:
    """One policy with one arm, beside the same policy without memory on the same cells and seeds."""
    time, base = (expected_running_time(one, TARGET, budget) for one in (runs, none))
    pairs = list(zip(runs, none, strict=True))
    later = [_waited(run, budget) > _waited(other, budget) for run, other in pairs]
    low, high = _ratio_interval(pairs, budget, Random(0))
    return {
        "ert": time, "ratio": base / time if time and base else None, "interval": (low, high),
        "success": success_rate(runs, TARGET), "later": fmean(later),
        "regret": {str(count): fmean(run.regret(count) for run in runs) for count in (2, 5, 10, 20)},
        "runs": len(runs),
    }  # fmt: skip


def _waited(run: Run, budget: int) -> int:
    hit = run.hit(TARGET)
    return budget + 1 if hit is None else hit


def _ratio_interval(pairs: Sequence[tuple[Run, Run]], budget: int, draw: Random) -> tuple[float | None, float | None]:
    """A bootstrap interval of how many times fewer trainings, over paired seeds within each cell."""
    cells: dict[str, list[tuple[Run, Run]]] = {}
    for pair in pairs:
        cells.setdefault(pair[0].cell, []).append(pair)
    found: list[float] = []
    for _ in range(RESAMPLES):
        sample = [pair for group in cells.values() for pair in draw.choices(group, k=len(group))]
        with_memory = expected_running_time([run for run, _ in sample], TARGET, budget)
        without = expected_running_time([other for _, other in sample], TARGET, budget)
        if with_memory and without:
            found.append(without / with_memory)
    if not found:
        return None, None
    found.sort()
    return found[round((len(found) - 1) * 0.025)], found[round((len(found) - 1) * 0.975)]


def summaries(found: Mapping[Unit, list[Run]], start: str, given: argparse.Namespace) -> dict[str, Any]:
    """By policy and arm, over the seeds that both the arm and `none` have."""
    answer: dict[str, Any] = {}
    for name in given.names:
        for arm in ARMS:
            pairs = [
                (found[unit], found[none])
                for seed in range(given.seeds)
                if (unit := Unit(start, name, arm, seed)) in found and (none := Unit(start, name, NONE, seed)) in found
            ]
            runs, base = ([run for pair in pairs for run in pair[side]] for side in (0, 1))
            if runs:
                answer.setdefault(name, {})[arm] = summary(runs, base, given.trainings)
    return answer


def page(answer: dict[str, Any], seeds: int, trainings: int) -> str:
    """A table for each start."""
    heads = ["policy", "memory", "ERT 90%", "times fewer", "95 %", "success", "later than none",
             "regret at 2", "5", "10", "20"]  # fmt: skip
    parts: list[str] = []
    for start, found in answer.items():
        dropped = f" Without headroom, and left out: {', '.join(found['dropped'])}." if found["dropped"] else ""
        lines = [
            [name, arm, _number(one["ert"]), _number(one["ratio"], 2), _ends(one["interval"]), f"{one['success']:.0%}",
             f"{one['later']:.0%}", *(f"{regret:.2f}" for regret in one["regret"].values())]
            for name, arms in found["policies"].items()
            for arm, one in arms.items()
        ]  # fmt: skip
        parts.append(
            f"## From `{start}`\n\n{seeds} seeds in each of {', '.join(found['cells']) or 'no cell'}; at most "
            f"{trainings} trainings a study.{dropped}\n\n{table(heads, lines, 2)}\n"
        )
    return "\n".join(parts)


def _number(value: float | None, digits: int = 1) -> str:
    return "∞" if value is None else f"{value:.{digits}f}"


def _ends(interval: tuple[float | None, float | None]) -> str:
    return " – ".join(_number(end, 2) for end in interval)


def main(words: Sequence[str] | None = None) -> int:
    given = arguments_of(words, __doc__, "hybrid,gp")
    found, missing = measured(given, ARMS)
    answer = {
        start: {**names_of(given.tables, start), "policies": summaries(found, start, given)} for start in given.starts
    }
    text = page(answer, given.seeds, given.trainings)
    if given.write and not missing:
        name = "transfer-generated.md" if given.generated else "transfer.md"
        again = f"python -m benchmarks.transfer {given.where} --seeds {given.seeds} --policies {given.policies}"
        again += f" --trainings {given.trainings} --learned {given.learned}"
        head = HEAD_GENERATED if given.generated else HEAD
        (DOCS / name).write_text(f"{head}{text}\nAgain: `{again}`\n", encoding="utf-8")
    print(json.dumps(answer, indent=1) if given.as_json else text)
    return exit_code(missing)


if __name__ == "__main__":
    sys.exit(main())
