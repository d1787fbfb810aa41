"""Leaves hostile files in a home, one at a time, and tries what the owner does with them.

python -m benchmarks.fuzz_home [--inputs 50000] [--seed 0] [--minutes N] [--rows FILE] [--write]

Every file that a trainer, a user or a failing disk can spoil is spoiled in turn: the files of a run directory,
owner.json, task.key, settings, a registered trainer, a dataset, the database, its write-ahead log and its record. An
input fails if the code raises what is no refusal of one line, or has not ended after 20 seconds. `died` counts inputs
that ended the process itself, as a damaged database can. Units of 250 inputs are rows, so an interrupted run goes on.
The exit code is 1 if an input failed or a unit is missing.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import machine
from benchmarks.harness.markdown import newest, table
from benchmarks.harness.measuring import Wanted, complete, exit_code
from benchmarks.harness.rows import RESULTS, Row, Store, Value
from benchmarks.hostile.home import HostileHome

UNIT = 250
SECONDS = 20
"""An input that takes longer waits for something that never comes."""
ROWS = RESULTS / "fuzz_home.jsonl"


def inputs(unit: int, seed: int, first: int = 0, amount: int = UNIT) -> Iterator[dict[str, str]]:
    """Tries the inputs of a unit from number `first` on; yields target, kind and problem ("" if there is none)."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even where it waits outside of Python
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as folder:
        home = HostileHome(Path(folder) / "home")
        names = list(home.targets)
        for number in range(first, amount):
            draw = random.Random(f"{seed}:{unit}:{number}")
            target = names[(unit * amount + number) % len(names)]
            kind, problem = "", ""
            signal.alarm(SECONDS)
            try:
                kind = home.attempt(target, draw)
            except Exception as error:
                problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            finally:
                signal.alarm(0)
            yield {"target": target, "kind": kind, "problem": problem}
        home.close()


def run_unit(unit: int, seed: int, amount: int = UNIT) -> dict[str, Value]:
    """Tries one unit in processes of its own; an input that ends its process is counted, and the next one follows."""
    problems, died, tried = list[str](), Counter[str](), 0
    while tried < amount:
        words = ["--unit", str(unit), "--seed", str(seed), "--first", str(tried), "--amount", str(amount)]
        command = [sys.executable, "-m", "benchmarks.fuzz_home", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
        results = [json.loads(line) for line in done.stdout.splitlines() if line.endswith("}")]
        tried += len(results)
        problems += [f"{found['target']}: {found['problem']}" for found in results if found["problem"]]
        if done.returncode == 0:
            break
        if tried < amount:
            target = _target(unit, tried, amount)
            died[target] += 1
            tried += 1
            if done.returncode == -signal.SIGALRM:
                problems.append(f"{target}: not ended after {SECONDS} s")
            elif not target.startswith("memory.duckdb"):  # DuckDB may abort on a damaged file; nothing else may
                problems.append(f"{target}: the process ended: {done.stderr.strip()[-200:]}")
    return {
        "inputs": tried, "failed": len(problems), "died": sum(died.values()), "problems": "\n".join(problems),
        "died_at": json.dumps(died),
    }  # fmt: skip


def _target(unit: int, number: int, amount: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        names = list(HostileHome(Path(folder) / "home").targets)
    return names[(unit * amount + number) % len(names)]


def row_of(unit: int, seed: int) -> Row:
    """The row of a unit, without its values."""
    return Row(
        name="fuzz home", dataset="demo", dataset_hash="", spec_hash=f"units of {UNIT}", run=unit, seed=seed, values={},
        commit=machine.commit("server", "memory", "trainers", "benchmarks/hostile"),
        hardware=machine.hardware("cpu", 1), versions=machine.versions("duckdb", "pydantic", "safetensors"),
    )  # fmt: skip


def report(rows: Sequence[Row]) -> str:
    """The table of all units of the newest commit."""
    latest = newest(rows)
    totals = {name: sum(int(row.number(name)) for row in latest) for name in ("inputs", "failed", "died")}
    return table(["hostile files in a home", ""], [[name, f"{total:,}"] for name, total in totals.items()])


def main(words: Sequence[str] | None = None) -> int:
    """Tries the missing units and prints the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=50_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N")
    parser.add_argument("--rows", type=Path, default=ROWS, metavar="FILE")
    for name, default in (("unit", None), ("first", 0), ("amount", UNIT)):
        parser.add_argument(f"--{name}", type=int, default=default, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.unit is not None:
        for found in inputs(options.unit, options.seed, options.first, options.amount):
            print(json.dumps(found), flush=True)
        return 0
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
