"""Cells from tables of finished trainings: a dataset, a backbone, a space with one default, and its targets."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.replay.loop import METRIC
from benchmarks.replay.measures import Scale
from server.replay.recorded import Table, TableError, read
from trainers.contract.facts import DatasetFacts
from trainers.contract.fields import space_of
from trainers.contract.space import Config, Space
from trainers.contract.specs import SPECS
from trainers.data import add

FIXED: Config = {
    "num_heads": 2, "batch_size": 256, "max_length": 50, "max_epochs": 60, "patience": 4, "num_negatives": 500,
}  # fmt: skip
"""The values, besides the columns of the tables, that all their trainings share."""
PAPER: dict[str, Config] = {
    "sasrec": {
        "hidden_dim": 128, "num_blocks": 1, "dropout": 0.2, "learning_rate": 3e-4, "loss": "sampled_softmax",
    },
    "hstu": {
        "hidden_dim": 128, "num_blocks": 1, "dropout": 0.5, "learning_rate": 3e-4, "normalize_embeddings": True,
    },
}  # fmt: skip
STARTS = ("strong", "paper")
"""The defaults that studies start from: the grid points nearest to the presets of these names."""
HEADROOM = 2.0
"""A cell counts only if its best is above its start by this many standard errors of a difference of means."""


@dataclass(frozen=True)
class Cell:
    """One table, with a space whose default is one start."""

    title: str
    dataset_hash: str
    facts: DatasetFacts
    table: Table
    space: Space
    means: dict[str, float | None]
    scale: Scale

    @property
    def headroom(self) -> float:
        """How far the best is above the start, in standard errors of a difference of means."""
        seeds = min(len(group) for group in self.table.trainings.values())
        error = self.table.sigmas[METRIC] * (2 / seeds) ** 0.5
        return (self.scale.best / self.scale.default - 1) / error if self.scale.default and error else 0.0

    @property
    def kept(self) -> bool:
        """Whether the best is far enough above the start to be worth searching for."""
        return self.headroom > HEADROOM


def cells_of(folder: Path, datasets: Path, start: str) -> list[Cell]:
    """The cells of every dataset and backbone in the tables."""
    cells: list[Cell] = []
    for path in sorted(folder.glob("*.txt")):
        dataset = add(datasets, path.stem, path)
        for backbone, spec in SPECS.items():
            try:
                recorded = read(folder / "trainings.parquet", space_of(spec), path.stem, FIXED)
            except TableError as error:
                print(error, file=sys.stderr)
                continue
            space = _with_default(recorded.space, PAPER[backbone] if start == "paper" else {})
            means = {key: recorded.mean(key, METRIC) for key in recorded.configs}
            default = means.get(space.hash(space.default()))
            scale = Scale(default or 0.0, max(mean or 0.0 for mean in means.values()))
            title = f"{path.stem} {backbone}"
            cells.append(Cell(title, dataset.content_hash, dataset.facts, recorded, space, means, scale))
    return cells


def _with_default(grid: Space, wanted: Config) -> Space:
    """The grid with the wanted values as its default, where it has them."""
    free = grid.free()
    fields = [
        field.model_copy(update={"default": wanted[field.name]})
        if field in free and wanted.get(field.name) in field.choices
        else field
        for field in grid.fields
    ]
    return grid.model_copy(update={"fields": tuple(fields)})
