"""Measures the cost of a call as a study grows: milliseconds and reads of memory, with trainings that take no time.

python -m benchmarks.long_study [--trials 500] [--calls 20] [--runs 3]

A client calls run_trial until the study holds --trials configurations. At 24, 100, 200 … trials the last --calls calls
are summarised, and suggest_trial, get_study and read_memory are called three times each. The stub executor trains, so
only the owner's own work is measured. The table shows medians over the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from mcp import Client

from benchmarks.harness.machine import commit, hardware, versions
from benchmarks.harness.markdown import table
from memory.tables.connection import Connection
from server.executors.testing.stub import Answer, StubExecutor, curve
from server.owner.assembly import open_runtime
from server.settings import Settings
from server.tools.app import create_app
from trainers.contract.wire import TrialSpec

SIZES = (24, 100, 200, 500, 1000)
OTHERS = ("suggest_trial", "get_study", "read_memory")


class Reads:
    """Counts the cursors that memory opens, for reading and for writing."""

    def __init__(self) -> None:
        self.count = 0
        opened = Connection._open_cursor  # pyright: ignore[reportPrivateUsage]

        def counted(connection: Connection, first: str) -> Any:
            self.count += 1
            return opened(connection, first)

        Connection._open_cursor = counted  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def scored(trial: TrialSpec) -> Answer:
    """Less dropout scores higher; a seed moves the score by a thousandth."""
    return curve(trial, best=(0.2 - 0.2 * float(trial.config["dropout"])) * (1 + 0.001 * trial.seed), epochs=20)


async def grow_study(
    home: Path, trials: int, calls: int, reads: Reads
) -> dict[tuple[int, str], tuple[float, float, int]]:
    """By size and tool: median and 99th percentile in milliseconds, and cursors opened per call."""
    sizes = [size for size in SIZES if size <= trials]
    measured: dict[tuple[int, str], tuple[float, float, int]] = {}
    async with (
        open_runtime(Settings(home=home), StubExecutor(scored)) as runtime,
        Client(create_app(runtime)) as client,
    ):

        async def call(tool: str, **arguments: Any) -> tuple[float, int]:
            began, before = time.perf_counter(), reads.count
            answer = await client.call_tool(tool, arguments)
            if answer.is_error:
                raise RuntimeError(f"{tool} failed: {answer.content}")
            facts = answer.structured_content or {}
            if tool == "start_study":
                study.append(facts["study_id"])
            return 1000 * (time.perf_counter() - began), reads.count - before

        study: list[str] = []
        await call("start_study", dataset="demo", early_stop="auto")
        latest: list[tuple[float, int]] = []
        for number in range(1, sizes[-1] + 1):
            changes = {"dropout": round(0.001 * number % 0.5, 6), "learning_rate": 1e-3 + 1e-7 * number}
            latest.append(await call("run_trial", study_id=study[0], changes=changes, hypothesis="another value"))
            if number in sizes:
                measured[number, "run_trial"] = _summarise(latest[-calls:])
                for tool in OTHERS:
                    measured[number, tool] = _summarise([await call(tool, study_id=study[0]) for _ in range(3)])
    return measured


def _summarise(calls: Sequence[tuple[float, int]]) -> tuple[float, float, int]:
    times = [milliseconds for milliseconds, _ in calls]
    highest = quantiles(times, n=100, method="inclusive")[98]
    return median(times), highest, round(median(count for _, count in calls))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500, metavar="N", help=f"up to which of the sizes {SIZES}")
    parser.add_argument("--calls", type=int, default=20, metavar="N", help="calls of run_trial that are summed up")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    options = parser.parse_args()
    if options.trials < SIZES[0]:
        parser.error(f"--trials {options.trials}: at least {SIZES[0]}")
    reads, runs = Reads(), []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as home:
            runs.append(asyncio.run(grow_study(Path(home), options.trials, options.calls, reads)))
    rows = [
        [
            tool, str(size), *(f"{median(run[size, tool][place] for run in runs):.0f}" for place in (0, 1)),
            str(max(run[size, tool][2] for run in runs)),
        ]
        for size, tool in sorted(runs[0], key=lambda key: (key[1], key[0]))
    ]  # fmt: skip
    print(f"{hardware('cpu', 1)}; {commit('server', 'memory')}; {versions('mcp', 'duckdb')}\n")
    print(table(["call", "trials", "median ms", "99 % ms", "memory cursors"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
