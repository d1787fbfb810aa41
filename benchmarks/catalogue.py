"""A large catalogue through the ordinary trainer: tokens per second and memory, on sequences drawn from a seed.

python -m benchmarks.catalogue [--items 1000000] [--interactions 10000000] [--backbones sasrec] [--epochs 1]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import duckdb
import numpy as np

from benchmarks import files, machine
from benchmarks.measure_ours import Measured, Ours, spec_hash, train_ours
from benchmarks.measuring import Wanted, complete, exit_code
from benchmarks.rows import RESULTS, Row, Store, Value
from benchmarks.tables import duration, grouped, newest, table
from trainers.data import Dataset, ImportReport
from trainers.data.dataset import Sequences
from trainers.data.store import save
from trainers.space import Config
from trainers.spec import preset

SHORTEST, LONGEST = 20, 200
SKEW, SKEW_FROM = 1.0, 100
"""Popularity falls with an item's place r as (SKEW_FROM + r) ** -SKEW."""


def generate(items: int, interactions: int, seed: int = 0) -> Sequences:
    """Users of 20 to 200 events each, about `interactions` in all; every item appears, and popular ones often."""
    if interactions < max(items, LONGEST):
        raise ValueError(f"interactions={interactions!r} must be at least {max(items, LONGEST)}, one an item.")
    random = np.random.default_rng(seed)
    lengths = random.integers(SHORTEST, LONGEST + 1, size=1 + interactions // SHORTEST)
    ends = np.cumsum(lengths)
    offsets = np.concatenate(([0], ends[: np.searchsorted(ends, interactions, side="right")]))
    cumulated = np.cumsum(1 / (SKEW_FROM + np.arange(items)) ** SKEW)
    drawn = np.searchsorted(cumulated / cumulated[-1], random.random(int(offsets[-1]))).astype(np.int32)
    once = random.choice(len(drawn), size=min(items, len(drawn)), replace=False)
    drawn[once] = np.arange(len(once), dtype=np.int32)
    return Sequences(drawn, offsets.astype(np.int64), len(once))


def stored(datasets: Path, items: int, interactions: int, seed: int) -> Dataset:
    """The generated sequences as a dataset under `datasets`."""

    def build(connection: duckdb.DuckDBPyConnection, _work: Path) -> tuple[Sequences, ImportReport]:
        sequences = generate(items, interactions, seed)
        for name, size in (("users", len(sequences.offsets) - 1), ("items", sequences.num_items)):
            connection.execute(
                f"CREATE TABLE {name} AS SELECT range::INTEGER AS index, (range + 1)::VARCHAR AS id FROM range({size})"
            )
        report = ImportReport(source=f"generated, seed {seed}", format="synthetic", rows_read=len(sequences.items))
        return sequences, report

    return save(datasets, f"catalogue-{items}-{interactions}", build, synthetic=True)


def config_of(backbone: str, dataset: Dataset, epochs: int) -> Config:
    """The preset `strong` as it is for this dataset, with sampled softmax whatever its size, for a few epochs."""
    strong = preset("strong", backbone, dataset.facts).model_dump()
    return {**strong, "loss": "sampled_softmax", "max_epochs": epochs, "patience": min(50, max(epochs, 1))}


def values_of(measured: Measured, dataset: Dataset, tokens: int) -> dict[str, Value]:
    """What of a training goes into its row."""
    result = measured.result
    last = measured.epochs[-1]
    return {
        "users": dataset.facts.users, "items": dataset.facts.items, "interactions": dataset.facts.interactions,
        "parameters": result.parameters, "tokens": tokens, "epochs": result.epochs, "seconds": last.seconds,
        "tokens_per_second": tokens / last.seconds, "eval_seconds": last.eval_seconds,
        "peak_memory_mb": result.peak_memory_mb, "predicted_memory_mb": result.predicted_memory_mb,
    }  # fmt: skip


def page(rows: Sequence[Row]) -> str:
    """The table of all rows."""
    lines: list[list[str]] = []
    for found in grouped(rows, lambda row: (row.name, row.dataset, row.hardware)).values():
        row = newest(found)[-1]
        sizes = [f"{row.number(name):,.0f}" for name in ("items", "interactions", "users", "tokens")]
        predicted = row.values["predicted_memory_mb"]
        lines.append([
            row.name, *sizes, f"{row.number('tokens_per_second'):,.0f}", duration(row.number("seconds")),
            duration(row.number("eval_seconds")), f"{row.number('peak_memory_mb'):,.0f}",
            "–" if predicted is None else f"{predicted:,.0f}", row.commit, row.hardware,
        ])  # fmt: skip
    headings = (
        "backbone", "items", "interactions", "users", "tokens", "tokens/s", "epoch", "full ranking", "peak MB",
        "predicted MB", "commit", "hardware",
    )  # fmt: skip
    return table(headings, lines)


def main(arguments: list[str] | None = None) -> int:
    parser = files.options(__doc__ or "")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--backbones", default="sasrec", metavar="A,B")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    store = Store(given.results or RESULTS / "catalogue.jsonl")
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        try:
            dataset = stored(Path(scratch) / "datasets", given.items, given.interactions, given.seed)
        except ValueError as error:
            sys.exit(str(error))
        left = complete(store, wanted(dataset, given, Path(scratch)), given.minutes)
    print(page(store.rows))
    return exit_code(left)


def wanted(dataset: Dataset, given: argparse.Namespace, scratch: Path) -> Iterator[Wanted]:
    """A training of each backbone."""
    for backbone in given.backbones.split(","):
        config = config_of(backbone, dataset, given.epochs)
        ours = Ours(dataset, backbone, config, given.threads, given.seed, given.device)
        row = Row(
            name=backbone, dataset=dataset.name, dataset_hash=dataset.content_hash,
            spec_hash=spec_hash(backbone, config), commit=machine.commit("trainers"),
            hardware=machine.hardware(given.device, given.threads), versions=machine.versions("torch"),
            seed=given.seed, values={},
        )  # fmt: skip
        tokens = files.arrays_of(dataset).predictions(int(config["max_length"]))
        title = f"{dataset.name}: {backbone}, {tokens:,} tokens an epoch"
        yield Wanted(title, row, partial(measure, ours, tokens, scratch / backbone))


def measure(ours: Ours, tokens: int, folder: Path) -> dict[str, Value]:
    """Trains in `folder`. Raises ChildFailed."""
    return values_of(train_ours(ours, folder), ours.dataset, tokens)


if __name__ == "__main__":
    sys.exit(main())
