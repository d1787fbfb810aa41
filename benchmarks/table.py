"""Makes tables of finished trainings for benchmarks.replay and benchmarks.transfer, with our own trainers.

python -m benchmarks.table --out DIR [--data DIR] [--datasets A,B] [--backbones sasrec,hstu] [--seeds 1,2]
                           [--fields dropout,learning_rate,…] [--leaders 10 --of TABLES] [--patience 4]
                           [--minutes N] [--threads 2] [--device cpu]

A full grid, every configuration with every seed, validation metrics and the whole curve; no test split is looked at.
With --leaders it is only the default and the best configurations of tables that are there, in as many seeds as wanted.
Every training is kept in DIR/trainings.jsonl, so a call that was cut short goes on where it ended; what is there so far
is written to DIR/trainings.parquet, beside copies of the datasets.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.harness import files, machine
from benchmarks.harness.measure_ours import Ours, spec_hash, train_ours
from benchmarks.harness.measuring import Wanted, complete, exit_code
from benchmarks.harness.rows import Row, Store, Value
from benchmarks.replay.cells import FIXED
from benchmarks.replay.loop import METRIC
from server.replay.recorded import read
from trainers.contract.fields import space_of
from trainers.contract.metrics import METRICS
from trainers.contract.space import Config
from trainers.contract.space import Value as Setting
from trainers.contract.specs import SPECS
from trainers.data import Dataset

GRID: dict[str, list[Setting]] = {
    "hidden_dim": [32, 64, 128], "num_blocks": [1, 2], "dropout": [0.2, 0.5], "learning_rate": [3e-4, 1e-3, 3e-3],
}  # fmt: skip
BACKBONE_GRID: dict[str, dict[str, list[Setting]]] = {
    "sasrec": {"loss": ["full_softmax", "sampled_softmax"]}, "hstu": {"normalize_embeddings": [False, True]},
}  # fmt: skip
"""The fields that only one backbone varies, by backbone."""


@dataclass(frozen=True)
class Leaders:
    """The best configurations of the tables in a folder."""

    number: int
    folder: Path

    def of(self, dataset: str, backbone: str) -> list[Config]:
        """The default, then the others, best mean first. Raises TableError."""
        found = read(self.folder / "trainings.parquet", space_of(SPECS[backbone]), dataset, FIXED)
        default = found.space.default()
        means = {key: found.mean(key, METRIC) or 0.0 for key in found.configs if key != found.space.hash(default)}
        best = sorted(means, key=lambda key: -means[key])[: self.number]
        names = [*FIXED, *GRID, *BACKBONE_GRID[backbone]]
        return [{name: config[name] for name in names} for config in (default, *(found.configs[key] for key in best))]


def grid(backbone: str, fields: Sequence[str]) -> Iterator[Config]:
    """Every configuration of these fields. All other fields have the value in FIXED, or else their default."""
    values = {name: choices for name, choices in {**GRID, **BACKBONE_GRID[backbone]}.items() if name in fields}
    for chosen in product(*values.values()):
        yield {**FIXED, **dict(zip(values, chosen, strict=True))}


def wanted(
    datasets: Sequence[Dataset], backbones: Sequence[str], fields: Sequence[str], seeds: Sequence[int], device: str,
    threads: int, scratch: Path, *, leaders: Leaders | None = None, patience: int,
) -> Iterator[Wanted]:  # fmt: skip
    """Every training, seed by seed, so that the table of one seed is complete before the next begins."""
    for seed, dataset, backbone in product(seeds, datasets, backbones):
        configs = grid(backbone, fields) if leaders is None else leaders.of(dataset.name, backbone)
        for config in ({**config, "patience": patience} for config in configs):
            row = Row(
                name=backbone, dataset=dataset.name, dataset_hash=dataset.content_hash,
                spec_hash=spec_hash(backbone, config), commit=machine.commit("trainers"),
                hardware=machine.hardware(device, threads), versions=machine.versions("torch"), seed=seed, values={},
            )  # fmt: skip
            ours = Ours(dataset, backbone, config, threads, seed, device)
            shown = ", ".join(f"{name}={config[name]}" for name in fields if name in config)
            measure = partial(trained, ours, fields, scratch)
            yield Wanted(f"{dataset.name} {backbone} seed {seed}: {shown}", row, measure)


def trained(ours: Ours, fields: Sequence[str], scratch: Path) -> dict[str, Value]:
    """Trains once. Returns the values of the row, with the curve as JSON. Raises ChildFailed without a metric."""
    folder = Path(tempfile.mkdtemp(dir=scratch)) / "t-table"
    measured = train_ours(ours, folder)
    shutil.rmtree(folder.parent, ignore_errors=True)
    result = measured.result
    curve = [{"epoch": epoch.epoch, "loss": epoch.loss, **epoch.validation} for epoch in measured.epochs]
    return {
        **{name: ours.config.get(name) for name in (*FIXED, *fields)},
        "status": result.status, **{name: result.validation.get(name) for name in METRICS},
        "best_epoch": result.best_epoch, "seconds": result.seconds + result.eval_seconds,
        "parameters": result.parameters, "curve": json.dumps(curve),
    }  # fmt: skip


def write(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows as the Parquet file that a replay reads."""
    lines: list[dict[str, Any]] = [
        {
            "dataset": row.dataset, "backbone": row.name, "seed": row.seed, **row.values,
            "curve": json.loads(str(row.values["curve"])),
        }
        for row in rows
    ]  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file, duckdb.connect() as connection:
        json.dump(lines, file)
        file.flush()
        source, target = (str(name).replace("'", "''") for name in (file.name, path))
        connection.execute(
            f"COPY (SELECT * FROM read_json('{source}', sample_size = -1)) TO '{target}' (FORMAT parquet)"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = files.options(__doc__ or "")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the tables are made")
    parser.add_argument("--datasets", metavar="A,B", help="default: all in the folder of data")
    parser.add_argument("--backbones", default=",".join(BACKBONE_GRID), metavar="A,B")
    parser.add_argument("--seeds", default="1,2", metavar="A,B")
    parser.add_argument("--leaders", type=int, metavar="N", help="only the default and the N best of the tables --of")
    parser.add_argument("--of", type=Path, metavar="TABLES", help="a folder of tables of the same datasets")
    parser.add_argument("--patience", type=int, default=FIXED["patience"], metavar="N", help="epochs without a gain")
    parser.add_argument(
        "--fields", default=",".join({**GRID, **BACKBONE_GRID["sasrec"], **BACKBONE_GRID["hstu"]}), metavar="A,B"
    )
    options = parser.parse_args(arguments)
    backbones, fields = options.backbones.split(","), options.fields.split(",")
    if unknown := [name for name in backbones if name not in BACKBONE_GRID]:
        parser.error(f"--backbones: there is no {', '.join(unknown)}; there are {', '.join(BACKBONE_GRID)}")
    if unknown := [name for name in fields if name not in {**GRID, **BACKBONE_GRID["sasrec"], **BACKBONE_GRID["hstu"]}]:
        parser.error(f"--fields: {', '.join(unknown)} is not varied")
    if (options.leaders is None) != (options.of is None):
        parser.error("--leaders and --of are given together")
    leaders = None if options.leaders is None else Leaders(options.leaders, options.of)
    options.out.mkdir(parents=True, exist_ok=True)
    store = Store(options.results or options.out / "trainings.jsonl")
    names = options.datasets.split(",") if options.datasets else files.names_in(files.folder_of(options.data))
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        datasets = [files.stored(Path(scratch) / "datasets", options.data, name) for name in names]
        for name in names:
            shutil.copyfile(files.folder_of(options.data) / f"{name}.txt", options.out / f"{name}.txt")
        seeds = [int(seed) for seed in options.seeds.split(",")]
        how = (options.device, options.threads, Path(scratch))
        trainings = wanted(datasets, backbones, fields, seeds, *how, leaders=leaders, patience=options.patience)
        missing = complete(store, trainings, options.minutes)
    if store.rows:
        write(store.rows, options.out / "trainings.parquet")
    print(f"{options.out / 'trainings.parquet'}: {len(store.rows)} trainings, {len(missing)} missing.")
    return exit_code(missing)


if __name__ == "__main__":
    sys.exit(main())
