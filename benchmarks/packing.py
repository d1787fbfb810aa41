"""Trials per minute of a full queue: one at a time with every core, against as many at a time as there are slots.

python -m benchmarks.packing [--dataset demo|PATH] [--trials 8] [--runs 3] [--slots 1,2] [--epochs 10]

Each way gets the same trials (seeds 0, 1, …) at once, in a home of its own that has trained one trial before; a way
with more slots divides the cores between them. Medians over the runs, which take turns; busy is the share of the cores
that was in use, on a GPU the share of time in which it worked.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psutil
from mcp import Client

from benchmarks.machine import commit, hardware, versions
from benchmarks.tables import table
from server.app import create_app
from server.gpus import found_gpus
from server.runtime import open_runtime
from server.settings import Settings
from trainers.data import add, ensure

SAMPLE_SECONDS = 0.5


async def one_run(home: Path, dataset: str, slots: int, trials: int, epochs: int) -> tuple[float, float]:
    """Seconds for all trials, and the share of the machine that was busy."""
    settings = Settings(home=home, slots=slots)
    space = {"max_epochs": epochs, "patience": epochs}
    async with open_runtime(settings) as runtime, Client(create_app(runtime)) as client:

        async def call(tool: str, **asked: object) -> dict[str, object]:
            answer = await client.call_tool(tool, dict(asked))
            if answer.is_error:
                raise RuntimeError(f"{tool} failed: {answer.content}")
            return answer.structured_content or {}

        study = (await call("start_study", dataset=dataset, space=space, early_stop="off"))["study_id"]
        await call("run_trial", study_id=study, seed=1000, wait_seconds=600)  # the workers are loaded
        began, shares = time.perf_counter(), list[float]()
        started = [await call("run_trial", study_id=study, seed=seed, wait_seconds=0) for seed in range(trials)]
        watching = asyncio.create_task(_watch(shares))
        for trial in started:
            ended = await call("get_trial", trial_id=trial["trial_id"], wait_seconds=3000)
            if ended["status"] != "ok":
                raise RuntimeError(f"{trial['trial_id']} ended {ended['status']}")
        seconds = time.perf_counter() - began
        watching.cancel()
    return seconds, median(shares) if shares else 0.0


async def _watch(shares: list[float]) -> None:
    psutil.cpu_percent()
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        shares.append(await asyncio.to_thread(_busy))


def _busy() -> float:
    if not found_gpus():
        return psutil.cpu_percent()
    asked = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    return sum(map(float, lines)) / len(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--slots", default="1,2")
    parser.add_argument("--epochs", type=int, default=10)
    asked = parser.parse_args(arguments)
    ways = [int(word) for word in asked.slots.split(",")]
    found: dict[int, list[tuple[float, float]]] = {slots: [] for slots in ways}
    for _ in range(asked.runs):
        for slots in ways:
            with tempfile.TemporaryDirectory() as folder:
                home, name = Path(folder) / "home", "demo"
                settings = Settings(home=home)
                if asked.dataset == "demo":
                    ensure(settings.datasets, name)
                else:
                    name = Path(asked.dataset).stem
                    add(settings.datasets, name, Path(asked.dataset))
                found[slots].append(asyncio.run(one_run(home, name, slots, asked.trials, asked.epochs)))
    first = median(seconds for seconds, _ in found[ways[0]])
    lines: list[list[str]] = []
    for slots, runs in found.items():
        seconds, busy = median(one for one, _ in runs), median(share for _, share in runs)
        rate = f"{60 * asked.trials / seconds:.1f}"
        spread = f"{min(one for one, _ in runs):.1f}-{max(one for one, _ in runs):.1f}"
        lines.append([str(slots), f"{seconds:.1f}", spread, rate, f"{first / seconds:.2f}", f"{busy:.0f} %"])
    device = "cuda" if found_gpus() else "cpu"
    machine = f"{hardware(device, Settings(home=Path()).threads)}; {commit('server', 'trainers')}; {versions('torch')}"
    heads = ["slots", "seconds", "range", "trials a minute", f"against {ways[0]}", "busy"]
    told = f"{asked.dataset}, {asked.trials} trials of {asked.epochs} epochs, {asked.runs} runs; {machine}"
    sys.stdout.write(f"{told}\n\n{table(heads, lines)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
