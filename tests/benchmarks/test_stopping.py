"""benchmarks.early_stop: what the replay counts, worked by hand, and the rules it compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from benchmarks import early_stop
from benchmarks.early_stop import best_setting
from benchmarks.stopping.replay import Cell, Outcome, Training, play, read_cells, shares, total
from benchmarks.stopping.rules import FAMILIES, SHIPPED, Candidate
from memory.statistics.noise import Sigma, prior
from server.study.early_stop import RULE, Curve

CURVES = {0.001: (0.1, 0.2), 0.003: (0.05, 0.06, 0.06, 0.06), 0.0003: (0.02, 0.1, 0.2, 0.4)}


def training(rate: float, validation: tuple[float, ...]) -> Training:
    return Training((64, 2, 0.5, rate, "full_softmax", False), 1, validation, 2.0 * len(validation))


CELL = Cell(
    "d", "b", tuple((training(rate, curve),) for rate, curve in CURVES.items()), (0.2, 0.06, 0.4), 0, 0.03,
    Sigma(0.03, 20.0),
)  # fmt: skip


def nothing_below(least: float, epoch: int) -> Candidate:
    """A rule that asks for `least` at one epoch."""

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> list[float]:
        return [least if number == epoch else 0.0 for number in range(1, epochs + 1)]

    return rule


def test_what_is_stopped_is_saved_and_what_would_have_won_is_lost() -> None:
    """After the default (0.2) both others are stopped at epoch 1 of 4: one would have led, and by more than noise."""
    found = play(CELL, nothing_below(0.06, 1), "random", 3, 0)
    assert found == Outcome(
        studies=1, trainings=2, epochs=2 + 1 + 1, epochs_without=10, seconds=8.0, seconds_without=20.0, stopped=2,
        leaders=1, leaders_stopped=1, clear_leaders=1, clear_leaders_stopped=1, best_lost=1, choice_lost=1, regret=0.5,
    )  # fmt: skip
    assert shares(found)["epochs_saved"] == 0.6
    assert shares(found)["stopped"] == 1.0


def test_the_default_and_a_last_epoch_are_never_stopped() -> None:
    found = play(CELL, nothing_below(0.9, 4), "random", 3, 0)
    assert (found.stopped, found.epochs) == (0, 10)
    assert play(CELL, lambda curves, sigma, epochs: (), "one change", 3, 0) == found


def test_a_stopped_training_is_seen_as_far_as_it_came() -> None:
    seen: list[list[Curve]] = []

    def rule(curves: Sequence[Curve], sigma: float, epochs: int) -> list[float]:
        seen.append(list(curves))
        return [0.0, 0.9, 0.0, 0.0]

    play(CELL, rule, "slow after fast", 3, 0)
    assert seen[0] == [Curve("0", (0.1, 0.2), True)]
    assert seen[1] == [Curve("0", (0.1, 0.2), True), Curve("1", (0.05, 0.06), False)]


def test_the_parameters_save_most_where_the_loss_is_admissible() -> None:
    good = Outcome(studies=200, epochs=50, epochs_without=100, seconds=5, seconds_without=10, choice_lost=2)
    sums = {
        (1.0,): good,
        (2.0,): replace(good, seconds=4, choice_lost=3),
        (3.0,): replace(good, seconds=8, choice_lost=0),
    }
    assert best_setting(sums) == (1.0,)
    assert best_setting({(2.0,): replace(good, choice_lost=9), (4.0,): replace(good, choice_lost=7)}) == (4.0,)
    assert total([good, good]).choice_lost == 4


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_waits_for_enough_trainings_and_then_asks_less_than_the_best(family: str) -> None:
    fast = tuple(np.linspace(0.02, 0.08, 12))
    few = [Curve(str(number), fast, True) for number in range(RULE.needed - 1)]
    many = [Curve(str(number), tuple(score * (1 - 0.1 * number) for score in fast), True) for number in range(6)]
    for rule in FAMILIES[family].values():
        assert not any(rule(few, 0.03, 20))
        asked = np.array(rule(many, 0.03, 20))
        assert asked.shape == (20,)
        assert not asked[: RULE.grace].any()
        assert asked.any()
        assert asked.max() <= 0.08
    assert SHIPPED[1] in FAMILIES[SHIPPED[0]]


def test_tables_are_read_and_the_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        f"('d', 'sasrec', {seed}, 64, 2, 0.5, {rate}, 'full_softmax', NULL, 'ok', 8.0, {curve})"
        for seed, curve in ((1, "[0.01, 0.02, 0.03, 0.04, 0.05]"), (2, "[0.01, 0.02, 0.03, 0.04, 0.06]"))
        for rate in (0.001, 0.003)
    ]
    names = "dataset, backbone, seed, hidden_dim, num_blocks, dropout, learning_rate, loss, normalize_embeddings"
    with duckdb.connect() as database:
        database.execute(
            f"""COPY (SELECT * EXCLUDE (scores)
                             REPLACE (seconds::DOUBLE AS seconds, learning_rate::DOUBLE AS learning_rate),
                             [{{'epoch': 1, 'ndcg@10': score::DOUBLE}} FOR score IN scores] AS curve
                FROM (VALUES {", ".join(rows)}) AS rows({names}, status, seconds, scores))
                TO '{tmp_path / "trainings.parquet"}' (FORMAT parquet)"""
        )
    (tmp_path / "d.txt").write_text("1 1 2\n" * 5000)
    (cell,) = read_cells(tmp_path)
    assert cell.means == pytest.approx((0.055, 0.055))
    assert cell.believed == pytest.approx(prior(5000).sigma)
    assert cell.trainings[cell.default][0].validation == (0.01, 0.02, 0.03, 0.04, 0.05)
    monkeypatch.setattr(early_stop, "PAGE", tmp_path / "early-stop.md")
    early_stop.main(["--tables", str(tmp_path), "--seeds", "1", "--write"])
    page = (tmp_path / "early-stop.md").read_text()
    assert page.strip() == capsys.readouterr().out.strip()
    assert "| d sasrec | 0.00 % |" in page
