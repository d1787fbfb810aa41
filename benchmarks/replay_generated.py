"""Generated tables: scores are a function of configuration and dataset and noise, so what memory can know is known.

Nothing is trained. A score falls off by the square of the distance to the dataset's best setting of each field. Three
families differ in where that is: `shifting` moves it with the mean length of histories, `same` has it in one place for
all datasets, and in `unrelated` each dataset has its own, whatever its meta-features.
"""

from __future__ import annotations

import math
from random import Random

from benchmarks.invented import METRIC, facts
from benchmarks.replay_cells import Cell
from benchmarks.replay_measures import Scale
from server.executors.recorded import Table, Training
from server.policies.sampling import every, values_of
from trainers.fields import space_of
from trainers.space import Config, Space
from trainers.spec import SPECS

FAMILIES = ("shifting", "same", "unrelated")
DATASETS = 24
LENGTHS = (4.0, 100.0)
NOISE = 0.03
DEVIATION = 0.01
"""Of single configurations from the function, relative."""
WEIGHTS = {"learning_rate": 0.30, "dropout": 0.20, "num_blocks": 0.15, "hidden_dim": 0.05}
"""What the score loses, as a logarithm, where a field is at the wrong end of its range."""
GRID = {
    "learning_rate": [0.0003, 0.001, 0.003], "dropout": [0.2, 0.35, 0.5, 0.65], "num_blocks": [1, 2, 3],
    "hidden_dim": [32, 64, 128],
}  # fmt: skip

START: Config = {"dropout": 0.65, "num_blocks": 3}
"""Where the default differs from that of the whole space, so that every dataset has something to gain."""


def family(name: str) -> list[Cell]:
    """Its datasets, the same at every call."""
    whole = space_of(SPECS["sasrec"])
    space = whole.restrict({field.name: GRID.get(field.name, field.default) for field in whole.fields})
    fields = [one.model_copy(update={"default": START.get(one.name, one.default)}) for one in space.fields]
    space = space.model_copy(update={"fields": tuple(fields)})
    configs = {space.hash(config): config for config in every(space)}
    return [_cell(name, number, space, configs, Random(f"{name}:{number}")) for number in range(DATASETS)]


def best_places(name: str, trait: float, draw: Random) -> dict[str, float]:
    """Where the best setting of each field is in its range; `trait` is the place of the mean length among datasets."""
    if name == "shifting":
        return {"learning_rate": 1 - trait, "dropout": 1 - trait, "num_blocks": trait, "hidden_dim": 0.5}
    if name == "same":
        return {"learning_rate": 1.0, "dropout": 0.0, "num_blocks": 0.0, "hidden_dim": 1.0}
    return {field: draw.random() for field in WEIGHTS}


def _cell(name: str, number: int, space: Space, configs: dict[str, Config], draw: Random) -> Cell:
    trait = number / (DATASETS - 1)
    low, high = (math.log(length) for length in LENGTHS)
    known = facts(round(math.exp(draw.uniform(7, 11))), math.exp(low + trait * (high - low)))
    best = best_places(name, trait, draw)
    means: dict[str, float | None] = {}
    trainings: dict[str, tuple[Training, ...]] = {}
    for key, config in configs.items():
        mean = _mean(space, config, best) * (1 + draw.gauss(0, DEVIATION))
        means[key], trainings[key] = mean, _around(mean)
    scale = Scale(means[space.hash(space.default())] or 0.0, max(mean or 0.0 for mean in means.values()))
    title = f"{name} {number}"
    return Cell(title, title, known, Table(title, space, configs, trainings), space, means, scale)


def _mean(space: Space, config: Config, best: dict[str, float]) -> float:
    lost = 0.0
    for field, weight in WEIGHTS.items():
        values = values_of(space.field(field))
        lost += weight * (values.index(config[field]) / (len(values) - 1) - best[field]) ** 2
    return 0.08 * math.exp(-lost)


def _around(mean: float) -> tuple[Training, Training]:
    """Two trainings of seeds that nobody asks for: they tell the table its noise, by which all others are drawn."""
    apart = NOISE / math.sqrt(2)
    low, high = ({METRIC: mean * (1 + way * apart)} for way in (-1, 1))
    return Training(-1, "ok", low, seconds=1.0), Training(-2, "ok", high, seconds=1.0)
