"""Generated tables: scores are a function of configuration, dataset and noise, so what memory can learn is known.

Nothing is trained. A score falls with the square of the distance to the dataset's best value of each field. The three
families differ in where the best values are: in `shifting` they move with the mean length of histories, in `same` they
are the same for all datasets, and in `unrelated` each dataset has its own, whatever its meta-features.
"""

from __future__ import annotations

import math
from random import Random

from benchmarks.harness.invented import METRIC, facts
from benchmarks.replay.cells import Cell
from benchmarks.replay.measures import Scale
from server.policies.sampling import every, values_of
from server.replay.recorded import Table, Training
from trainers.contract.fields import space_of
from trainers.contract.space import Config, Space
from trainers.contract.specs import SPECS

FAMILIES = ("shifting", "same", "unrelated")
DATASETS = 24
LENGTHS = (4.0, 100.0)
NOISE = 0.03
DEVIATION = 0.01
"""Relative standard deviation of single configurations from the function."""
WEIGHTS = {"learning_rate": 0.30, "dropout": 0.20, "num_blocks": 0.15, "hidden_dim": 0.05}
"""How much the log score falls where a field is at the wrong end of its range."""
GRID = {
    "learning_rate": [0.0003, 0.001, 0.003], "dropout": [0.2, 0.35, 0.5, 0.65], "num_blocks": [1, 2, 3],
    "hidden_dim": [32, 64, 128],
}  # fmt: skip

START: Config = {"dropout": 0.65, "num_blocks": 3}
"""The values of the default that differ from those of the whole space, so that every dataset has something to gain."""


def family(name: str) -> list[Cell]:
    """The cells of a family, the same at every call."""
    whole = space_of(SPECS["sasrec"])
    space = whole.restrict({field.name: GRID.get(field.name, field.default) for field in whole.fields})
    fields = [field.model_copy(update={"default": START.get(field.name, field.default)}) for field in space.fields]
    space = space.model_copy(update={"fields": tuple(fields)})
    configs = {space.hash(config): config for config in every(space)}
    return [_cell(name, number, space, configs, Random(f"{name}:{number}")) for number in range(DATASETS)]


def best_places(name: str, trait: float, random: Random) -> dict[str, float]:
    """The best place (0 to 1) in the range of each field; `trait` ranks the dataset's mean length, from 0 to 1."""
    if name == "shifting":
        return {"learning_rate": 1 - trait, "dropout": 1 - trait, "num_blocks": trait, "hidden_dim": 0.5}
    if name == "same":
        return {"learning_rate": 1.0, "dropout": 0.0, "num_blocks": 0.0, "hidden_dim": 1.0}
    return {field: random.random() for field in WEIGHTS}


def _cell(name: str, number: int, space: Space, configs: dict[str, Config], random: Random) -> Cell:
    trait = number / (DATASETS - 1)
    low, high = (math.log(length) for length in LENGTHS)
    dataset_facts = facts(round(math.exp(random.uniform(7, 11))), math.exp(low + trait * (high - low)))
    best = best_places(name, trait, random)
    means: dict[str, float | None] = {}
    trainings: dict[str, tuple[Training, ...]] = {}
    for key, config in configs.items():
        mean = _mean(space, config, best) * (1 + random.gauss(0, DEVIATION))
        means[key], trainings[key] = mean, two_trainings(mean)
    scale = Scale(means[space.hash(space.default())] or 0.0, max(mean or 0.0 for mean in means.values()))
    title = f"{name} {number}"
    return Cell(title, title, dataset_facts, Table(title, space, configs, trainings), space, means, scale)


def _mean(space: Space, config: Config, best: dict[str, float]) -> float:
    lost = 0.0
    for field, weight in WEIGHTS.items():
        values = values_of(space.field(field))
        lost += weight * (values.index(config[field]) / (len(values) - 1) - best[field]) ** 2
    return 0.08 * math.exp(-lost)


def two_trainings(mean: float) -> tuple[Training, Training]:
    """Two trainings with unused seeds. The table takes its noise from them and draws all other seeds with it."""
    apart = NOISE / math.sqrt(2)
    low, high = ({METRIC: mean * (1 + sign * apart)} for sign in (-1, 1))
    return Training(-1, "ok", low, seconds=1.0), Training(-2, "ok", high, seconds=1.0)
