"""Seconds from the start of a process to a given validation quality: ours, RePlay and RecTools.

python -m benchmarks.arrival [--data DIR] [--dataset Beauty] [--target 0.065] [--cap-minutes 60] [--peer-dropout P]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import entrants, files, machine, peers
from benchmarks.children import ChildFailed, answers
from benchmarks.entrants import Entrant
from benchmarks.measure_ours import Ours, spec_hash, train_ours
from benchmarks.measuring import Wanted, complete, exit_code
from benchmarks.peers import Peers, how_to_install
from benchmarks.rows import RESULTS, Row, Store, Value
from benchmarks.tables import duration, grouped, newest, table
from benchmarks.task import Task
from trainers.data import Dataset
from trainers.metrics import filter_rule, metrics_of
from trainers.space import Config
from trainers.spec import Epoch, preset

METRIC = "ndcg@10"
OWN_DROPOUT = {"rectools": 0.2, "replay": 0.3}
"""The defaults of the packages; ours trains with that of the preset `strong`."""
NO_GAIN_EPOCHS = 30
"""A peer that has not improved for so long will not arrive any more."""
MOST_EPOCHS = 1000
RACERS = (
    Entrant("ours", "VirtualMLE SASRec", 64, "full_softmax"),
    Entrant("ours", "VirtualMLE SASRec", 64, "sampled_softmax", 512, shared=True),
    Entrant("ours", "VirtualMLE HSTU", 64, "full_softmax", backbone="hstu"),
    Entrant("replay", "RePlay SASRec, length buckets", 64, "sampled_softmax", 512, shared=True, bucket_size=64),
    Entrant("rectools", "RecTools SASRec", 64, "sampled_softmax", 256),
)


@dataclass(frozen=True)
class Arrival:
    """How far a training came. `training_seconds` is the wall clock without evaluations."""

    arrived: bool
    seconds: float
    training_seconds: float
    epochs: int
    best: float
    best_epoch: int
    ended: str


@dataclass
class Race:
    """A training as it is watched: the score and the evaluation seconds of each epoch, and when it was there."""

    target: float
    cap_seconds: float
    scores: list[float]
    evaluations: list[float]
    seconds: float = 0.0

    def over(self, score: float, eval_seconds: float, seconds: float) -> bool:
        """Notes an epoch; whether there is nothing left to see."""
        self.scores.append(score)
        self.evaluations.append(eval_seconds)
        self.seconds = seconds
        return bool(self.end())

    def end(self) -> str:
        """Why it is over; empty while it is not."""
        if self.scores and self.scores[-1] >= self.target:
            return "arrived"
        if self.seconds >= self.cap_seconds:
            return f"cap of {duration(self.cap_seconds)}"
        if len(self.scores) - 1 - int(np.argmax(self.scores)) >= NO_GAIN_EPOCHS:
            return f"no gain for {NO_GAIN_EPOCHS} epochs"
        return ""

    def arrival(self) -> Arrival:
        """The whole of it. ChildFailed where no epoch ended."""
        if not self.scores:
            raise ChildFailed("no epoch ended")
        best = int(np.argmax(self.scores))
        return Arrival(
            self.end() == "arrived", self.seconds, self.seconds - sum(self.evaluations), len(self.scores),
            self.scores[best], best + 1, self.end() or "early stopping",
        )  # fmt: skip


def race_ours(ours: Ours, race: Race, folder: Path) -> None:
    """Our training with its own early stopping, watched from outside."""
    started = time.monotonic()

    def enough(epochs: tuple[Epoch, ...]) -> bool:
        fresh = epochs[len(race.scores) :]
        return any(race.over(one.validation[METRIC], one.eval_seconds, time.monotonic() - started) for one in fresh)

    train_ours(ours, folder, enough)


def race_peer(racer: Entrant, task: Task, python: Path, race: Race, folder: Path) -> None:
    """A peer's training, its ranks judged by our metrics."""
    started = time.monotonic()
    with closing(answers(entrants.MODULES[racer.who], task, folder, python)) as said:
        for answer in said:
            assert answer.ranks is not None
            path = folder / answer.ranks
            score = metrics_of(np.load(path))[METRIC]
            path.unlink()
            if race.over(score, answer.eval_seconds, time.monotonic() - started):
                return


def config_of(racer: Entrant, dataset: Dataset, options: argparse.Namespace) -> Config:
    """What the racer trains; of a peer's, only the sizes, dropout and loss are meant."""
    strong = preset("strong", racer.backbone, dataset.facts).model_dump()
    config: Config = {**strong, **racer.config, "dropout": strong["dropout"]}
    if racer.who != "ours":
        config["dropout"] = OWN_DROPOUT[racer.who] if options.peer_dropout is None else options.peer_dropout
    return config


def row_of(racer: Entrant, dataset: Dataset, config: Config, given: Peers, options: argparse.Namespace) -> Row:
    """The row of a racer, without its values. The target and the cap are part of what was asked."""
    python = given.python(racer.who)
    asked = f"{options.target:g} within {options.cap_minutes:g} min"
    return Row(
        name=f"{racer.name}, {racer.loss_in_words}, dropout {config['dropout']}: {METRIC} {asked}",
        dataset=dataset.name, dataset_hash=dataset.content_hash, spec_hash=spec_hash(racer.backbone, config),
        commit=machine.version(peers.PACKAGES[racer.who], python) if python else machine.commit("trainers"),
        hardware=machine.hardware(options.device, options.threads), versions=machine.versions("torch", python=python),
        seed=options.seed, values={},
    )  # fmt: skip


def run(
    racer: Entrant, dataset: Dataset, config: Config, given: Peers, options: argparse.Namespace, folder: Path
) -> dict[str, Value]:
    """Races once. Raises ChildFailed."""
    python = given.python(racer.who)
    race = Race(options.target, 60 * options.cap_minutes, [], [])
    if python is None:
        ours = Ours(
            dataset, racer.backbone, config, options.threads, options.seed, options.device, 60 * options.cap_minutes
        )
        race_ours(ours, race, folder)
    else:
        folder.mkdir(parents=True)
        files.arrays_of(dataset).write(folder / "arrays.npz")
        task = Task(
            arrays=str(folder / "arrays.npz"), folder=str(folder), hidden_dim=racer.hidden_dim, loss=racer.loss,
            num_negatives=racer.negatives, epochs=MOST_EPOCHS, threads=options.threads, device=options.device,
            dropout=float(config["dropout"]), seed=options.seed, bucket_size=racer.bucket_size, warm_up_steps=0,
            filter_seen=filter_rule("auto", dataset.facts) == "yes", evaluate="ranks",
        )  # fmt: skip
        race_peer(racer, task, python, race, folder)
    return asdict(race.arrival())


def arrivals(rows: Sequence[Row]) -> str:
    """The table of all rows, the quickest first."""
    lines: list[list[str]] = []
    latest = [newest(found)[-1] for found in grouped(rows, lambda row: (row.name, row.dataset, row.hardware)).values()]
    for row in sorted(latest, key=lambda row: (not row.values["arrived"], row.number("seconds"))):
        there = bool(row.values["arrived"])
        lines.append([
            row.name, row.dataset, duration(row.number("seconds")) if there else f"not reached ({row.values['ended']})",
            duration(row.number("training_seconds")), str(row.values["epochs"]),
            f"{row.number('best'):.4f} in epoch {row.values['best_epoch']}", row.commit, row.hardware,
        ])  # fmt: skip
    headings = ("trainer", "dataset", "arrived after", "without evaluation", "epochs", "best", "version", "hardware")
    return table(headings, lines, left=2)


def main(arguments: list[str] | None = None) -> int:
    parser = files.options(__doc__ or "")
    parser.add_argument("--dataset", default="Beauty")
    parser.add_argument("--target", type=float, default=0.065, help=f"validation {METRIC} to arrive at")
    parser.add_argument("--cap-minutes", type=float, default=60, metavar="N", help="end a training after N")
    parser.add_argument("--peer-dropout", type=float, metavar="P", help="of the peers; default: each package's own")
    parser.add_argument("--rows", default="ours,replay,rectools", metavar="A,B")
    parser.add_argument("--seed", type=int, default=0)
    peers.add_options(parser)
    options = parser.parse_args(arguments)
    given = peers.given(options)
    racers = [one for one in RACERS if one.who in options.rows.split(",")]
    absent = [one for one in racers if one.who in peers.PACKAGES and given.python(one.who) is None]
    store = Store(options.results or RESULTS / "arrival.jsonl")

    def wanted(dataset: Dataset, scratch: Path) -> Iterator[Wanted]:
        for number, racer in enumerate(one for one in racers if one not in absent):
            config = config_of(racer, dataset, options)
            row = row_of(racer, dataset, config, given, options)
            race = partial(run, racer, dataset, config, given, options, scratch / f"race-{number}")
            yield Wanted(f"{dataset.name}: {row.name}", row, race)

    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        dataset = files.stored(Path(scratch) / "datasets", options.data, options.dataset)
        left = complete(store, wanted(dataset, Path(scratch)), options.minutes)
    print(arrivals(store.rows))
    return exit_code([f"{one.name}: not installed; {how_to_install(one.who)}" for one in absent] + left)


if __name__ == "__main__":
    sys.exit(main())
