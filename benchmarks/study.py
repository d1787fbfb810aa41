"""Wall clock of a whole study through the command line, beside one training of the same model by RecTools.

python -m benchmarks.study [--data DIR] [--dataset Beauty] [--trials 12] [--policy playbook]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import files, machine
from benchmarks.harness.entrants import Entrant
from benchmarks.harness.markdown import duration, grouped, newest, table
from benchmarks.harness.rows import RESULTS, Row, Store, Value
from memory.statistics.noise import Sigma, half_width, relative
from server.policies.sampling import changes_between
from trainers.contract.fields import space_of
from trainers.contract.presets import preset
from trainers.contract.space import Space
from trainers.data import Dataset
from trainers.data.demo import DEMO

CODE = ("server", "memory", "prompts", "trainers")
METRIC = "ndcg@10"
RECTOOLS = Entrant("rectools", "RecTools SASRec", 64, "full_softmax")
RECTOOLS_EPOCHS = 3
"""The default number of epochs of RecTools' SASRecModel."""


def play(options: argparse.Namespace, dataset: Dataset, home: Path) -> dict[str, Value]:
    """Imports the dataset, runs the study and stops the owner of `home`. Only the study is timed."""
    variables = {**os.environ, "PYTHONPATH": str(machine.ROOT), "VIRTUALMLE_THREADS": str(options.threads)}
    if options.device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""

    def output_of(*words: str) -> str:
        command = [sys.executable, "-P", "-m", *words, "--home", str(home)]
        return subprocess.run(command, env=variables, cwd=home, check=True, stdout=subprocess.PIPE, text=True).stdout

    home.mkdir(parents=True)
    if options.dataset != DEMO:
        path = files.folder_of(options.data) / f"{options.dataset}.txt"
        output_of("server.cli", "data", "add", options.dataset, str(path.absolute()))
    arguments = ["--dataset", options.dataset, "--backbone", options.backbone, "--policy", options.policy]
    arguments += ["--trials", str(options.trials), "--seed", str(options.seed), *(options.more or [])]
    started = time.monotonic()
    try:
        report = json.loads(output_of("server.drive", *arguments, "--json"))
        seconds = time.monotonic() - started
    finally:
        output_of("server.cli", "stop")
    spec = preset(report["preset"], report["backbone"], dataset.facts)
    return values_of(report, seconds, space_of(type(spec), spec.model_dump()))


def values_of(report: dict[str, Any], seconds: float, space: Space) -> dict[str, Value]:
    """The values of the row, from report.json. `space` has the default of the study."""
    trials, default, best = report["trials"], report["default"], report["best"] or {}
    changes = changes_between(space, space.default(), best.get("config", space.default()))
    first = [trial["epochs"] for trial in trials if trial["number"] == 0 and trial["epochs"]]
    return {
        "seconds": seconds,
        "trainings": report["trainings"],
        "epochs": sum(trial["epochs"] or 0 for trial in trials),
        "default_epochs": median(first) if first else None,
        "failed": sum(trial["status"] not in ("ok", "stopped") for trial in trials),
        "default_validation": default["validation"].get(METRIC),
        "best_validation": best.get("validation", {}).get(METRIC),
        "default_test": default["test"].get(METRIC),
        "best_test": best.get("test", {}).get(METRIC),
        "default_seeds": len(default["trial_ids"]),
        "best_seeds": len(best.get("trial_ids", [])),
        "best_changes": ", ".join(f"{name}={value}" for name, value in changes.items()),
        "sigma": report["noise"]["sigma"],
        "df": report["noise"]["df"],
    }


def row_of(options: argparse.Namespace, dataset: Dataset) -> Row:
    """The row of this study, without its values."""
    settings = [options.backbone, options.policy, options.trials, options.more]
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:20]
    more = "".join(f" {word}" for word in options.more or [])
    about = f", {options.about}" if options.about else ""
    return Row(
        name=f"{options.backbone}, {options.policy}, {options.trials} trials{more}{about}", dataset=dataset.name,
        dataset_hash=dataset.content_hash, spec_hash=digest, commit=machine.commit(*CODE),
        hardware=machine.hardware(options.device, options.threads), versions=machine.versions("torch"),
        seed=options.seed, values={},
    )  # fmt: skip


def page(rows: Sequence[Row], speed: Sequence[Row]) -> str:
    """The table of studies, each followed by the time of one training by RecTools: seconds per epoch times epochs."""
    lines: list[list[str]] = []
    for group in grouped(rows, lambda row: (row.dataset, row.name, row.seed, row.hardware)).values():
        row = newest(group)[-1]
        lines.append([
            f"study: {row.name}, seed {row.seed}", row.dataset, duration(row.number("seconds")),
            str(row.values["trainings"]), str(row.values["epochs"]), _default_to_best(row, "validation"),
            _default_to_best(row, "test"),
            _noise_text(row), str(row.values.get("best_changes") or ""), row.commit, row.hardware,
        ])  # fmt: skip
        lines += [
            [f"one training by {RECTOOLS.name}: {why}", row.dataset, cost, "1", f"{epochs:.0f}", "", "", "", "",
             version, row.hardware]
            for why, cost, epochs, version in _rectools_trainings(row, speed)
        ]  # fmt: skip
    headings = (
        "what", "dataset", "wall clock", "trainings", "epochs", f"validation {METRIC}", f"test {METRIC}", "noise",
        "best found", "version", "hardware",
    )  # fmt: skip
    return table(headings, lines, left=2)


def _default_to_best(row: Row, split: str) -> str:
    values = [row.values[f"{which}_{split}"] for which in ("default", "best")]
    return " → ".join("–" if value is None else f"{value:.4f}" for value in values)


def _noise_text(row: Row) -> str:
    """The difference of the means that is beyond seed noise, with the number of seeds on both sides."""
    seeds = [row.values.get(f"{which}_seeds") for which in ("best", "default")]
    if row.values.get("sigma") is None or not all(seeds):
        return ""
    best, default = (int(seed or 0) for seed in seeds)
    width = half_width(Sigma(row.number("sigma"), row.number("df")), best, default)
    return f"±{relative(width):.1%} with {best} and {default} seeds"


def _rectools_trainings(row: Row, speed: Sequence[Row]) -> list[tuple[str, str, float, str]]:
    """One training by RecTools with its default epochs, and with as many as ours; empty where it was not timed."""
    same = [
        other for other in speed
        if (other.name, other.dataset, other.dataset_hash, other.hardware)
        == (RECTOOLS.title, row.dataset, row.dataset_hash, row.hardware)
    ]  # fmt: skip
    if not same:
        return []
    measured = newest(same)
    seconds = median(other.number("seconds") for other in measured)
    numbers = [("its default epochs", float(RECTOOLS_EPOCHS))]
    if row.values["default_epochs"] is not None:
        numbers.append(("as many epochs as our default", row.number("default_epochs")))
    return [(why, duration(seconds * epochs), epochs, measured[-1].commit) for why, epochs in numbers]


def main(arguments: list[str] | None = None) -> int:
    parser = files.options(__doc__ or "")
    parser.add_argument("--dataset", default="Beauty")
    parser.add_argument("--backbone", default="sasrec")
    parser.add_argument("--policy", default="playbook")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--about", default="", metavar="WORDS", help="on the circumstances, kept with the row")
    parser.add_argument("--speed", type=Path, default=RESULTS / "trainers.jsonl", metavar="FILE", help="RecTools' rows")
    parser.add_argument("--more", nargs=argparse.REMAINDER, metavar="…", help="further options of drive; comes last")
    options = parser.parse_args(arguments)
    store = Store(options.results or RESULTS / "study.jsonl")
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        dataset = files.stored(Path(scratch) / "datasets", options.data, options.dataset)
        row = row_of(options, dataset)
        if not store.has(row.key) and options.minutes > 0:
            try:
                store.add(replace(row, values=play(options, dataset, Path(scratch) / "home")))
            except subprocess.CalledProcessError as error:
                print(f"The study failed with exit code {error.returncode}; its last lines say why.", file=sys.stderr)
    print(page(store.rows, Store(options.speed).rows))
    return 0 if store.has(row.key) else 1


if __name__ == "__main__":
    sys.exit(main())
