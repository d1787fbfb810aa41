"""What engineers complained of, replayed on recorded trainings: what the answers say of them now."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from benchmarks.recorded import METRIC, Cell, cells
from benchmarks.replay.cells import FIXED
from memory.records import Study, Trial
from memory.statistics.decide import Comparison
from server.replay.recorded import read
from server.study import verdicts
from server.study.diagnosis import diagnose
from server.study.verdict_words import leader_words
from tests.support.examples import BEGAN, FACTS, study
from trainers.contract.fields import space_of
from trainers.contract.space import Config
from trainers.contract.specs import SPECS
from trainers.contract.wire import Epoch

DATA = os.environ.get("VIRTUALMLE_TEST_DATA")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(DATA is None, reason="VIRTUALMLE_TEST_DATA names no folder of recorded tables"),
]


@pytest.fixture(scope="module")
def recorded() -> list[Cell]:
    return cells(Path(str(DATA)) / "replay")


def study_of(cell: Cell) -> Study:
    return study(metric=METRIC, facts=FACTS.model_copy(update={"users": cell.users}))


def trained(cell: Cell, number: int, place: int, seed: int) -> Trial:
    """A recorded training: the configuration at this place by its mean, the best first, as this number of a study."""
    keys = sorted(cell.scores, key=lambda key: -fmean(cell.scores[key]))
    space = study().space
    name = space.hash(space.default()) if number == 0 else f"c{place}"
    return Trial(
        trial_id=f"t-{number}-{seed}", study_id="s-1", parent=None, changes={}, config=space.default(),
        config_hash=name, seed=seed, number=number, created_at=BEGAN, status="ok",
        validation={METRIC: math.exp(cell.scores[keys[place]][seed])},
    )  # fmt: skip


def compared(cell: Cell, default: int, other: int, seeds: int = 1) -> Comparison:
    """The configuration at the place `other` against that at `default`, with as many recorded seeds of each."""
    trials = [trained(cell, 0, default, seed) for seed in range(seeds)]
    trials += [trained(cell, 1, other, seed) for seed in range(seeds)]
    found = verdicts.verdict(study_of(cell), trials[-1], trials).comparison
    assert found is not None
    return found


def places(cell: Cell) -> Iterator[tuple[int, float]]:
    """Places of configurations after the best, with how far their first seed lies below the best one's, as a share."""
    keys = sorted(cell.scores, key=lambda key: -fmean(cell.scores[key]))
    for place, key in enumerate(keys[1:], 1):
        yield place, math.expm1(cell.scores[key][0] - cell.scores[keys[0]][0])


def test_a_loss_of_a_fifth_on_one_seed_each_is_a_loss_and_never_a_tie(recorded: list[Cell]) -> None:
    said = [
        compared(cell, 0, place).verdict for cell in recorded for place, loss in places(cell) if -0.5 < loss < -0.20
    ]
    assert len(said) > 100
    assert set(said) <= {"worse", "likely worse"}
    assert said.count("worse") > 0.9 * len(said)


def test_a_score_that_is_doubled_is_better_at_once(recorded: list[Cell]) -> None:
    said = [compared(cell, place, 0).verdict for cell in recorded for place, loss in places(cell) if loss < -0.5]
    assert len(said) > 50
    assert said.count("better") > 0.95 * len(said)


def test_a_second_seed_of_each_narrows_most_intervals(recorded: list[Cell]) -> None:
    widths = [
        [math.log1p(found.high) - math.log1p(found.low) for found in (compared(cell, 0, place, n) for n in (1, 2))]
        for cell in recorded
        for place, loss in places(cell)
        if loss > -0.2
    ]
    assert sum(second < first for first, second in widths) > 0.85 * len(widths)


def test_half_widths_near_the_best_are_a_few_sigmas_not_dozens(recorded: list[Cell]) -> None:
    for cell in recorded:
        sigma = verdicts.noise_of(study_of(cell), []).sigma
        near = [compared(cell, 0, place) for place, loss in places(cell) if loss > -0.1]
        assert max(found.high - found.low for found in near) < 6 * sigma


def test_nothing_is_asked_of_what_was_beaten_long_ago_and_a_higher_mean_that_does_not_lead_is_explained(
    recorded: list[Cell],
) -> None:
    for cell in recorded:
        trials: list[Trial] = []
        for number, place in enumerate((20, 0, 1, 2, 25, 30, 35)):
            trials.append(trained(cell, number, place, 0))
            judged = verdicts.verdict(study_of(cell), trials[-1], trials)
            ranking = verdicts.ranking_of(study_of(cell), trials)
            leader = ranking.leader
            assert leader is not None
            highest = max(ranking.standings, key=lambda standing: standing.mean)
            assert (leader_words(ranking) is None) == (highest.number == leader.number)
            if judged.comparison and judged.comparison.verdict == "worse":
                assert judged.retest == ()


@pytest.fixture(scope="module")
def curves() -> list[tuple[Trial, tuple[Epoch, ...]]]:
    """Every recorded training of two datasets that scored, with its curve."""
    found: list[tuple[Trial, tuple[Epoch, ...]]] = []
    for dataset in ("beauty", "lastfm"):
        for backbone in ("sasrec", "hstu"):
            path = Path(str(DATA)) / "replay" / "trainings.parquet"
            table = read(path, space_of(SPECS[backbone]), dataset, FIXED)
            for key, group in table.trainings.items():
                for training in group:
                    if training.status == "ok" and training.epochs:
                        trial = trained_as(table.configs[key], training.seed, training.validation[METRIC])
                        found.append((trial, training.epochs))
    return found


def trained_as(config: Config, seed: int, score: float) -> Trial:
    return Trial(
        trial_id="t-1", study_id="s-1", parent=None, changes={}, config=config, config_hash="c", seed=seed, number=1,
        created_at=BEGAN, status="ok", validation={METRIC: score},
    )  # fmt: skip


def finding(trial: Trial, epochs: tuple[Epoch, ...], baseline: float) -> str:
    """The diagnosis beside an untrained baseline that scores so many times as much."""
    best = baseline * trial.validation[METRIC]
    (found,) = diagnose(trial, epochs, METRIC, 0.03, {"popularity": {METRIC: best / 2}, "itemknn": {METRIC: best}})
    return found


def test_a_score_is_called_barely_above_the_strongest_baseline_only_where_it_is(
    curves: list[tuple[Trial, tuple[Epoch, ...]]],
) -> None:
    for trial, epochs in curves:
        score = trial.validation[METRIC]
        assert "baseline" not in finding(trial, epochs, 1 / 1.18)
        assert (
            f"{score:.4f} is barely above the strongest untrained baseline, itemknn ({(1 / 1.04) * score:.4f})"
            in finding(trial, epochs, 1 / 1.04)
        )
        assert f"{score:.4f} is below the strongest untrained baseline, itemknn ({4 * score:.4f})" in finding(
            trial, epochs, 4.0
        )


def test_no_curve_is_overfitting_and_underfitting_at_once(curves: list[tuple[Trial, tuple[Epoch, ...]]]) -> None:
    overfitting = [found for one in curves if "overfitting" in (found := finding(*one, 4.0))]
    assert len(overfitting) > 5
    assert not any("underfitting" in found for found in overfitting)


def test_a_curve_that_patience_cut_while_it_rose_is_not_called_converged(
    curves: list[tuple[Trial, tuple[Epoch, ...]]],
) -> None:
    rises: dict[str, list[float]] = {}
    for trial, epochs in curves:
        scores = [epoch.validation[METRIC] for epoch in epochs][-9:]
        if len(epochs) < int(trial.config["max_epochs"]) and len(scores) == 9:
            slope = np.polyfit(range(9), scores, 1)[0]
            rises.setdefault(finding(trial, epochs, 0.5).split(":")[0], []).append(8 * slope / float(np.mean(scores)))
    assert len(rises["converged"]) > 50
    assert len(rises["cut short"]) > 5
    assert np.quantile(rises["converged"], 0.95) < 0.12
    assert np.median(rises["cut short"]) > 0.08
