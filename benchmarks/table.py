"""Makes tables of finished trainings for benchmarks.replay and benchmarks.transfer, with our own trainers.

python -m benchmarks.table --out DIR [--data DIR] [--datasets A,B] [--backbones sasrec,hstu] [--seeds 1,2]
                           [--fields dropout,learning_rate,…] [--minutes N] [--threads 2] [--device cpu]

A full grid, every configuration with every seed, validation metrics and the whole curve; no test split is looked at.
Every training is kept in DIR/trainings.jsonl, so a call that was cut short goes on where it ended; what is there so far
is written to DIR/trainings.parquet, beside copies of the datasets.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import duckdb

from benchmarks import files, machine
from benchmarks.measure_ours import Ours, spec_hash, train_ours
from benchmarks.measuring import Wanted, complete, exit_code
from benchmarks.replay_cells import FIXED
from benchmarks.rows import Row, Store, Value
from trainers.data import Dataset
from trainers.space import Config
from trainers.space import Value as Setting
from trainers.spec import METRICS

GRID: dict[str, list[Setting]] = {
    "hidden_dim": [32, 64, 128], "num_blocks": [1, 2], "dropout": [0.2, 0.5], "learning_rate": [3e-4, 1e-3, 3e-3],
}  # fmt: skip
OWN: dict[str, dict[str, list[Setting]]] = {
    "sasrec": {"loss": ["full_softmax", "sampled_softmax"]}, "hstu": {"normalize_embeddings": [False, True]},
}  # fmt: skip
"""What only one backbone varies."""


def grid(backbone: str, fields: Sequence[str]) -> Iterator[Config]:
    """Every configuration of these fields; the others, and what all share, are as in FIXED or at their default."""
    values = {name: known for name, known in {**GRID, **OWN[backbone]}.items() if name in fields}
    for chosen in product(*values.values()):
        yield {**FIXED, **dict(zip(values, chosen, strict=True))}


def wanted(
    datasets: Sequence[Dataset], backbones: Sequence[str], fields: Sequence[str], seeds: Sequence[int], device: str,
    threads: int, scratch: Path,
) -> Iterator[Wanted]:  # fmt: skip
    """Every training, seed by seed: a table of one seed is whole before the next begins."""
    for dataset, seed, backbone in product(datasets, seeds, backbones):
        for config in grid(backbone, fields):
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
    """One training as values of a row, its curve as JSON. Raises ChildFailed where it gave no metric."""
    folder = Path(tempfile.mkdtemp(dir=scratch)) / "t-table"
    found = train_ours(ours, folder)
    shutil.rmtree(folder.parent, ignore_errors=True)
    result = found.result
    curve = [{"epoch": one.epoch, "loss": one.loss, **one.validation} for one in found.epochs]
    return {
        **{name: ours.config.get(name) for name in fields},
        "status": result.status, **{name: result.validation.get(name) for name in METRICS},
        "best_epoch": result.best_epoch, "seconds": result.seconds + result.eval_seconds,
        "parameters": result.parameters, "curve": json.dumps(curve),
    }  # fmt: skip


def write(rows: Sequence[Row], path: Path) -> None:
    """The rows as the Parquet file that a replay reads."""
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
        source, target = (str(one).replace("'", "''") for one in (file.name, path))
        connection.execute(
            f"COPY (SELECT * FROM read_json('{source}', sample_size = -1)) TO '{target}' (FORMAT parquet)"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = files.options(__doc__ or "")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the tables are made")
    parser.add_argument("--datasets", metavar="A,B", help="default: all in the folder of data")
    parser.add_argument("--backbones", default=",".join(OWN), metavar="A,B")
    parser.add_argument("--seeds", default="1,2", metavar="A,B")
    parser.add_argument("--fields", default=",".join({**GRID, **OWN["sasrec"], **OWN["hstu"]}), metavar="A,B")
    given = parser.parse_args(arguments)
    backbones, fields = given.backbones.split(","), given.fields.split(",")
    if unknown := [name for name in backbones if name not in OWN]:
        parser.error(f"--backbones: there is no {', '.join(unknown)}; there are {', '.join(OWN)}")
    if unknown := [name for name in fields if name not in {**GRID, **OWN["sasrec"], **OWN["hstu"]}]:
        parser.error(f"--fields: {', '.join(unknown)} is not varied")
    given.out.mkdir(parents=True, exist_ok=True)
    store = Store(given.results or given.out / "trainings.jsonl")
    names = given.datasets.split(",") if given.datasets else files.names_in(files.folder_of(given.data))
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        datasets = [files.stored(Path(scratch) / "datasets", given.data, name) for name in names]
        for name in names:
            shutil.copyfile(files.folder_of(given.data) / f"{name}.txt", given.out / f"{name}.txt")
        seeds = [int(seed) for seed in given.seeds.split(",")]
        asked = wanted(datasets, backbones, fields, seeds, given.device, given.threads, Path(scratch))
        left = complete(store, asked, given.minutes)
    if store.rows:
        write(store.rows, given.out / "trainings.parquet")
    print(f"{given.out / 'trainings.parquet'}: {len(store.rows)} trainings, {len(left)} missing.")
    return exit_code(left)


if __name__ == "__main__":
    sys.exit(main())
