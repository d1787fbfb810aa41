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

from benchmarks.harness import entrants, files, machine
from benchmarks.harness.children import ChildFailed, answers
from benchmarks.harness.entrants import Entrant
from benchmarks.harness.markdown import duration, grouped, newest, table
from benchmarks.harness.measure_ours import Ours, spec_hash, train_ours
from benchmarks.harness.measuring import Wanted, complete, exit_code
from benchmarks.harness.rows import RESULTS, Row, Store, Value
from benchmarks.harness.task import PeerTraining
from benchmarks.peers import interpreters
from benchmarks.peers.interpreters import Peers, how_to_install
from trainers.contract.metrics import filter_rule, metrics_of
from trainers.contract.presets import preset
from trainers.contract.space import Config
from trainers.contract.wire import Epoch
from trainers.data import Dataset

METRIC = "ndcg@10"
PEER_DROPOUT = {"rectools": 0.2, "replay": 0.3}
"""The default dropout of each package. Ours trains with the dropout of the preset `strong`."""
NO_GAIN_EPOCHS = 30
"""A peer's training ends after this many epochs without improvement."""
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
    """Whether and when a training reached the target. `training_seconds` is the wall clock without evaluations."""

    arrived: bool
    seconds: float
    training_seconds: float
    epochs: int
    best: float
    best_epoch: int
    ended: str


@dataclass
class Race:
    """A training while it is watched: the score and evaluation seconds of each epoch, and the seconds so far."""

    target: float
    cap_seconds: float
    scores: list[float]
    evaluations: list[float]
    seconds: float = 0.0

    def over(self, score: float, eval_seconds: float, seconds: float) -> bool:
        """Records an epoch; returns whether the race is over."""
        self.scores.append(score)
        self.evaluations.append(eval_seconds)
        self.seconds = seconds
        return bool(self.end())

    def end(self) -> str:
        """Why the race is over; empty while it goes on."""
        if self.scores and self.scores[-1] >= self.target:
            return "arrived"
        if self.seconds >= self.cap_seconds:
            return f"cap of {duration(self.cap_seconds)}"
        if len(self.scores) - 1 - int(np.argmax(self.scores)) >= NO_GAIN_EPOCHS:
            return f"no gain for {NO_GAIN_EPOCHS} epochs"
        return ""

    def arrival(self) -> Arrival:
        """The result of the race. Raises ChildFailed where no epoch ended."""
        if not self.scores:
            raise ChildFailed("no epoch ended")
        best = int(np.argmax(self.scores))
        return Arrival(
            self.end() == "arrived", self.seconds, self.seconds - sum(self.evaluations), len(self.scores),
            self.scores[best], best + 1, self.end() or "early stopping",
        )  # fmt: skip


def race_ours(ours: Ours, race: Race, folder: Path) -> None:
    """Runs our training, with its own early stopping, until the race is over."""
    started = time.monotonic()

    def enough(epochs: tuple[Epoch, ...]) -> bool:
        new = epochs[len(race.scores) :]
        return any(race.over(epoch.validation[METRIC], epoch.eval_seconds, time.monotonic() - started) for epoch in new)

    train_ours(ours, folder, enough)


def race_peer(racer: Entrant, task: PeerTraining, python: Path, race: Race, folder: Path) -> None:
    """Runs a peer's training until the race is over, scoring its ranks with our metrics."""
    started = time.monotonic()
    with closing(answers(entrants.MODULES[racer.who], task, folder, python)) as epochs:
        for answer in epochs:
            assert answer.ranks is not None
            path = folder / answer.ranks
            score = metrics_of(np.load(path))[METRIC]
            path.unlink()
            if race.over(score, answer.eval_seconds, time.monotonic() - started):
                return


def config_of(racer: Entrant, dataset: Dataset, options: argparse.Namespace) -> Config:
    """The configuration of a racer. A peer uses only its sizes, dropout and loss."""
    strong = preset("strong", racer.backbone, dataset.facts).model_dump()
    config: Config = {**strong, **racer.config, "dropout": strong["dropout"]}
    if racer.who != "ours":
        config["dropout"] = PEER_DROPOUT[racer.who] if options.peer_dropout is None else options.peer_dropout
    return config


def row_of(racer: Entrant, dataset: Dataset, config: Config, peers: Peers, options: argparse.Namespace) -> Row:
    """The row of a racer, without its values. Its name includes the target and the cap."""
    python = peers.python(racer.who)
    goal = f"{options.target:g} within {options.cap_minutes:g} min"
    return Row(
        name=f"{racer.name}, {racer.loss_in_words}, dropout {config['dropout']}: {METRIC} {goal}",
        dataset=dataset.name, dataset_hash=dataset.content_hash, spec_hash=spec_hash(racer.backbone, config),
        commit=machine.version(interpreters.PACKAGES[racer.who], python) if python else machine.commit("trainers"),
        hardware=machine.hardware(options.device, options.threads), versions=machine.versions("torch", python=python),
        seed=options.seed, values={},
    )  # fmt: skip


def run(
    racer: Entrant, dataset: Dataset, config: Config, peers: Peers, options: argparse.Namespace, folder: Path
) -> dict[str, Value]:
    """Runs one race; returns the values of its row. Raises ChildFailed."""
    python = peers.python(racer.who)
    race = Race(options.target, 60 * options.cap_minutes, [], [])
    if python is None:
        ours = Ours(
            dataset, racer.backbone, config, options.threads, options.seed, options.device, 60 * options.cap_minutes
        )
        race_ours(ours, race, folder)
    else:
        folder.mkdir(parents=True)
        files.arrays_of(dataset).write(folder / "arrays.npz")
        task = PeerTraining(
            arrays=str(folder / "arrays.npz"), folder=str(folder), hidden_dim=racer.hidden_dim, loss=racer.loss,
            num_negatives=racer.negatives, epochs=MOST_EPOCHS, threads=options.threads, device=options.device,
            dropout=float(config["dropout"]), seed=options.seed, bucket_size=racer.bucket_size, warm_up_steps=0,
            filter_seen=filter_rule("auto", dataset.facts) == "yes", evaluate="ranks",
        )  # fmt: skip
        race_peer(racer, task, python, race, folder)
    return asdict(race.arrival())


def arrivals(rows: Sequence[Row]) -> str:
    """The table of the latest row of each racer, the fastest first."""
    lines: list[list[str]] = []
    latest = [newest(group)[-1] for group in grouped(rows, lambda row: (row.name, row.dataset, row.hardware)).values()]
    for row in sorted(latest, key=lambda row: (not row.values["arrived"], row.number("seconds"))):
        arrived = bool(row.values["arrived"])
        lines.append([
            row.name, row.dataset,
            duration(row.number("seconds")) if arrived else f"not reached ({row.values['ended']})",
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
    interpreters.add_options(parser)
    options = parser.parse_args(arguments)
    peers = interpreters.peers_of(options)
    racers = [racer for racer in RACERS if racer.who in options.rows.split(",")]
    absent = [racer for racer in racers if racer.who in interpreters.PACKAGES and peers.python(racer.who) is None]
    store = Store(options.results or RESULTS / "arrival.jsonl")

    def wanted(dataset: Dataset, scratch: Path) -> Iterator[Wanted]:
        for number, racer in enumerate(racer for racer in racers if racer not in absent):
            config = config_of(racer, dataset, options)
            row = row_of(racer, dataset, config, peers, options)
            race = partial(run, racer, dataset, config, peers, options, scratch / f"race-{number}")
            yield Wanted(f"{dataset.name}: {row.name}", row, race)

    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        dataset = files.stored(Path(scratch) / "datasets", options.data, options.dataset)
        missing = complete(store, wanted(dataset, Path(scratch)), options.minutes)
    print(arrivals(store.rows))
    return exit_code([f"{racer.name}: not installed; {how_to_install(racer.who)}" for racer in absent] + missing)


if __name__ == "__main__":
    sys.exit(main())
