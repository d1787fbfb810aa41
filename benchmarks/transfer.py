"""Measures the trainings that memory of other datasets saves on a new one, by replaying finished trainings.

python -m benchmarks.transfer --tables DIR|--generated [--policies hybrid,gp] [--seeds 30] [--trainings 40]
                              [--learned 30] [--jobs 2] [--minutes N] [--json] [--write]

One dataset is left out at a time, and memory is frozen. First, a `hybrid` study without memory runs on each other
dataset, with --learned trainings and its own seeds. Memory holds only the results of these studies. The arms:

none      no memory
best      the best configurations of the other datasets, without claims: the fair baseline
claims    claims about single fields, from a deterministic distiller
memory    both, and the trainings themselves, as the server reports them
permuted  a placebo: each other dataset's scores are shuffled among its configurations
flipped   a placebo: each other dataset's gains over the default become losses

Start, targets, counting and rows are those of benchmarks.replay.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.harness.markdown import table
from benchmarks.harness.measuring import exit_code
from benchmarks.replay.measures import RESAMPLES, Run, expected_running_time, success_rate
from benchmarks.replay.memory import ARMS, NONE
from benchmarks.replay.options import DOCS, arguments_of, replay_units, titles_of
from benchmarks.replay.runs import Unit

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
dataset, and noise ([generated.py](../../benchmarks/replay/generated.py)). In `shifting` the best setting moves with
the mean length of histories, in `same` it is in one place for all datasets, and in the control `unrelated` each dataset
has its own.

"""


def summary(runs: Sequence[Run], none: Sequence[Run], budget: int) -> dict[str, Any]:
    """Compares one policy in one arm with the same policy without memory, on the same cells and seeds."""
    time, base = (expected_running_time(group, TARGET, budget) for group in (runs, none))
    pairs = list(zip(runs, none, strict=True))
    later = [_trainings_to_target(run, budget) > _trainings_to_target(other, budget) for run, other in pairs]
    low, high = _ratio_interval(pairs, budget, Random(0))
    return {
        "ert": time, "ratio": base / time if time and base else None, "interval": (low, high),
        "success": success_rate(runs, TARGET), "later": fmean(later),
        "regret": {str(count): fmean(run.regret(count) for run in runs) for count in (2, 5, 10, 20)},
        "runs": len(runs),
    }  # fmt: skip


def _trainings_to_target(run: Run, budget: int) -> int:
    hit = run.hit(TARGET)
    return budget + 1 if hit is None else hit


def _ratio_interval(pairs: Sequence[tuple[Run, Run]], budget: int, random: Random) -> tuple[float | None, float | None]:
    """A bootstrap interval of the ratio of running times without and with memory, over paired seeds in each cell."""
    cells: dict[str, list[tuple[Run, Run]]] = {}
    for pair in pairs:
        cells.setdefault(pair[0].cell, []).append(pair)
    ratios: list[float] = []
    for _ in range(RESAMPLES):
        sample = [pair for group in cells.values() for pair in random.choices(group, k=len(group))]
        with_memory = expected_running_time([run for run, _ in sample], TARGET, budget)
        without = expected_running_time([other for _, other in sample], TARGET, budget)
        if with_memory and without:
            ratios.append(without / with_memory)
    if not ratios:
        return None, None
    ratios.sort()
    return ratios[round((len(ratios) - 1) * 0.025)], ratios[round((len(ratios) - 1) * 0.975)]


def summaries(runs_by_unit: Mapping[Unit, list[Run]], start: str, options: argparse.Namespace) -> dict[str, Any]:
    """The summaries by policy and arm, over the seeds that both the arm and `none` have."""
    answer: dict[str, Any] = {}
    for name in options.names:
        for arm in ARMS:
            pairs = [
                (runs_by_unit[unit], runs_by_unit[none])
                for seed in range(options.seeds)
                if (unit := Unit(start, name, arm, seed)) in runs_by_unit
                and (none := Unit(start, name, NONE, seed)) in runs_by_unit
            ]
            runs, base = ([run for pair in pairs for run in pair[side]] for side in (0, 1))
            if runs:
                answer.setdefault(name, {})[arm] = summary(runs, base, options.trainings)
    return answer


def page(answer: dict[str, Any], seeds: int, trainings: int) -> str:
    """A table for each start."""
    heads = ["policy", "memory", "ERT 90%", "times fewer", "95 %", "success", "later than none",
             "regret at 2", "5", "10", "20"]  # fmt: skip
    parts: list[str] = []
    for start, section in answer.items():
        dropped = f" Without headroom, and left out: {', '.join(section['dropped'])}." if section["dropped"] else ""
        lines = [
            [name, arm, _number(row["ert"]), _number(row["ratio"], 2), _interval_text(row["interval"]),
             f"{row['success']:.0%}", f"{row['later']:.0%}", *(f"{regret:.2f}" for regret in row["regret"].values())]
            for name, arms in section["policies"].items()
            for arm, row in arms.items()
        ]  # fmt: skip
        parts.append(
            f"## From `{start}`\n\n{seeds} seeds in each of {', '.join(section['cells']) or 'no cell'}; at most "
            f"{trainings} trainings a study.{dropped}\n\n{table(heads, lines, 2)}\n"
        )
    return "\n".join(parts)


def _number(value: float | None, digits: int = 1) -> str:
    return "∞" if value is None else f"{value:.{digits}f}"


def _interval_text(interval: tuple[float | None, float | None]) -> str:
    return " – ".join(_number(end, 2) for end in interval)


def main(words: Sequence[str] | None = None) -> int:
    options = arguments_of(words, __doc__, "hybrid,gp")
    runs_by_unit, missing = replay_units(options, ARMS)
    answer = {
        start: {**titles_of(options.tables, start), "policies": summaries(runs_by_unit, start, options)}
        for start in options.starts
    }
    text = page(answer, options.seeds, options.trainings)
    if options.write and not missing:
        name = "transfer-generated.md" if options.generated else "transfer.md"
        again = f"python -m benchmarks.transfer {options.where} --seeds {options.seeds} --policies {options.policies}"
        again += f" --trainings {options.trainings} --learned {options.learned}"
        head = HEAD_GENERATED if options.generated else HEAD
        (DOCS / name).write_text(f"{head}{text}\nAgain: `{again}`\n", encoding="utf-8")
    print(json.dumps(answer, indent=1) if options.as_json else text)
    return exit_code(missing)


if __name__ == "__main__":
    sys.exit(main())
