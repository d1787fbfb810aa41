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

import numpy as np

from benchmarks.harness import files, machine
from benchmarks.harness.markdown import duration, grouped, newest, table
from benchmarks.harness.measure_ours import Measured, Ours, spec_hash, train_ours
from benchmarks.harness.measuring import Wanted, complete, exit_code
from benchmarks.harness.rows import RESULTS, Row, Store, Value
from trainers.contract.presets import preset
from trainers.contract.space import Config
from trainers.data import Dataset
from trainers.data.dataset import Sequences
from trainers.data.demo import save_generated

SHORTEST, LONGEST = 20, 200
SKEW, SKEW_FROM = 1.0, 100
"""The popularity of the item with rank r is proportional to (SKEW_FROM + r) ** -SKEW."""


def generate(items: int, interactions: int, seed: int = 0) -> Sequences:
    """Sequences of 20 to 200 events, about `interactions` events in all. Every item appears at least once."""
    if interactions < max(items, LONGEST):
        raise ValueError(f"interactions={interactions!r} must be at least {max(items, LONGEST)}, one an item.")
    random = np.random.default_rng(seed)
    lengths = random.integers(SHORTEST, LONGEST + 1, size=1 + interactions // SHORTEST)
    ends = np.cumsum(lengths)
    offsets = np.concatenate(([0], ends[: np.searchsorted(ends, interactions, side="right")]))
    cumulated = np.cumsum(1 / (SKEW_FROM + np.arange(items)) ** SKEW)
    drawn = np.searchsorted(cumulated / cumulated[-1], random.random(int(offsets[-1]))).astype(np.int32)
    places = random.choice(len(drawn), size=min(items, len(drawn)), replace=False)
    drawn[places] = np.arange(len(places), dtype=np.int32)
    return Sequences(drawn, offsets.astype(np.int64), len(places))


def stored(datasets: Path, items: int, interactions: int, seed: int) -> Dataset:
    """The generated sequences as a dataset under `datasets`."""
    return save_generated(datasets, f"catalogue-{items}-{interactions}", generate(items, interactions, seed), seed)


def config_of(backbone: str, dataset: Dataset, epochs: int) -> Config:
    """The preset `strong` for this dataset, but always with sampled softmax, and with only `epochs` epochs."""
    strong = preset("strong", backbone, dataset.facts).model_dump()
    return {**strong, "loss": "sampled_softmax", "max_epochs": epochs, "patience": min(50, max(epochs, 1))}


def values_of(measured: Measured, dataset: Dataset, tokens: int) -> dict[str, Value]:
    """The values of a training's row."""
    result = measured.result
    last = measured.epochs[-1]
    return {
        "users": dataset.facts.users, "items": dataset.facts.items, "interactions": dataset.facts.interactions,
        "parameters": result.parameters, "tokens": tokens, "epochs": result.epochs, "seconds": last.seconds,
        "tokens_per_second": tokens / last.seconds, "eval_seconds": last.eval_seconds,
        "peak_memory_mb": result.peak_memory_mb, "predicted_memory_mb": result.predicted_memory_mb,
    }  # fmt: skip


def page(rows: Sequence[Row]) -> str:
    """The table with the newest row of each backbone, dataset and processor."""
    lines: list[list[str]] = []
    for group in grouped(rows, lambda row: (row.name, row.dataset, row.hardware)).values():
        row = newest(group)[-1]
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
    options = parser.parse_args(arguments)
    store = Store(options.results or RESULTS / "catalogue.jsonl")
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        try:
            dataset = stored(Path(scratch) / "datasets", options.items, options.interactions, options.seed)
        except ValueError as error:
            sys.exit(str(error))
        missing = complete(store, wanted(dataset, options, Path(scratch)), options.minutes)
    print(page(store.rows))
    return exit_code(missing)


def wanted(dataset: Dataset, options: argparse.Namespace, scratch: Path) -> Iterator[Wanted]:
    """One training for each backbone."""
    for backbone in options.backbones.split(","):
        config = config_of(backbone, dataset, options.epochs)
        ours = Ours(dataset, backbone, config, options.threads, options.seed, options.device)
        row = Row(
            name=backbone, dataset=dataset.name, dataset_hash=dataset.content_hash,
            spec_hash=spec_hash(backbone, config), commit=machine.commit("trainers"),
            hardware=machine.hardware(options.device, options.threads), versions=machine.versions("torch"),
            seed=options.seed, values={},
        )  # fmt: skip
        tokens = files.arrays_of(dataset).predictions(int(config["max_length"]))
        title = f"{dataset.name}: {backbone}, {tokens:,} tokens an epoch"
        yield Wanted(title, row, partial(measure, ours, tokens, scratch / backbone))


def measure(ours: Ours, tokens: int, folder: Path) -> dict[str, Value]:
    """Trains in `folder`. Returns the values of the row. Raises ChildFailed."""
    return values_of(train_ours(ours, folder), ours.dataset, tokens)


if __name__ == "__main__":
    sys.exit(main())
