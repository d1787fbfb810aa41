"""Plants small mistakes in the code, one at a time, and counts how many the tests notice.

python -m benchmarks.mutants [--count 150] [--seed 0] [--minutes N] [--paths memory server/study …] [--jobs 2]

A mistake is a bound that includes its end, a + for a -, two arguments swapped, a number off by one, a negated
condition, a statement or a guard left out, an `and` for an `or`, a value that is not returned. They are drawn from all
places in the code under --paths and planted in a copy of the checkout, never in the checkout. Only tests that reach
the module by imports run on each, the most direct first; none starts after --each seconds. A test that no longer ends
has noticed the mistake; one that fails on the unchanged code counts for nothing. Each mistake is a row, so an
interrupted run goes on. Some mistakes change nothing that matters, so 100 % is not to be had. The exit code is 1 if a
row is missing.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import os
import queue
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

from benchmarks.harness import machine
from benchmarks.harness.markdown import grouped, table
from benchmarks.harness.measuring import exit_code
from benchmarks.harness.rows import RESULTS, Row, Store, Value
from benchmarks.mutation.choice import Choice, choose, imports_of, mentions_of, package_of, read_sources
from benchmarks.mutation.operators import Mutant, changes, mutants
from benchmarks.mutation.scratch import Scratch

PATHS = ("memory", "server/study", "trainers/ranking", "trainers/data")
CODE = ("memory", "server", "trainers", "prompts", "tests", "benchmarks")
ROWS = RESULTS / "mutants.jsonl"


def drawn(sources: Mapping[str, str], paths: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """`count` of the mistakes that can be planted under `paths`. A higher count adds to those of a lower one."""
    places = [path for path in sources if any(path == given or path.startswith(f"{given}/") for given in paths)]
    found = [mutant for path in places for mutant in mutants(path, sources[path])]
    random.Random(seed).shuffle(found)
    return list(islice((mutant for mutant in found if changes(mutant, sources[mutant.path])), count))


def row_of(mutant: Mutant, seed: int) -> Row:
    """The row of a mistake, without its values."""
    place = f"{mutant.path}:{mutant.start}-{mutant.end}:{mutant.text}"
    return Row(
        name="mutant", dataset=mutant.path, dataset_hash="", seed=seed, values={}, run=mutant.line,
        spec_hash=hashlib.sha256(place.encode()).hexdigest()[:12], commit=machine.commit(*CODE),
        hardware=machine.hardware("cpu", os.cpu_count() or 1), versions=machine.versions("pytest"),
    )  # fmt: skip


def diff_of(mutant: Mutant, source: str) -> str:
    """The changed lines, the old ones with - and the new ones with +."""
    lines = difflib.unified_diff(source.splitlines(), mutant.planted(source).splitlines(), lineterm="", n=0)
    return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))


def measure(
    store: Store, wanted: Mapping[Mutant, Row], choices: Mapping[Mutant, Choice], sources: Mapping[str, str],
    minutes: float, each: float, jobs: int,
) -> list[str]:  # fmt: skip
    """Tries what `store` lacks, starting nothing new after `minutes`; returns a line for each missing row."""
    waiting = [mutant for mutant, row in wanted.items() if not store.has(row.key)]
    deadline, missing = time.monotonic() + 60 * minutes, list[str]()
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as folder:
        copies = [Scratch(machine.ROOT, Path(folder) / str(job)) for job in range(min(jobs, len(waiting)))]
        free: queue.SimpleQueue[Scratch] = queue.SimpleQueue()
        for copy in copies:
            free.put(copy)

        def attempt(mutant: Mutant) -> dict[str, Value] | None:
            if time.monotonic() >= deadline:
                return None
            copy = free.get()
            try:
                verdict = copy.try_on(mutant, choices[mutant], each)
            finally:
                free.put(copy)
            return {
                "kind": mutant.kind, "noticed": verdict.noticed, "by": verdict.by,
                "seconds": round(verdict.seconds, 1), "diff": diff_of(mutant, sources[mutant.path]),
            }  # fmt: skip

        pool = ThreadPoolExecutor(max(1, len(copies)))
        try:
            for mutant, values in zip(waiting, pool.map(attempt, waiting), strict=True):
                title = f"{mutant.path}:{mutant.line} {mutant.kind}"
                if values is None:
                    missing.append(title)
                    continue
                store.add(replace(wanted[mutant], values=values))
                outcome = f"noticed by {values['by']}" if values["noticed"] else "not noticed"
                print(f"{title}: {outcome}", file=sys.stderr)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for copy in copies:
                copy.close()
    return missing


def report(rows: Sequence[Row]) -> str:
    """The table by package, and every mistake that was not noticed, with its place and its diff."""
    lines: list[list[str]] = []
    for package, group in [*sorted(grouped(rows, lambda row: package_of(row.dataset)).items()), ("all", list(rows))]:
        noticed = sum(bool(row.values["noticed"]) for row in group)
        lines.append([package, str(len(group)), str(noticed), f"{noticed / max(1, len(group)):.0%}"])
    text = [table(["package", "planted", "noticed", "share"], lines)]
    for row in sorted(rows, key=lambda row: (row.dataset, row.run)):
        if not row.values["noticed"]:
            late = " (its tests took too long)" if row.values["by"] == "time" else ""
            text.append(f"{row.dataset}:{row.run} {row.values['kind']}{late}\n{row.values['diff']}")
    return "\n\n".join(text)


def main(words: Sequence[str] | None = None) -> int:
    """Tries the missing mistakes and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150, metavar="N", help="mistakes to plant")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N")
    parser.add_argument(
        "--each", type=float, default=30.0, metavar="SECONDS", help="after which no more tests of a mistake start"
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="copies to run in")
    parser.add_argument("--paths", nargs="+", default=list(PATHS), metavar="PATH", help="folders and files to plant in")
    parser.add_argument("--rows", type=Path, default=ROWS, metavar="FILE")
    options = parser.parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the copies
    sources = read_sources(machine.ROOT, CODE)
    paths = [path.rstrip("/") for path in options.paths]
    chosen = drawn(sources, paths, options.count, options.seed)
    if not chosen:
        parser.error(f"nothing can be planted under {' '.join(paths)}; name folders or files of this checkout")
    imports = imports_of(sources)
    mentions = mentions_of(sources)
    choices = {mutant: choose(mutant.path, imports, mutant.function, mentions) for mutant in chosen}
    store = Store(options.rows)
    wanted = {mutant: row_of(mutant, options.seed) for mutant in chosen}
    missing = measure(store, wanted, choices, sources, options.minutes, options.each, options.jobs)
    keys = {row.key for row in wanted.values()}
    print(report([row for row in store.rows if row.key in keys]))
    return exit_code(missing)


if __name__ == "__main__":
    sys.exit(main())
