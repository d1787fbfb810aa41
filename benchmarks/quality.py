"""Validation and sealed test metrics of a frozen preset on every dataset, exactly as a study trains and reveals it.

python -m benchmarks.quality [--data DIR] [--presets strong] [--backbones sasrec,hstu] [--seeds 0,1,2] [--write]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.harness import files, machine
from benchmarks.harness.children import ChildFailed, environment, last_line
from benchmarks.harness.markdown import between, centre, duration, grouped, mean_and_sd, newest, table
from benchmarks.harness.measure_ours import Measured, Ours, spec_hash, train_ours
from benchmarks.harness.measuring import Wanted, complete, exit_code
from benchmarks.harness.rows import RESULTS, Row, Store, Value
from server.executors.base import write_whole
from trainers.contract.presets import Preset, preset
from trainers.contract.space import Config
from trainers.contract.wire import (
    CHECKPOINT_FILE,
    LOG_FILE,
    REQUEST_FILES,
    RESULT_FILES,
    CheckpointPath,
    EvaluationSpec,
    Revealed,
)
from trainers.data import Dataset

DOCUMENT = machine.ROOT / "docs" / "results" / "quality.md"
SHOWN = ("ndcg@10", "recall@10")
HEAD = """# Quality of the presets

Mean and standard deviation over seeds of full-ranking metrics: leave-one-out, the history filtered unless more than
1 % of the training events repeat an item. Each training is the preset as it stands, in a run directory of its own; the
sealed test is read once, from the checkpoint of the epoch that validated best. "to the best" is the time until that
epoch had ended, evaluations included.

"""


@dataclass(frozen=True)
class Question:
    """One training to measure: a preset on one dataset, with one backbone and one seed."""

    dataset: Dataset
    preset: Preset
    backbone: str
    seed: int

    @property
    def config(self) -> Config:
        return preset(self.preset, self.backbone, self.dataset.facts).model_dump()


def questions(
    datasets: Sequence[Dataset], presets: list[Preset], backbones: list[str], seeds: list[int]
) -> Iterator[Question]:
    """Every training, seed by seed, so that an interrupted run has covered every dataset once."""
    for seed in seeds:
        for name in presets:
            for dataset in datasets:
                for backbone in backbones:
                    yield Question(dataset, name, backbone, seed)


def row_of(question: Question, device: str, threads: int) -> Row:
    """The row of a question, without its values."""
    dataset, config = question.dataset, question.config
    return Row(
        name=f"{question.backbone} {question.preset}", dataset=dataset.name, dataset_hash=dataset.content_hash,
        spec_hash=spec_hash(question.backbone, config), commit=machine.commit("trainers"),
        hardware=machine.hardware(device, threads), versions=machine.versions("torch"), seed=question.seed, values={},
    )  # fmt: skip


def wanted(pending: Iterable[Question], device: str, threads: int, scratch: Path) -> Iterator[Wanted]:
    """The row that each question asks for. Each is measured in its own folder."""
    for number, question in enumerate(pending):
        row = row_of(question, device, threads)
        measure = partial(answer, question, device, threads, scratch / f"q-{number}")
        yield Wanted(f"{row.dataset}: {row.name}, seed {row.seed}", row, measure)


def answer(question: Question, device: str, threads: int, folder: Path) -> dict[str, Value]:
    """Trains in `folder`, then reads the sealed test of the trained model. Raises ChildFailed."""
    ours = Ours(question.dataset, question.backbone, question.config, threads, question.seed, device)
    measured = train_ours(ours, folder / "trial")
    test = revealed(measured, ours, folder / "reveal")
    result = measured.result
    assert result.best_epoch is not None
    until_best = measured.epochs[: result.best_epoch]
    return {
        "status": result.status,
        **{f"validation {name}": result.validation[name] for name in SHOWN},
        **{f"test {name}": test[name] for name in SHOWN},
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "seconds_to_best": sum(epoch.seconds + epoch.eval_seconds for epoch in until_best),
        "seconds_per_epoch": result.seconds / result.epochs,
        "peak_memory_mb": result.peak_memory_mb,
    }


def revealed(measured: Measured, ours: Ours, folder: Path) -> dict[str, float]:
    """The sealed test metrics of a checkpoint, read by the same child that a study uses. Raises ChildFailed."""
    folder.mkdir(parents=True)
    trial = CheckpointPath(trial_id=measured.result.trial_id, path=f"../{measured.directory.name}/{CHECKPOINT_FILE}")
    request = EvaluationSpec(dataset_hash=ours.dataset.content_hash, checkpoints=(trial,))
    write_whole(folder / REQUEST_FILES["evaluate"], request.model_dump_json())
    command = [sys.executable, "-P", "-m", "trainers", "evaluate", str(folder)]
    command += ["--datasets", str(ours.dataset.path.parent.absolute())]
    with (folder / LOG_FILE).open("wb") as log:
        variables = environment(ours.device, ours.threads, folder)
        subprocess.run(command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        reveal = Revealed.model_validate_json((folder / RESULT_FILES["evaluate"]).read_bytes())
    except FileNotFoundError:
        raise ChildFailed(f"the test was not read: {last_line(folder / 'trial.log')}") from None
    if reveal.status != "ok":
        raise ChildFailed(f"the test was not read: {reveal.message}")
    return reveal.trials[trial.trial_id]


def tables(rows: Sequence[Row]) -> str:
    """A table for each preset and processor, with a line for each dataset and backbone."""
    parts: list[str] = []
    for (name, hardware), preset_rows in grouped(rows, lambda row: (row.name.split()[1], row.hardware)).items():
        lines = [
            line_of(newest(group))
            for group in grouped(preset_rows, lambda row: (row.dataset, row.dataset_hash, row.name)).values()
        ]
        headings = (
            "dataset", "backbone", "test ndcg@10", "test recall@10", "validation ndcg@10", "validation recall@10",
            "seeds", "best epoch", "to the best", "s/epoch", "peak MB", "commit",
        )  # fmt: skip
        about = f"{hardware}, {between(preset_rows)}"
        parts.append(f"## Preset `{name}`\n\n{about}\n\n{table(headings, sorted(lines), left=2)}\n")
    return "\n".join(parts)


def line_of(rows: Sequence[Row]) -> list[str]:
    """The line of one dataset and backbone."""

    def numbers(name: str) -> list[float]:
        return [row.number(name) for row in rows]

    metrics = [mean_and_sd(numbers(f"{split} {name}")) for split in ("test", "validation") for name in SHOWN]
    failed = [row for row in rows if row.values["status"] != "ok"]
    return [
        rows[0].dataset, rows[0].name.split()[0], *metrics,
        str(len(rows)) + (f" ({len(failed)} not ok)" if failed else ""), centre(numbers("best_epoch")),
        duration(median(numbers("seconds_to_best"))), centre(numbers("seconds_per_epoch")),
        f"{max(numbers('peak_memory_mb')):,.0f}", rows[-1].commit,
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = files.options(__doc__ or "")
    parser.add_argument("--presets", default="strong", metavar="A,B", help="strong, paper")
    parser.add_argument("--backbones", default="sasrec,hstu", metavar="A,B")
    parser.add_argument("--datasets", default="all", metavar="A,B")
    parser.add_argument("--seeds", default="0,1,2", metavar="A,B")
    parser.add_argument("--write", action="store_true", help="write docs/results/quality.md")
    options = parser.parse_args(arguments)
    store = Store(options.results or RESULTS / "quality.jsonl")
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        names = (
            files.names_in(files.folder_of(options.data)) if options.datasets == "all" else options.datasets.split(",")
        )
        datasets = [files.stored(Path(scratch) / "datasets", options.data, name) for name in names]
        seeds = [int(seed) for seed in options.seeds.split(",")]
        pending = questions(datasets, options.presets.split(","), options.backbones.split(","), seeds)
        missing = complete(store, wanted(pending, options.device, options.threads, Path(scratch)), options.minutes)
    print(tables(store.rows))
    if options.write:
        command = "Again: `python -m benchmarks.quality --write`\n\n"
        DOCUMENT.write_text(HEAD + command + tables(store.rows), encoding="utf-8")
    return exit_code(missing)


if __name__ == "__main__":
    sys.exit(main())
