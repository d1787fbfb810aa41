"""The overhead of a trial beside training and evaluation, and the cost of a trial that only scores weights again.

python -m benchmarks.overhead [--runs 7] [--dataset PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.harness.machine import commit, hardware, versions
from benchmarks.harness.markdown import table
from server.executors.base import Slot
from server.executors.process.executor import ProcessExecutor
from server.scheduler.run_directory import prepare, read_result
from server.settings import Settings
from trainers.contract.presets import preset
from trainers.contract.space import Config
from trainers.contract.wire import TrialResult, TrialSpec
from trainers.data import Dataset, add, ensure

EPOCHS = 2
SCORING: Config = {"item_cf_alpha": 1.0, "transition_alpha": 1.0, "popularity_alpha": 0.1}
"""A configuration that turns on all priors of scoring."""


async def seconds_beside(
    home: Path, dataset: Dataset, backbone: str, threads: int, runs: int, warm: bool
) -> list[float]:
    """The wall clock of each of `runs` trials, minus the training and evaluation seconds in its result.

    The first warm trial is left out, because it pays for the start of the worker as a cold one does.
    """
    seconds: list[float] = []
    async with ProcessExecutor(home / "datasets", home, warm=warm) as executor:
        for number in range(runs + warm):
            directory = home / "trials" / f"t-{dataset.name}-{'warm' if warm else 'cold'}-{number}"
            prepare(directory, _trial(directory.name, dataset, backbone, threads))
            started = time.perf_counter()
            await executor.run([directory], Slot(threads=threads))
            wall = time.perf_counter() - started
            result = _result(directory)
            seconds.append(wall - result.seconds - result.eval_seconds)
    return seconds[int(warm) :]


async def seconds_of_scorings(home: Path, dataset: Dataset, backbone: str, threads: int, runs: int) -> list[float]:
    """The wall clock of each of `runs` warm trials that score the weights of another trial with `SCORING`."""
    seconds: list[float] = []
    async with ProcessExecutor(home / "datasets", home) as executor:
        trained = home / "trials" / f"t-{dataset.name}-trained"
        prepare(trained, _trial(trained.name, dataset, backbone, threads))
        await executor.run([trained], Slot(threads=threads))
        _result(trained)
        for number in range(runs):
            directory = home / "trials" / f"t-{dataset.name}-scored-{number}"
            spec = _trial(directory.name, dataset, backbone, threads)
            prepare(directory, spec.model_copy(update={"config": spec.config | SCORING, "weights_of": trained.name}))
            started = time.perf_counter()
            await executor.run([directory], Slot(threads=threads))
            seconds.append(time.perf_counter() - started)
            if _result(directory).weights_of is None:
                sys.exit(f"overhead: {directory.name} was trained, and should have scored the weights of another")
    return seconds


def _trial(trial_id: str, dataset: Dataset, backbone: str, threads: int) -> TrialSpec:
    config: Config = {**preset("strong", backbone, dataset.facts).model_dump(), "max_epochs": EPOCHS}
    return TrialSpec(
        trial_id=trial_id, backbone=backbone, config=config, seed=0, dataset_hash=dataset.content_hash, threads=threads
    )


def _result(directory: Path) -> TrialResult:
    result = read_result(directory, directory.name)
    if result is None or result.status != "ok":
        sys.exit(f"overhead: {directory.name} failed: {result.message if result else 'no result'}")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table with medians and ranges in seconds."""
    parser = argparse.ArgumentParser("python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--runs", type=int, default=7, metavar="N", help="trials for each number (default 7)")
    parser.add_argument("--dataset", type=Path, metavar="PATH", help="a dataset file, measured beside `demo`")
    parser.add_argument("--backbone", default="sasrec", choices=("sasrec", "hstu"))
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of a trial (default: the owner's own)")
    options = parser.parse_args(arguments)
    lines: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        threads = options.threads or Settings(home=home).threads
        (home / "datasets").mkdir()
        datasets = [ensure(home / "datasets", "demo")]
        if options.dataset is not None:
            datasets.append(add(home / "datasets", options.dataset.stem, options.dataset))
        for dataset in datasets:
            common = (home, dataset, options.backbone, threads, options.runs)
            for kind in ("cold", "warm", "scoring only, whole"):
                work = (
                    seconds_of_scorings(*common)
                    if kind.startswith("scoring")
                    else seconds_beside(*common, kind == "warm")
                )
                seconds = asyncio.run(work)
                numbers = (f"{value:.3f}" for value in (median(seconds), min(seconds), max(seconds)))
                lines.append([dataset.name, options.backbone, kind, *numbers])
                print(f"{dataset.name} {kind}: {median(seconds):.3f} s", file=sys.stderr)
    print(f"{hardware('cpu', threads)}; commit {commit('server', 'trainers')}; {versions('torch')}; ", end="")
    print(f"{EPOCHS} epochs, medians of {options.runs} trials, seconds beside training and evaluation\n")
    print(table(("dataset", "backbone", "trial", "median", "least", "most"), lines, left=3))


if __name__ == "__main__":
    main()
