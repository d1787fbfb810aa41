"""Seconds per epoch and per full ranking: ours, a padded reference, RecTools and RePlay side by side.

python -m benchmarks.trainers [--data DIR] [--datasets Beauty,LastFM] [--minutes N] [--rows ours,padded,…] [--write]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import arrival, catalogue, entrants, files, machine, peers, speed_page, study
from benchmarks.children import ChildFailed, answers
from benchmarks.entrants import Entrant, Who
from benchmarks.measure_ours import Ours, train_ours
from benchmarks.measuring import exit_code
from benchmarks.peers import Peers, how_to_install
from benchmarks.rows import RESULTS, Row, Store, Value
from benchmarks.tables import between
from benchmarks.task import Arrays, Task
from trainers.data import Dataset
from trainers.metrics import filter_rule

DOCUMENT = machine.ROOT / "docs" / "speed.md"
COMMAND = (
    "python -m benchmarks.trainers --rectools-python DIR/rectools/bin/python --replay-python DIR/replay/bin/python "
    "--write` after `python -m benchmarks.peers install DIR"
)


@dataclass(frozen=True)
class Step:
    """One process: an entrant's `run`-th, which gives rows for these epochs."""

    entrant: Entrant
    run: int
    epochs: tuple[int, ...]


@dataclass(frozen=True)
class Bench:
    """Where and how all of it is measured."""

    store: Store
    scratch: Path
    device: str
    threads: int
    peers: Peers
    until: float

    @property
    def time_is_up(self) -> bool:
        return time.monotonic() >= self.until

    def installed(self, who: Who) -> bool:
        """Whether there is an interpreter that can measure `who`."""
        return who not in peers.PACKAGES or self.peers.python(who) is not None

    def row(self, step: Step, epoch: int, dataset: Dataset, values: dict[str, Value]) -> Row:
        """The row of one epoch of a step."""
        one = step.entrant
        about: dict[str, Value] = {"trainer": one.name, "loss": one.loss_in_words, "hidden_dim": one.hidden_dim}
        return Row(
            name=one.title, dataset=dataset.name, dataset_hash=dataset.content_hash,
            spec_hash=one.spec_hash, commit=self.code(one.who), hardware=machine.hardware(self.device, self.threads),
            versions=self.versions(one.who), run=step.run, epoch=epoch, values=about | values,
        )  # fmt: skip

    def code(self, who: Who) -> str:
        """The commit of our code, or the version of a peer's package."""
        if who == "ours":
            return machine.commit("trainers")
        if who == "padded":
            return machine.commit("benchmarks/padded_reference.py")
        python = self.peers.python(who)
        return machine.version(peers.PACKAGES[who], python) if python else "not installed"

    def versions(self, who: Who) -> str:
        """Versions beside the code's own."""
        return machine.versions("torch", python=self.peers.python(who))

    def missing(self, steps: list[Step], dataset: Dataset) -> Iterator[Step]:
        """What is left of `steps`: each with the epochs that have no row yet."""
        for step in steps:
            left = [epoch for epoch in step.epochs if not self.store.has(self.row(step, epoch, dataset, {}).key)]
            if left:
                yield Step(step.entrant, step.run, tuple(left))


def steps_of(rows: list[Who], hidden_dim: int, epochs: int) -> list[Step]:
    """The processes of one dataset and width, ours before and after the others: machines are noisy."""
    all_of_them = [one for one in entrants.entrants(hidden_dim) if one.who in rows]
    ours = [one for one in all_of_them if one.who == "ours"]
    counted = tuple(range(2, entrants.OUR_EPOCHS + 1))
    first, *later = [[Step(one, run, counted) for one in ours] for run in range(1, entrants.OUR_RUNS + 1)]
    others = [Step(one, 1, tuple(range(1, epochs + 1))) for one in all_of_them if one.who != "ours"]
    return [*first, *others, *(step for again in later for step in again)]


def measure(bench: Bench, step: Step, dataset: Dataset, arrays: Arrays) -> None:
    """Runs one process and stores its rows, those of the others as soon as each is known."""
    one = step.entrant
    tokens = arrays.predictions(int(entrants.SIZES["max_length"]))
    folder = bench.scratch / f"{dataset.name}-{one.who}-{one.spec_hash}-{step.run}"

    def store(epoch: int, seconds: float, eval_seconds: float) -> None:
        values: dict[str, Value] = {"seconds": seconds, "eval_seconds": eval_seconds, "tokens": tokens}
        bench.store.add(bench.row(step, epoch, dataset, values))

    if one.who == "ours":
        ours = Ours(dataset, one.backbone, one.training, bench.threads, device=bench.device)
        for epoch in train_ours(ours, folder).epochs:
            if epoch.epoch in step.epochs:
                store(epoch.epoch, epoch.seconds, epoch.eval_seconds)
        return
    task = task_of(bench, step, dataset, arrays, folder)
    with closing(answers(entrants.MODULES[one.who], task, folder, bench.peers.python(one.who))) as said:
        for epoch, answer in zip(step.epochs, said, strict=False):
            store(epoch, answer.seconds, answer.eval_seconds)
            if bench.time_is_up:
                return


def task_of(bench: Bench, step: Step, dataset: Dataset, arrays: Arrays, folder: Path) -> Task:
    """What the child of somebody else's trainer is asked to do, its data written to `folder`."""
    one = step.entrant
    folder.mkdir(parents=True, exist_ok=True)
    arrays.write(folder / "arrays.npz")
    return Task(
        arrays=str(folder / "arrays.npz"), folder=str(folder), hidden_dim=one.hidden_dim, loss=one.loss,
        num_negatives=one.negatives, epochs=len(step.epochs), threads=bench.threads, device=bench.device,
        filter_seen=filter_rule("auto", dataset.facts) == "yes", bucket_size=one.bucket_size,
    )  # fmt: skip


def run(bench: Bench, data: Path | None, names: list[str], steps: list[Step]) -> list[str]:
    """Measures what is missing until the time is up, and tells in words what still is."""
    left: list[str] = []
    for name in names:
        dataset = files.stored(bench.scratch / "datasets", data, name)
        arrays = files.arrays_of(dataset)
        for step in list(bench.missing(steps, dataset)):
            if bench.installed(step.entrant.who) and not bench.time_is_up:
                print(f"{name}: {step.entrant.title}, run {step.run}, epochs {step.epochs}", file=sys.stderr)
                try:
                    measure(bench, step, dataset, arrays)
                except ChildFailed as error:
                    left.append(f"{name}: {step.entrant.title}: {error}")
                    continue
        for step in bench.missing(steps, dataset):
            why = "" if bench.installed(step.entrant.who) else f": not installed; {how_to_install(step.entrant.who)}"
            left.append(f"{name}: {step.entrant.title}, run {step.run}, epochs {step.epochs}{why}")
    return left


def beyond_epochs(folder: Path, speed: list[Row]) -> str:
    """What the row files of the other benchmarks in `folder` add to the page."""
    raced, studied, large = (Store(folder / f"{name}.jsonl").rows for name in ("arrival", "study", "catalogue"))
    parts = (
        ("Seconds to a validation quality", "python -m benchmarks.arrival", raced, arrival.arrivals),
        ("A whole study", "python -m benchmarks.study", studied, lambda rows: study.page(rows, speed)),
        ("A large catalogue", "python -m benchmarks.catalogue", large, catalogue.page),
    )
    return "".join(
        f"\n## {title}\n\n`{command}`, {between(rows)}\n\n{table(rows)}\n"
        for title, command, rows, table in parts
        if rows
    )


def main(arguments: list[str] | None = None) -> int:
    parser = files.options(__doc__ or "")
    parser.add_argument("--datasets", default="Beauty,LastFM", metavar="A,B")
    parser.add_argument("--rows", default=",".join(entrants.WHO), metavar="A,B", help="whom to time; default: all")
    parser.add_argument("--dims", default="64,128", metavar="A,B", help="widths of the models")
    parser.add_argument("--epochs", type=int, default=2, metavar="N", help="timed epochs of the others")
    parser.add_argument("--write", action="store_true", help="write docs/speed.md")
    peers.add_options(parser)
    given = parser.parse_args(arguments)
    if unknown := set(given.rows.split(",")) - set(entrants.WHO):
        parser.error(f"--rows: nobody is called {', '.join(sorted(unknown))}; there are {', '.join(entrants.WHO)}")
    rows: list[Who] = [who for who in entrants.WHO if who in given.rows.split(",")]
    store = Store(given.results or RESULTS / "trainers.jsonl")
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        bench = Bench(
            store, Path(scratch), given.device, given.threads, peers.given(given), time.monotonic() + 60 * given.minutes
        )
        steps = [step for width in given.dims.split(",") for step in steps_of(rows, int(width), given.epochs)]
        left = run(bench, given.data, given.datasets.split(","), steps)
    here = machine.hardware(given.device, given.threads)
    print(speed_page.tables([row for row in store.rows if row.hardware == here]))
    if given.write:
        text = speed_page.page(store.rows, COMMAND) + beyond_epochs(store.path.parent, store.rows)
        DOCUMENT.write_text(text, encoding="utf-8")
    return exit_code(left)


if __name__ == "__main__":
    sys.exit(main())
