"""Sends what hostile and clumsy clients send to every tool, resource, prompt and route, and looks at the answers.

python -m benchmarks.fuzz_clients [--inputs 100000] [--seed 0] [--minutes N] [--rows FILE]

Of ten inputs, six are messages of MCP over HTTP, two are requests of routes and two are lines on the pipe of a bridge.
An input fails if the answer is a 500 or an internal error, if the owner logs a traceback, if a bridge dies, or if a
call gets no answer. Hypothesis draws the inputs. Units of 250 are rows, so an interrupted run goes on. The exit code is
1 if an input failed or a unit is missing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio

from benchmarks.harness import machine
from benchmarks.harness.markdown import newest, table
from benchmarks.harness.measuring import Wanted, complete, exit_code
from benchmarks.harness.rows import RESULTS, Row, Store, Value
from benchmarks.hostile import calls
from benchmarks.hostile.serving import hostile_clients, schemas

UNIT = 250
ROWS = RESULTS / "fuzz_clients.jsonl"


def run_unit(unit: int, seed: int, amount: int = UNIT) -> dict[str, Value]:
    """Tries one unit in a home of its own."""
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as folder:
        return anyio.run(_try_unit, Path(folder), unit, seed, amount)


async def _try_unit(folder: Path, unit: int, seed: int, amount: int) -> dict[str, Value]:
    strategy = calls.inputs(*await schemas(folder / "schemas"))
    tried = calls.draw(strategy, 100_000 * seed + unit, amount)
    problems = list[str]()
    async with hostile_clients(folder / "home") as clients:
        for one in tried:
            if one.kind != "line" and (problem := await clients.attempt(one)):
                problems.append(f"{problem} <- {one.kind} {str(one.content)[:300]}")
        lines = [one for one in tried if one.kind == "line"]
        problems += await clients.lines(lines)
    kinds = Counter(one.kind for one in tried)
    return {
        "inputs": len(tried), "failed": len(problems), "problems": "\n".join(" ".join(p.split()) for p in problems),
        **{f"{kind}s": kinds[kind] for kind in ("message", "route", "line")},
    }  # fmt: skip


def row_of(unit: int, seed: int) -> Row:
    """The row of a unit, without its values."""
    return Row(
        name="fuzz clients", dataset="demo", dataset_hash="", spec_hash=f"units of {UNIT}", run=unit, seed=seed,
        values={}, commit=machine.commit("server", "memory", "trainers", "benchmarks/hostile"),
        hardware=machine.hardware("cpu", 1), versions=machine.versions("mcp", "pydantic", "hypothesis"),
    )  # fmt: skip


def report(rows: Sequence[Row]) -> str:
    """The table of all units of the newest commit."""
    latest = newest(rows)
    names = ("inputs", "messages", "routes", "lines", "failed")
    totals = {name: sum(int(row.number(name)) for row in latest) for name in names}
    return table(["what clients send", ""], [[name, f"{total:,}"] for name, total in totals.items()])


def main(words: Sequence[str] | None = None) -> int:
    """Tries the missing units and prints the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N")
    parser.add_argument("--rows", type=Path, default=ROWS, metavar="FILE")
    options = parser.parse_args(words)
    store = Store(options.rows)
    units = range(-(-options.inputs // UNIT))
    wanted = [
        Wanted(f"unit {unit}", row_of(unit, options.seed), partial(run_unit, unit, options.seed)) for unit in units
    ]
    missing = complete(store, wanted, options.minutes)
    keys = {item.row.key for item in wanted}
    rows = [row for row in store.rows if row.key in keys]
    print(report(rows))
    problems = [line for row in rows for line in str(row.values["problems"]).splitlines()]
    for problem, times in Counter(problems).most_common(20):
        print(f"{times} x {problem}", file=sys.stderr)
    return exit_code(missing) or int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
