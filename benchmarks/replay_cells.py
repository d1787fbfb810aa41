"""Tables of finished trainings as cells: a dataset, a backbone, the space that begins at one start, and its targets."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.replay_loop import METRIC
from benchmarks.replay_measures import Scale
from server.executors.recorded import Table, TableError, read
from trainers.data import add
from trainers.fields import space_of
from trainers.space import Config, Space
from trainers.spec import SPECS, DatasetFacts

FIXED: Config = {
    "num_heads": 2, "batch_size": 256, "max_length": 50, "max_epochs": 60, "patience": 4, "num_negatives": 500,
}  # fmt: skip
"""What all trainings of the tables had beside their columns."""
PAPER: dict[str, Config] = {
    "sasrec": {
        "hidden_dim": 128, "num_blocks": 1, "dropout": 0.2, "learning_rate": 3e-4, "loss": "sampled_softmax",
    },
    "hstu": {
        "hidden_dim": 128, "num_blocks": 1, "dropout": 0.5, "learning_rate": 3e-4, "normalize_embeddings": True,
    },
}  # fmt: skip
STARTS = ("strong", "paper")
"""The cells of the grid that every study begins at: nearest to the presets of these names."""
HEADROOM = 2.0
"""In standard errors of a difference of means: what the best must be above the start, or there is nothing to find."""


@dataclass(frozen=True)
class Cell:
    """One table with the space that begins at one start."""

    title: str
    dataset_hash: str
    facts: DatasetFacts
    table: Table
    space: Space
    means: dict[str, float | None]
    scale: Scale

    @property
    def headroom(self) -> float:
        """How far the best is above the start, in standard errors of such a difference."""
        seeds = min(len(group) for group in self.table.trainings.values())
        error = self.table.sigmas[METRIC] * (2 / seeds) ** 0.5
        return (self.scale.best / self.scale.default - 1) / error if self.scale.default and error else 0.0

    @property
    def kept(self) -> bool:
        """Whether there is anything to find."""
        return self.headroom > HEADROOM


def cells_of(folder: Path, datasets: Path, start: str) -> list[Cell]:
    """Every dataset of the tables with every backbone."""
    found: list[Cell] = []
    for path in sorted(folder.glob("*.txt")):
        dataset = add(datasets, path.stem, path)
        for backbone, spec in SPECS.items():
            try:
                recorded = read(folder / "trainings.parquet", space_of(spec), path.stem, FIXED)
            except TableError as none:
                print(none, file=sys.stderr)
                continue
            space = _starting(recorded.space, PAPER[backbone] if start == "paper" else {})
            means = {key: recorded.mean(key, METRIC) for key in recorded.configs}
            default = means.get(space.hash(space.default()))
            scale = Scale(default or 0.0, max(mean or 0.0 for mean in means.values()))
            title = f"{path.stem} {backbone}"
            found.append(Cell(title, dataset.content_hash, dataset.facts, recorded, space, means, scale))
    return found


def _starting(grid: Space, wanted: Config) -> Space:
    """The grid with those of the wanted values as its default that it has."""
    free = grid.free()
    fields = [
        one.model_copy(update={"default": wanted[one.name]})
        if one in free and wanted.get(one.name) in one.choices
        else one
        for one in grid.fields
    ]
    return grid.model_copy(update={"fields": tuple(fields)})
