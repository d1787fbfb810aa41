"""The tables of a replay: each policy's expected running time, success and regret."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from statistics import fmean
from typing import Any

from benchmarks.harness.markdown import table
from benchmarks.replay.measures import Run, expected_running_time, interval, success_rate

TARGETS = (0.5, 0.75, 0.9)
REGRETS = (5, 10, 20, 30)


HEAD = """# Search policies, replayed

What each policy needs on tables of finished trainings, without memory of other datasets. Every study begins with the
same default, every training counts, replicates too, and a hit is judged by the table's mean of the configuration that
leads, not by the score that was seen. ERT: trainings that all studies spent until they hit, by each hit. `+racing`: the
policy's leaders are trained on a second seed before it goes on, as `playbook`, `hybrid` and `gp` do of themselves.

"""


def summary(runs: Sequence[Run], budget: int) -> dict[str, Any]:
    """The measures of one policy, as JSON values."""
    times = {target: expected_running_time(runs, target, budget) for target in TARGETS}
    return {
        "ert": {f"{target:g}": times[target] for target in TARGETS},
        "interval": interval(runs, TARGETS[-1], budget, Random(0)),
        "success": {f"{target:g}": success_rate(runs, target) for target in TARGETS},
        "regret": {str(count): fmean(run.regret(count) for run in runs) for count in REGRETS},
        "runs": len(runs),
    }


def lines_of(summaries: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The lines of the table, the fewest trainings to the last target first."""
    lines: list[list[str]] = []
    for name, summary_of in sorted(
        summaries.items(), key=lambda pair: pair[1]["ert"][f"{TARGETS[-1]:g}"] or float("inf")
    ):
        low, high = summary_of["interval"]
        ends = f"{_trainings(low)} – {_trainings(high)}"
        times = [_trainings(time) for time in summary_of["ert"].values()]
        lines.append([name, *times, ends, f"{summary_of['success'][f'{TARGETS[-1]:g}']:.0%}",
                      *(f"{regret:.2f}" for regret in summary_of["regret"].values())])  # fmt: skip
    return lines


def _trainings(count: float | None) -> str:
    return "∞" if count is None else f"{count:.1f}"


def page(answer: dict[str, Any], seeds: int, trainings: int) -> str:
    """A table for each start."""
    heads = ["policy", *(f"ERT {target:.0%}" for target in TARGETS), f"95 % of ERT {TARGETS[-1]:.0%}"]
    heads += [f"success {TARGETS[-1]:.0%}", *(f"regret at {count}" for count in REGRETS)]
    parts: list[str] = []
    for start, section in answer.items():
        dropped = f" Without headroom, and left out: {', '.join(section['dropped'])}." if section["dropped"] else ""
        parts.append(
            f"## From `{start}`\n\nTrainings, replicates included, until the leader's mean in the table is so much of "
            f"the way from start to best; {seeds} seeds in each of {', '.join(section['cells']) or 'no cell'}; at most "
            f"{trainings} trainings a study.{dropped}\n\n{table(heads, lines_of(section['policies']))}\n"
        )
    return "\n".join(parts)
