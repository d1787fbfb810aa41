"""benchmarks.replay: its measures by hand, and a study on a table made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest

from benchmarks import replay
from benchmarks.replay_loop import play
from benchmarks.replay_measures import Run, Scale, expected_running_time, interval, success_rate
from server.policies.racing import Racing
from tests.examples import FACTS

FAST = Run((0.0, 0.5, 1.0, 1.0), "a", 0)
SLOW = Run((0.0, 0.0, 0.2, 0.95), "a", 1)
NEVER = Run((0.0, 0.2), "a", 2)


def test_trainings_to_a_target_are_spent_by_all_and_shared_by_those_who_hit() -> None:
    assert [run.hit(0.9) for run in (FAST, SLOW, NEVER)] == [3, 4, None]
    assert expected_running_time([FAST, SLOW], 0.9, 4) == 3.5
    assert expected_running_time([FAST, SLOW, NEVER], 0.9, 4) == (3 + 4 + 4) / 2  # it ended early, and waited on
    assert expected_running_time([NEVER], 0.9, 4) is None
    assert success_rate([FAST, SLOW, NEVER], 0.9) == pytest.approx(2 / 3)


def test_regret_is_what_the_leader_lacks_and_a_study_that_ended_keeps_its_leader() -> None:
    assert [FAST.regret(count) for count in (1, 2, 3, 9)] == [1.0, 0.5, 0.0, 0.0]
    assert NEVER.regret(9) == pytest.approx(0.8)


def test_an_interval_holds_the_estimate_and_has_no_end_where_samples_never_hit() -> None:
    low, high = interval([FAST, SLOW] * 5, 0.9, 4, Random(0))
    assert low is not None
    assert high is not None
    assert 3 <= low <= 3.5 <= high <= 4
    assert interval([FAST, NEVER], 0.9, 4, Random(0))[1] is None


def test_a_scale_ends_at_the_default_and_at_the_best() -> None:
    scale = Scale(0.05, 0.10)
    assert [scale.normal(mean) for mean in (0.05, 0.10, None)] == pytest.approx([0.0, 1.0, -1.0])


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A grid of two fields of which one is worth everything."""
    rows = [
        f"('log', '{backbone}', {seed}, {rate}::DOUBLE, {dropout}::DOUBLE, 'ok', {score + 0.0002 * seed}::DOUBLE, 5e0)"
        for rate, score in ((0.001, 0.05), (0.003, 0.08))
        for dropout in (0.2, 0.5)
        for seed in (1, 2)
        for backbone in ("sasrec", "hstu")
    ]
    columns = '(dataset, backbone, seed, learning_rate, dropout, status, "ndcg@10", seconds)'
    found = f"SELECT * FROM (VALUES {', '.join(rows)}) AS t {columns}"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({found}) TO '{tmp_path / 'trainings.parquet'}' (FORMAT parquet)")
    (tmp_path / "log.txt").write_text("\n".join(f"{user} 1 2 3 4 {user % 5}" for user in range(9)))
    return tmp_path


def test_a_study_begins_at_the_start_and_every_training_is_a_step(tables: Path, tmp_path: Path) -> None:
    cell = replay.cells_of(tables, tmp_path / "datasets", "strong")[1]
    steps = play(cell.table, cell.space, FACTS, replay.Grid, seed=0, trainings=10).steps
    assert len(steps) == 4  # nothing is left then
    assert steps[0].trained == steps[0].leading == cell.space.hash(cell.space.default())
    assert len({step.trained for step in steps}) == 4
    assert cell.means[steps[-1].leading] == pytest.approx(0.0803)
    assert play(cell.table, cell.space, FACTS, replay.Grid, seed=0, trainings=10).steps == steps


def test_racing_trains_a_leader_again_before_it_goes_on(tables: Path, tmp_path: Path) -> None:
    cell = replay.cells_of(tables, tmp_path / "datasets", "strong")[1]
    steps = play(cell.table, cell.space, FACTS, lambda: Racing(replay.Grid()), seed=0, trainings=10).steps
    trained = [step.trained for step in steps]
    first = next(number for number, key in enumerate(trained) if (cell.means[key] or 0) > 0.07)
    assert trained[first + 1] == trained[first]


def test_the_command_prints_what_each_policy_came_to(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tables", str(tables), "--policies", "grid,random+racing", "--seeds", "2", "--trainings", "6"]
    assert replay.main([*words, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert sorted(answer["strong"]["cells"]) == ["log hstu", "log sasrec"]
    assert answer["strong"]["policies"]["grid"]["success"]["0.9"] == 1.0
    assert replay.main(words) == 0
    assert "| grid |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        replay.main(["--tables", str(tables), "--policies", "magic"])
