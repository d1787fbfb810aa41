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

from benchmarks import arrival, catalogue, study
from benchmarks.harness import entrants, files, machine, speed_page
from benchmarks.harness.children import ChildFailed, answers
from benchmarks.harness.entrants import Entrant, Who
from benchmarks.harness.markdown import between
from benchmarks.harness.measure_ours import Ours, train_ours
from benchmarks.harness.measuring import exit_code
from benchmarks.harness.rows import RESULTS, Row, Store, Value
from benchmarks.harness.task import Arrays, PeerTraining
from benchmarks.peers import interpreters
from benchmarks.peers.interpreters import Peers, how_to_install
from trainers.contract.metrics import filter_rule
from trainers.data import Dataset

DOCUMENT = machine.ROOT / "docs" / "results" / "speed.md"
COMMAND = (
    "python -m benchmarks.trainers --rectools-python DIR/rectools/bin/python --replay-python DIR/replay/bin/python "
    "--write` after `python -m benchmarks.peers install DIR"
)


@dataclass(frozen=True)
class Step:
    """One process: run number `run` of an entrant, which gives rows for `epochs`."""

    entrant: Entrant
    run: int
    epochs: tuple[int, ...]


@dataclass(frozen=True)
class Bench:
    """The store, the machine and the time limit of all measurements."""

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
        return who not in interpreters.PACKAGES or self.peers.python(who) is not None

    def row(self, step: Step, epoch: int, dataset: Dataset, values: dict[str, Value]) -> Row:
        """The row of one epoch of a step."""
        entrant = step.entrant
        about: dict[str, Value] = {
            "trainer": entrant.name,
            "loss": entrant.loss_in_words,
            "hidden_dim": entrant.hidden_dim,
        }
        return Row(
            name=entrant.title, dataset=dataset.name, dataset_hash=dataset.content_hash,
            spec_hash=entrant.spec_hash, commit=self.code(entrant.who),
            hardware=machine.hardware(self.device, self.threads), versions=self.versions(entrant.who),
            run=step.run, epoch=epoch, values=about | values,
        )  # fmt: skip

    def code(self, who: Who) -> str:
        """The commit of our code, or the version of a peer's package."""
        if who == "ours":
            return machine.commit("trainers")
        if who == "padded":
            return machine.commit("benchmarks/peers/padded_reference.py")
        python = self.peers.python(who)
        return machine.version(interpreters.PACKAGES[who], python) if python else "not installed"

    def versions(self, who: Who) -> str:
        """The versions of the packages that the measured code runs on."""
        return machine.versions("torch", python=self.peers.python(who))

    def missing(self, steps: list[Step], dataset: Dataset) -> Iterator[Step]:
        """The steps that are incomplete, each with the epochs that have no row yet."""
        for step in steps:
            epochs = [epoch for epoch in step.epochs if not self.store.has(self.row(step, epoch, dataset, {}).key)]
            if epochs:
                yield Step(step.entrant, step.run, tuple(epochs))


def steps_of(rows: list[Who], hidden_dim: int, epochs: int) -> list[Step]:
    """The processes of one dataset and width. Ours run before and after the others, because machines are noisy."""
    all_entrants = [entrant for entrant in entrants.entrants(hidden_dim) if entrant.who in rows]
    ours = [entrant for entrant in all_entrants if entrant.who == "ours"]
    counted = tuple(range(2, entrants.OUR_EPOCHS + 1))
    first, *later = [[Step(entrant, run, counted) for entrant in ours] for run in range(1, entrants.OUR_RUNS + 1)]
    others = [Step(entrant, 1, tuple(range(1, epochs + 1))) for entrant in all_entrants if entrant.who != "ours"]
    return [*first, *others, *(step for again in later for step in again)]


def measure(bench: Bench, step: Step, dataset: Dataset, arrays: Arrays) -> None:
    """Runs one process and stores its rows; a peer's row is stored after each epoch."""
    entrant = step.entrant
    tokens = arrays.predictions(int(entrants.SIZES["max_length"]))
    folder = bench.scratch / f"{dataset.name}-{entrant.who}-{entrant.spec_hash}-{step.run}"

    def store(epoch: int, seconds: float, eval_seconds: float) -> None:
        values: dict[str, Value] = {"seconds": seconds, "eval_seconds": eval_seconds, "tokens": tokens}
        bench.store.add(bench.row(step, epoch, dataset, values))

    if entrant.who == "ours":
        ours = Ours(dataset, entrant.backbone, entrant.training, bench.threads, device=bench.device)
        for epoch in train_ours(ours, folder).epochs:
            if epoch.epoch in step.epochs:
                store(epoch.epoch, epoch.seconds, epoch.eval_seconds)
        return
    task = task_of(bench, step, dataset, arrays, folder)
    with closing(answers(entrants.MODULES[entrant.who], task, folder, bench.peers.python(entrant.who))) as peer_epochs:
        for epoch, answer in zip(step.epochs, peer_epochs, strict=False):
            store(epoch, answer.seconds, answer.eval_seconds)
            if bench.time_is_up:
                return


def task_of(bench: Bench, step: Step, dataset: Dataset, arrays: Arrays, folder: Path) -> PeerTraining:
    """The task for a peer's trainer. Its data is written to `folder`."""
    entrant = step.entrant
    folder.mkdir(parents=True, exist_ok=True)
    arrays.write(folder / "arrays.npz")
    return PeerTraining(
        arrays=str(folder / "arrays.npz"), folder=str(folder), hidden_dim=entrant.hidden_dim, loss=entrant.loss,
        num_negatives=entrant.negatives, epochs=len(step.epochs), threads=bench.threads, device=bench.device,
        filter_seen=filter_rule("auto", dataset.facts) == "yes", bucket_size=entrant.bucket_size,
    )  # fmt: skip


def run(bench: Bench, data: Path | None, names: list[str], steps: list[Step]) -> list[str]:
    """Measures what is missing until the time is up; returns a line for each step that is still missing."""
    missing: list[str] = []
    for name in names:
        dataset = files.stored(bench.scratch / "datasets", data, name)
        arrays = files.arrays_of(dataset)
        for step in list(bench.missing(steps, dataset)):
            if bench.installed(step.entrant.who) and not bench.time_is_up:
                print(f"{name}: {step.entrant.title}, run {step.run}, epochs {step.epochs}", file=sys.stderr)
                try:
                    measure(bench, step, dataset, arrays)
                except ChildFailed as error:
                    missing.append(f"{name}: {step.entrant.title}: {error}")
                    continue
        for step in bench.missing(steps, dataset):
            why = "" if bench.installed(step.entrant.who) else f": not installed; {how_to_install(step.entrant.who)}"
            missing.append(f"{name}: {step.entrant.title}, run {step.run}, epochs {step.epochs}{why}")
    return missing


def beyond_epochs(folder: Path, speed: list[Row]) -> str:
    """The sections of the page that come from the row files of other benchmarks in `folder`."""
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
    parser.add_argument("--write", action="store_true", help="write docs/results/speed.md")
    interpreters.add_options(parser)
    options = parser.parse_args(arguments)
    if unknown := set(options.rows.split(",")) - set(entrants.WHO):
        parser.error(f"--rows: nobody is called {', '.join(sorted(unknown))}; there are {', '.join(entrants.WHO)}")
    rows: list[Who] = [who for who in entrants.WHO if who in options.rows.split(",")]
    store = Store(options.results or RESULTS / "trainers.jsonl")
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        bench = Bench(
            store,
            Path(scratch),
            options.device,
            options.threads,
            interpreters.peers_of(options),
            time.monotonic() + 60 * options.minutes,
        )
        steps = [step for width in options.dims.split(",") for step in steps_of(rows, int(width), options.epochs)]
        missing = run(bench, options.data, options.datasets.split(","), steps)
    here = machine.hardware(options.device, options.threads)
    print(speed_page.tables([row for row in store.rows if row.hardware == here]))
    if options.write:
        text = speed_page.page(store.rows, COMMAND) + beyond_epochs(store.path.parent, store.rows)
        DOCUMENT.write_text(text, encoding="utf-8")
    return exit_code(missing)


if __name__ == "__main__":
    sys.exit(main())
