"""Finished trainings of one backbone on one dataset, as a table from which a replay answers trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, cast

import duckdb

from trainers.contract.metrics import METRICS
from trainers.contract.space import Config, Space, SpaceError, Value
from trainers.contract.wire import Epoch, Outcome

NEAR_THE_BEST = 0.85
"""Seed noise comes from configurations that score at least this share of the best: others differ by more than luck."""


class TableError(ValueError):
    """A table that cannot be replayed; the message says what is wrong with it."""


@dataclass(frozen=True)
class Training:
    """One training. `simulated`: drawn around its configuration's mean, without a curve."""

    seed: int
    status: Outcome
    validation: dict[str, float]
    epochs: tuple[Epoch, ...] = ()
    best_epoch: int | None = None
    seconds: float = 0.0
    parameters: int | None = None
    simulated: bool = False


@dataclass(frozen=True)
class Table:
    """Trainings by the hash of their configuration; `space` is exactly the grid of the recorded configurations."""

    dataset: str
    space: Space
    configs: Mapping[str, Config]
    trainings: Mapping[str, tuple[Training, ...]]
    _: KW_ONLY
    named: tuple[str, ...] = ()
    """The fields that have a column; all others are only assumed to have been the same for all trainings."""

    def mean(self, config_hash: str, metric: str) -> float | None:
        """The mean over the recorded seeds that scored; None where none did."""
        scores = [
            training.validation[metric] for training in self.trainings[config_hash] if metric in training.validation
        ]
        return fmean(scores) if scores else None

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Every recorded seed, the smallest first."""
        return tuple(sorted({training.seed for group in self.trainings.values() for training in group}))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that were recorded."""
        found = {name for group in self.trainings.values() for training in group for name in training.validation}
        return tuple(metric for metric in METRICS if metric in found)

    @cached_property
    def sigmas(self) -> dict[str, float]:
        """Relative seed noise of each metric, pooled over the configurations near its best."""
        return {metric: sigma for metric in METRICS if (sigma := self._sigma(metric)) is not None}

    def _sigma(self, metric: str) -> float | None:
        groups = [
            [training.validation[metric] for training in group if metric in training.validation]
            for group in self.trainings.values()
        ]
        means = [fmean(group) for group in groups if group]
        if not means:
            return None
        near = [group for group in groups if len(group) > 1 and fmean(group) >= NEAR_THE_BEST * max(means) > 0]
        squares = sum(((score / fmean(group)) - 1) ** 2 for group in near for score in group)
        df = sum(len(group) - 1 for group in near)
        return (squares / df) ** 0.5 if df else 0.0

    def training(self, config_hash: str, seed: int) -> Training:
        """The recorded training of this seed, or one drawn around the mean of its configuration.

        The draw is a function of configuration and seed alone: mean * (1 + sigma * z), the same z for every metric.
        Raises TableError where the table has no such configuration.
        """
        group = self.trainings.get(config_hash)
        if group is None:
            raise TableError(f"The table of {self.space.backbone} on {self.dataset} has no such configuration.")
        for training in group:
            if training.seed == seed:
                return training
        scored = [training for training in group if training.status == "ok" and training.validation]
        if not scored:
            return Training(seed, group[0].status, {}, seconds=group[0].seconds, simulated=True)
        z = Random(hashlib.sha256(f"{config_hash}:{seed}".encode()).digest()).gauss()
        validation = {
            metric: max(0.0, mean * (1 + self.sigmas.get(metric, 0.0) * z))
            for metric in scored[0].validation
            if (mean := self.mean(config_hash, metric)) is not None
        }
        seconds = fmean(training.seconds for training in scored)
        return Training(seed, "ok", validation, (), None, seconds, scored[0].parameters, simulated=True)


def read(path: Path, space: Space, dataset: str, fixed: Mapping[str, Value]) -> Table:
    """The trainings of `space.backbone` on `dataset` in the Parquet file at `path`. Raises TableError.

    Columns named like fields of `space` form the configuration; `fixed` holds the values that all trainings shared
    besides. The other columns: dataset, backbone, seed, status, metrics by name, best_epoch, seconds, parameters, and
    curve, a list of {epoch, loss, metrics by name}.
    """
    rows = _rows(path, space.backbone, dataset)
    if not rows:
        raise TableError(f"{str(path)!r} has no training of {space.backbone} on {dataset!r}.")
    names = [field.name for field in space.fields if field.name in rows[0]]
    configs: dict[str, Config] = {}
    trainings: dict[str, list[Training]] = {}
    try:
        base = space.check({**space.default(), **fixed})
        for row in rows:
            config = space.check({**base, **{name: row[name] for name in names if row[name] is not None}})
            key = space.hash(config)
            configs[key] = config
            trainings.setdefault(key, []).append(_training(row))
    except SpaceError as error:
        raise TableError(f"{str(path)!r}: {error}") from None
    grid = _grid(space, base, names, list(configs.values()))
    return Table(dataset, grid, configs, {key: tuple(group) for key, group in trainings.items()}, named=tuple(names))


def _rows(path: Path, backbone: str, dataset: str) -> list[dict[str, Any]]:
    query = "SELECT * FROM read_parquet(?) WHERE dataset = ? AND backbone = ? ORDER BY ALL"
    try:
        with duckdb.connect() as connection:
            result = connection.execute(query, [str(path), dataset, backbone])
            names = [column[0] for column in result.description]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    except (duckdb.Error, UnicodeError) as error:
        raise TableError(f"{str(path)!r} cannot be read as a table: {str(error).splitlines()[0]}") from None


def _training(row: Mapping[str, Any]) -> Training:
    curve = cast(Sequence[Mapping[str, Any]], row.get("curve") or ())
    seconds = float(row.get("seconds") or 0.0)
    epochs = tuple(
        Epoch(
            epoch=point["epoch"], loss=point["loss"], seconds=seconds / len(curve), eval_seconds=0.0,
            validation={name: value for name, value in point.items() if name in METRICS},
        )
        for point in curve
    )  # fmt: skip
    status: Outcome = row.get("status") or "ok"
    validation = {name: row[name] for name in METRICS if row.get(name) is not None} if status == "ok" else {}
    return Training(
        row["seed"], status, validation, epochs, row.get("best_epoch"), seconds, row.get("parameters")
    )  # fmt: skip


def _grid(space: Space, base: Config, names: Sequence[str], configs: Sequence[Config]) -> Space:
    """`space` limited to the table: a field that varies there keeps its recorded values, every other field is fixed."""
    limits: dict[str, Value | list[Value]] = {}
    for field in space.fields:
        values = {
            json.dumps(config[field.name]): config[field.name] for config in configs if space.active(field, config)
        }
        if field.name in names and len(values) > 1:
            limits[field.name] = sorted(values.values(), key=lambda value: (isinstance(value, str), value))
        else:
            limits[field.name] = next(iter(values.values()), base[field.name])
    return space.restrict(limits)
