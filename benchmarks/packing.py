"""Trials per minute of a full queue: one at a time with all cores, compared with several at a time in slots.

python -m benchmarks.packing [--dataset demo|PATH] [--trials 8] [--runs 3] [--slots 1,2] [--epochs 10]

Each number of slots gets a fresh home, which trains one trial first. Then it gets the same trials (seeds 0, 1, …), all
queued at once. Slots share the cores equally. The numbers are medians over the runs, and the numbers of slots take
turns. "busy" is the share of the cores in use, or the share of time in which the GPU worked.
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

from benchmarks.harness.machine import commit, hardware, versions
from benchmarks.harness.markdown import table
from server.owner.assembly import open_runtime
from server.scheduler.gpus import list_gpus
from server.settings import Settings
from server.tools.app import create_app
from trainers.data import add, ensure

SAMPLE_SECONDS = 0.5


async def one_run(home: Path, dataset: str, slots: int, trials: int, epochs: int) -> tuple[float, float]:
    """Seconds for all trials, and the median percentage of the machine that was busy."""
    settings = Settings(home=home, slots=slots)
    space = {"max_epochs": epochs, "patience": epochs}
    async with open_runtime(settings) as runtime, Client(create_app(runtime)) as client:

        async def call(tool: str, **arguments: object) -> dict[str, object]:
            answer = await client.call_tool(tool, dict(arguments))
            if answer.is_error:
                raise RuntimeError(f"{tool} failed: {answer.content}")
            return answer.structured_content or {}

        study = (await call("start_study", dataset=dataset, space=space, early_stop="off"))["study_id"]
        await call("run_trial", study_id=study, seed=1000, wait_seconds=600)  # so that the workers are loaded
        began, shares = time.perf_counter(), list[float]()
        started = [await call("run_trial", study_id=study, seed=seed, wait_seconds=0) for seed in range(trials)]
        sampling = asyncio.create_task(_sample_busy(shares))
        for trial in started:
            ended = await call("get_trial", trial_id=trial["trial_id"], wait_seconds=3000)
            if ended["status"] != "ok":
                raise RuntimeError(f"{trial['trial_id']} ended {ended['status']}")
        seconds = time.perf_counter() - began
        sampling.cancel()
    return seconds, median(shares) if shares else 0.0


async def _sample_busy(shares: list[float]) -> None:
    psutil.cpu_percent()
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        shares.append(await asyncio.to_thread(_busy_percent))


def _busy_percent() -> float:
    if not list_gpus():
        return psutil.cpu_percent()
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return sum(map(float, lines)) / len(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--slots", default="1,2")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args(arguments)
    slot_counts = [int(word) for word in options.slots.split(",")]
    runs_by_slots: dict[int, list[tuple[float, float]]] = {slots: [] for slots in slot_counts}
    for _ in range(options.runs):
        for slots in slot_counts:
            with tempfile.TemporaryDirectory() as folder:
                home, name = Path(folder) / "home", "demo"
                settings = Settings(home=home)
                if options.dataset == "demo":
                    ensure(settings.datasets_dir, name)
                else:
                    name = Path(options.dataset).stem
                    add(settings.datasets_dir, name, Path(options.dataset))
                runs_by_slots[slots].append(asyncio.run(one_run(home, name, slots, options.trials, options.epochs)))
    first = median(seconds for seconds, _ in runs_by_slots[slot_counts[0]])
    lines: list[list[str]] = []
    for slots, runs in runs_by_slots.items():
        times = [seconds for seconds, _ in runs]
        seconds, busy = median(times), median(share for _, share in runs)
        rate = f"{60 * options.trials / seconds:.1f}"
        spread = f"{min(times):.1f}-{max(times):.1f}"
        lines.append([str(slots), f"{seconds:.1f}", spread, rate, f"{first / seconds:.2f}", f"{busy:.0f} %"])
    device = "cuda" if list_gpus() else "cpu"
    machine = f"{hardware(device, Settings(home=Path()).threads)}; {commit('server', 'trainers')}; {versions('torch')}"
    heads = ["slots", "seconds", "range", "trials a minute", f"against {slot_counts[0]}", "busy"]
    title = f"{options.dataset}, {options.trials} trials of {options.epochs} epochs, {options.runs} runs; {machine}"
    sys.stdout.write(f"{title}\n\n{table(heads, lines)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
