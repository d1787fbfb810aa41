"""Seconds, CPU seconds and peak memory of an import, beside those of another version in the same run.

python -m benchmarks.importing [--rows 10000000] [--times 3] [--against CHECKOUT]

A log with as many rows is invented: user_id, item_id, rating and timestamp. Each version imports it in
turn, each time in a process of its own. The versions must make the same dataset of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.harness.machine import ROOT, commit, hardware, versions
from benchmarks.harness.markdown import centre, table

BLOCK = 200_000
"""Rows that are written at once."""
IMPORT = """
import json, resource, sys, time
from pathlib import Path
from trainers.data import add
started = time.monotonic()
dataset = add(Path(sys.argv[1]), "log", Path(sys.argv[2]))
seconds, used = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([dataset.content_hash, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def write_log(path: Path, rows: int) -> None:
    """Writes a log in random order, about 20 rows a user, with few items in most of the rows."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, max(rows // 20, 1), rows)
    items = (rng.pareto(1.1, rows) * 50).astype(np.int64) % 200_000
    times = 1_396_867_669 + rng.integers(0, 3 * 10**7, rows)
    with path.open("w") as file:
        file.write("user_id,item_id,rating,timestamp\n")
        for begin in range(0, rows, BLOCK):
            part = slice(begin, begin + BLOCK)
            cells = zip(users[part].tolist(), items[part].tolist(), times[part].tolist(), strict=True)
            file.write("".join(f"{user},{item},{item % 5 + 1}.0,{time}\n" for user, item, time in cells))


class Import(NamedTuple):
    """What an import made, and what it took."""

    content_hash: str
    seconds: float
    cpu_seconds: float
    peak_mb: float


TAKES = {"seconds": "seconds", "CPU seconds": "cpu_seconds", "peak MB": "peak_mb"}
"""The columns of the table."""


def imported(checkout: Path, log: Path) -> Import:
    """An import by a checkout, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        script = (
            Path(folder) / "import_log.py"
        )  # with `-c`, DuckDB takes Python for interactive and prints its progress
        script.write_text(IMPORT)
        command = [sys.executable, "-P", str(script), str(Path(folder) / "datasets"), str(log)]
        done = subprocess.run(command, env={"PYTHONPATH": str(checkout)}, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"importing: {checkout.name} failed: {done.stderr.strip().splitlines()[-1]}")
    return Import(*json.loads(done.stdout))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table with medians and ranges, and the ratio of this version to the other one."""
    parser = argparse.ArgumentParser("python -m benchmarks.importing", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, metavar="N")
    parser.add_argument("--times", type=int, default=3, metavar="N", help="imports by each version")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another version of this project")
    options = parser.parse_args(arguments)
    measured: dict[str, list[Import]] = {"this version": []}
    checkouts = {"this version": ROOT}
    if options.against is not None:
        checkouts["the other one"] = options.against.resolve()
        measured["the other one"] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        write_log(log, options.rows)
        for _ in range(options.times):
            for name, checkout in checkouts.items():
                measured[name].append(imported(checkout, log))
                print(f"{name}: {measured[name][-1].seconds:.1f} s", file=sys.stderr)
    if len({run.content_hash for runs in measured.values() for run in runs}) > 1:
        sys.exit("importing: the versions made different datasets of the same file")
    print(f"{options.rows:,} rows; {hardware('cpu', 2)}; commit {commit('trainers')}; {versions('duckdb', 'numpy')}\n")
    columns = {
        name: {title: [getattr(run, place) for run in runs] for title, place in TAKES.items()}
        for name, runs in measured.items()
    }
    lines = [[name, *(centre(values) for values in of_version.values())] for name, of_version in columns.items()]
    print(table(("import by", *TAKES), lines))
    if options.against is not None:
        ours, theirs = columns.values()
        print("\nRatio: " + ", ".join(f"{median(ours[title]) / median(theirs[title]):.2f}" for title in TAKES))


if __name__ == "__main__":
    main()
