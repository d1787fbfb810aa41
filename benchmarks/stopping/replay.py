"""Replays studies over recorded full curves, to measure how much a rule that ends hopeless trainings saves and costs.

The table has the full curve of every training, so each study is its own control: the same trainings without the rule.
A study sees single trainings. The worth of its choice is the mean of the chosen configuration over its seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from random import Random
from statistics import fmean

import duckdb

from benchmarks.stopping.rules import Candidate
from memory.statistics.noise import Sigma, estimate, half_width
from server.study.early_stop import Curve, curve

METRIC = "ndcg@10"
ORDERS = ("random", "one change", "slow after fast")
"""The orders of configurations: random; one change of the best so far, as in the playbook; or four configurations with
the highest learning rate and then only lower rates, which is the hardest order for a rule."""
SIZES = (12, 30)
FIELDS = ("hidden_dim", "num_blocks", "dropout", "learning_rate", "loss", "normalize_embeddings")
DEFAULT = (64, 2, 0.5, 0.001, "full_softmax", False)
RATE = FIELDS.index("learning_rate")
FAST = 4
NEAR_THE_BEST = 0.85
PROMISING = 0.8
"""The level of the interval that a promising lead leaves."""


@dataclass(frozen=True)
class Training:
    """One recorded training."""

    config: tuple[object, ...]
    seed: int
    validation: tuple[float, ...]
    seconds: float

    @property
    def rate(self) -> float:
        """The learning rate. The tables have one batch size, so nothing else sets the pace of an epoch."""
        return float(str(self.config[RATE]))


@dataclass(frozen=True)
class Cell:
    """The table of one backbone on one dataset; `trainings` and `means` by configuration."""

    dataset: str
    backbone: str
    trainings: tuple[tuple[Training, ...], ...]
    means: tuple[float, ...]
    default: int
    believed: float
    """The relative seed noise that a server without replicates assumes."""
    measured: Sigma
    """The relative seed noise of the configurations near the best, from the table."""

    def near(self, number: int) -> list[int]:
        """The configurations that differ from configuration `number` in one field."""
        config = self.trainings[number][0].config
        others = ((other, group[0].config) for other, group in enumerate(self.trainings))
        return [other for other, values in others if sum(a != b for a, b in zip(config, values, strict=True)) == 1]


@dataclass(frozen=True)
class Outcome:
    """Counts of one study, or sums over many. `regret` is relative to the mean of the choice without the rule."""

    studies: float = 0.0
    trainings: float = 0.0
    """The number of trainings, without the default."""
    epochs: float = 0.0
    epochs_without: float = 0.0
    seconds: float = 0.0
    seconds_without: float = 0.0
    stopped: float = 0.0
    leaders: float = 0.0
    """The number of trainings that end above the best earlier training that was not stopped."""
    leaders_stopped: float = 0.0
    clear_leaders: float = 0.0
    """The number of leaders beyond noise, which the server calls `better` or `retest`."""
    clear_leaders_stopped: float = 0.0
    best_lost: float = 0.0
    """The number of studies in which the visited configuration with the best mean was stopped."""
    choice_lost: float = 0.0
    """The number of studies in which the training to be chosen was stopped."""
    regret: float = 0.0


def total(outcomes: Sequence[Outcome]) -> Outcome:
    """The sum of all outcomes."""
    return Outcome(*(sum(column) for column in zip(*map(astuple, outcomes), strict=True))) if outcomes else Outcome()


def shares(outcome: Outcome) -> dict[str, float]:
    """The savings and the costs, as shares from 0 to 1."""
    each, studies = max(outcome.trainings, 1), max(outcome.studies, 1)
    return {
        "epochs_saved": 1 - outcome.epochs / max(outcome.epochs_without, 1),
        "seconds_saved": 1 - outcome.seconds / max(outcome.seconds_without, 1e-9),
        "stopped": outcome.stopped / each,
        "leaders_stopped": outcome.leaders_stopped / max(outcome.leaders, 1),
        "clear_leaders_stopped": outcome.clear_leaders_stopped / max(outcome.clear_leaders, 1),
        "best_lost": outcome.best_lost / studies,
        "choice_lost": outcome.choice_lost / studies,
        "regret": outcome.regret / studies,
    }


def read_cells(folder: Path) -> list[Cell]:
    """Reads the tables of trainings.parquet, with validation metrics only."""
    names = ", ".join(FIELDS)
    with duckdb.connect() as database:
        rows = database.execute(
            f"""SELECT dataset, backbone, seed, seconds, [point."{METRIC}" FOR point IN curve] AS validation, {names}
                FROM read_parquet($path) WHERE status = 'ok' ORDER BY ALL""",
            {"path": str(folder / "trainings.parquet")},
        ).fetchall()
    tables: dict[tuple[str, str], dict[tuple[object, ...], list[Training]]] = {}
    for dataset, backbone, seed, seconds, validation, *values in rows:
        config = tuple(default if value is None else value for value, default in zip(values, DEFAULT, strict=True))
        training = Training(config, seed, tuple(validation), seconds)
        tables.setdefault((dataset, backbone), {}).setdefault(config, []).append(training)
    users = {name: len((folder / f"{name}.txt").read_text().splitlines()) for name in {name for name, _ in tables}}
    return [cell(dataset, backbone, table, users[dataset]) for (dataset, backbone), table in tables.items()]


def cell(dataset: str, backbone: str, table: dict[tuple[object, ...], list[Training]], users: int) -> Cell:
    """One table with its means and its noise."""
    groups = tuple(tuple(group) for group in table.values())
    scores = [[max(training.validation) for training in group] for group in groups]
    means = tuple(fmean(group) for group in scores)
    near = [group for group, mean in zip(scores, means, strict=True) if mean >= NEAR_THE_BEST * max(means)]
    pooled = [((score / fmean(group) - 1) ** 2, 1 - 1 / len(group)) for group in near for score in group]
    freedom = sum(share for _, share in pooled)
    measured = Sigma((sum(square for square, _ in pooled) / freedom) ** 0.5, freedom)
    believed = estimate([], users).sigma
    return Cell(dataset, backbone, groups, means, list(table).index(DEFAULT), believed, measured)


def play(cell: Cell, rule: Candidate, order: str, size: int, seed: int) -> Outcome:
    """Replays one study of `size` configurations: the default, then others in `order`, each with one of its seeds."""
    rng = Random(f"{cell.dataset}:{cell.backbone}:{order}:{size}:{seed}")
    shuffled = rng.sample(range(len(cell.means)), len(cell.means))
    drawn = [rng.choice(group) for group in cell.trainings]
    seen: list[Curve] = []
    ends: dict[int, tuple[float, bool]] = {}
    """The full score of each configuration, and whether it was stopped."""
    outcomes, best, number = [Outcome(studies=1.0)], -1.0, cell.default
    for place in range(min(size, len(shuffled))):
        if place:
            number = _next_configuration(cell, order, shuffled, ends)
        training = drawn[number]
        length, full = len(training.validation), max(training.validation)
        thresholds = rule(seen, cell.believed, length) if place else ()
        so_far = curve(str(number), training.validation, True)
        assert so_far is not None
        ended = next((e for e, least in enumerate(thresholds[: length - 1], 1) if so_far.at(e) < least), length)
        stopped = ended < length
        clear = place > 0 and math.log(full / best) > half_width(cell.measured, 1, 1, PROMISING)
        led = place > 0 and full > best
        outcomes.append(
            Outcome(
                trainings=float(place > 0), epochs=ended, epochs_without=length, stopped=stopped,
                seconds=training.seconds * ended / length, seconds_without=training.seconds,
                leaders=led, leaders_stopped=led and stopped,
                clear_leaders=clear, clear_leaders_stopped=clear and stopped,
            )
        )  # fmt: skip
        ends[number] = (full, stopped)
        seen.append(Curve(str(number), so_far.best[:ended], not stopped))
        best = best if stopped else max(best, full)
    return total([*outcomes, _outcome_of_choice(cell, ends)])


def _next_configuration(cell: Cell, order: str, shuffled: Sequence[int], ends: dict[int, tuple[float, bool]]) -> int:
    remaining = [number for number in shuffled if number not in ends and number != cell.default]
    if order == "one change":
        finished = sorted((number for number in ends if not ends[number][1]), key=lambda number: -ends[number][0])
        for best in finished:
            near = set(cell.near(best))
            for number in remaining:
                if number in near:
                    return number
    if order == "slow after fast":
        rates = [group[0].rate for group in cell.trainings]
        slow = [number for number in remaining if (rates[number] == max(rates)) == (len(ends) <= FAST)]
        return (slow or remaining)[0]
    return remaining[0]


def _outcome_of_choice(cell: Cell, ends: dict[int, tuple[float, bool]]) -> Outcome:
    without_rule = max(ends, key=lambda number: ends[number][0])
    chosen = max((number for number in ends if not ends[number][1]), key=lambda number: ends[number][0])
    top = max(ends, key=lambda number: cell.means[number])
    regret = 1 - cell.means[chosen] / cell.means[without_rule]
    return Outcome(best_lost=ends[top][1], choice_lost=ends[without_rule][1], regret=regret)
