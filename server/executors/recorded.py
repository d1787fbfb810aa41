"""Finished trainings of one backbone on one dataset, as a table: what a replay answers trials from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, cast

import duckdb

from trainers.space import Config, Space, SpaceError, Value
from trainers.spec import METRICS, Epoch, Outcome

NEAR_THE_BEST = 0.85
"""Seed noise is that of the configurations that score so much of the best one: others differ by more than luck."""


class TableError(ValueError):
    """A table that cannot be replayed; the message says what is wrong with it."""


@dataclass(frozen=True)
class Training:
    """One training. `simulated`: drawn around the mean of its configuration, with no curve."""

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
    """Trainings by the hash of their configuration; `space` is exactly the grid of the configurations there are."""

    dataset: str
    space: Space
    configs: Mapping[str, Config]
    trainings: Mapping[str, tuple[Training, ...]]

    def mean(self, config_hash: str, metric: str) -> float | None:
        """Over the recorded seeds that scored; None where none did."""
        scores = [one.validation[metric] for one in self.trainings[config_hash] if metric in one.validation]
        return fmean(scores) if scores else None

    @cached_property
    def sigmas(self) -> dict[str, float]:
        """Relative seed noise of each metric, pooled over the configurations near its best."""
        return {metric: found for metric in METRICS if (found := self._sigma(metric)) is not None}

    def _sigma(self, metric: str) -> float | None:
        groups = [
            [one.validation[metric] for one in group if metric in one.validation] for group in self.trainings.values()
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
        for one in group:
            if one.seed == seed:
                return one
        scored = [one for one in group if one.status == "ok" and one.validation]
        if not scored:
            return Training(seed, group[0].status, {}, seconds=group[0].seconds, simulated=True)
        z = Random(hashlib.sha256(f"{config_hash}:{seed}".encode()).digest()).gauss()
        validation = {
            metric: max(0.0, mean * (1 + self.sigmas.get(metric, 0.0) * z))
            for metric in scored[0].validation
            if (mean := self.mean(config_hash, metric)) is not None
        }
        seconds = fmean(one.seconds for one in scored)
        return Training(seed, "ok", validation, (), None, seconds, scored[0].parameters, simulated=True)


def read(path: Path, space: Space, dataset: str, fixed: Mapping[str, Value]) -> Table:
    """The trainings of `space.backbone` on `dataset` in the Parquet file at `path`. Raises TableError.

    Columns that are fields of `space` are the configuration; `fixed` is what all trainings had besides. The others:
    dataset, backbone, seed, status, metrics by name, best_epoch, seconds, parameters, and curve, a list of {epoch,
    loss, metrics by name}.
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
    return Table(dataset, grid, configs, {key: tuple(group) for key, group in trainings.items()})


def _rows(path: Path, backbone: str, dataset: str) -> list[dict[str, Any]]:
    asked = "SELECT * FROM read_parquet(?) WHERE dataset = ? AND backbone = ? ORDER BY ALL"
    try:
        with duckdb.connect() as connection:
            result = connection.execute(asked, [str(path), dataset, backbone])
            names = [column[0] for column in result.description]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    except duckdb.Error as error:
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
    """`space` with every field fixed but those that vary in the table, and these limited to their values there."""
    wanted: dict[str, Value | list[Value]] = {}
    for field in space.fields:
        values = {
            json.dumps(config[field.name]): config[field.name] for config in configs if space.active(field, config)
        }
        if field.name in names and len(values) > 1:
            wanted[field.name] = sorted(values.values(), key=lambda value: (isinstance(value, str), value))
        else:
            wanted[field.name] = next(iter(values.values()), base[field.name])
    return space.restrict(wanted)
