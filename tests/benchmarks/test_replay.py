"""benchmarks.replay: its measures by hand, and a study on a table made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import duckdb
import pytest

from benchmarks import transfer
from benchmarks.replay import arms, cells, curves, generated, memory, runs
from benchmarks.replay.__main__ import main
from benchmarks.replay.loop import play
from benchmarks.replay.measures import Run, Scale, expected_running_time, interval, success_rate
from server.policies.racing import Racing
from tests.support.examples import FACTS
from tests.support.fake_endpoint import Reply, serving

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
    (tmp_path / "log.txt").write_text("\n".join(f"{user} 1 2 3 4 {user % 5}" for user in range(3000)))
    return tmp_path


def test_a_study_begins_at_the_start_and_every_training_is_a_step(tables: Path, tmp_path: Path) -> None:
    cell = cells.cells_of(tables, tmp_path / "datasets", "strong")[1]
    steps = play(cell.table, cell.space, FACTS, arms.Grid, seed=0, trainings=10).steps
    assert len(steps) == 4  # nothing is left then
    assert steps[0].trained == steps[0].leading == cell.space.hash(cell.space.default())
    assert len({step.trained for step in steps}) == 4
    assert cell.means[steps[-1].leading] == pytest.approx(0.0803)
    assert play(cell.table, cell.space, FACTS, arms.Grid, seed=0, trainings=10).steps == steps


def test_racing_trains_a_leader_again_before_it_goes_on(tables: Path, tmp_path: Path) -> None:
    cell = cells.cells_of(tables, tmp_path / "datasets", "strong")[1]
    steps = play(cell.table, cell.space, FACTS, lambda: Racing(arms.Grid()), seed=0, trainings=10).steps
    trained = [step.trained for step in steps]
    first = next(number for number, key in enumerate(trained) if (cell.means[key] or 0) > 0.07)
    assert trained[first + 1] == trained[first]


def test_the_command_prints_what_each_policy_came_to(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tables", str(tables), "--policies", "grid,random+racing", "--seeds", "2", "--trainings", "6"]
    words += ["--rows", str(tmp_path / "rows.jsonl"), "--jobs", "1"]
    assert main([*words, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert sorted(answer["strong"]["cells"]) == ["log hstu", "log sasrec"]
    assert answer["strong"]["policies"]["grid"]["success"]["0.9"] == 1.0
    assert main(words) == 0
    assert "| grid |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["--tables", str(tables), "--policies", "magic"])


def test_a_call_that_was_cut_short_goes_on_where_it_ended(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    words = ["--tables", str(tables), "--policies", "grid", "--trainings", "6", "--rows", str(rows), "--jobs", "1"]
    assert main([*words, "--seeds", "2", "--minutes", "0"]) == 1
    assert "missing: strong grid none 0" in capsys.readouterr().err
    assert main([*words, "--seeds", "1"]) == 0
    kept = rows.read_text()
    assert main([*words, "--seeds", "2"]) == 0
    assert rows.read_text().startswith(kept)
    assert len(rows.read_text().splitlines()) == 2 * len(kept.splitlines()) == 4


def test_what_a_study_was_worth_survives_being_kept() -> None:
    worth = (0.0, 0.0, 0.51234, 1.0, 1.0, -0.25)
    assert runs._unpack(runs._pack(worth)) == worth


def test_transfer_tells_what_memory_saved_beside_the_same_policy_without_it(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--tables",
        str(tables),
        "--policies",
        "gp",
        "--seeds",
        "1",
        "--trainings",
        "5",
        "--learned",
        "4",
        "--json",
    ]
    assert transfer.main([*words, "--rows", str(tmp_path / "rows.jsonl"), "--jobs", "1"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["strong"]["policies"]["gp"]
    assert list(found) == list(memory.ARMS)
    assert (found["none"]["ratio"], found["none"]["later"]) == (1.0, 0.0)


def test_a_curve_counts_who_reached_the_target_so_far() -> None:
    assert curves.shares([FAST, SLOW, NEVER], 0.9, 5) == pytest.approx([0, 0, 1 / 3, 2 / 3, 2 / 3])
    drawing = curves.picture({"tpe": [SLOW], "<gp>": [FAST]}, 5, 0.9, "a & b")
    words = [one.text for one in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")]
    assert words[0] == "a & b"
    assert words[-2:] == ["<gp>", "tpe"]


def test_generated_datasets_move_their_best_setting_with_the_mean_length_or_do_not() -> None:
    found = {name: generated.family(name) for name in generated.FAMILIES}
    assert all(len(cells) == 24 for cells in found.values())
    assert all(sum(cell.kept for cell in cells) >= 20 for cells in found.values())
    assert [found["same"][end].facts.mean_length for end in (0, -1)] == pytest.approx([4, 100])

    def rates(name: str) -> list[float]:
        best = [max(cell.means, key=lambda key, cell=cell: cell.means[key] or 0.0) for cell in found[name]]
        return [float(cell.table.configs[key]["learning_rate"]) for cell, key in zip(found[name], best, strict=True)]

    assert (rates("shifting")[0], rates("shifting")[-1]) == (0.003, 0.0003)
    assert set(rates("shifting")[:6]) == {0.003}
    assert set(rates("same")) == {0.003}
    assert len(set(rates("unrelated"))) > 1
    cell = found["same"][3]
    assert cell.table.sigmas["ndcg@10"] == pytest.approx(0.03)
    assert generated.family("same")[3].means == cell.means


def _called(arguments: dict[str, Any]) -> Reply:
    function = {"name": "run_trial", "arguments": json.dumps(arguments)}
    message = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def test_a_language_model_is_told_the_trainings_and_asked_again_for_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replies = [
        _called({"changes": {"learning_rate": 99}}),
        _called({"changes": {"learning_rate": 0.003}}),
        _called({"replicate_of": "t-0"}),
    ]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with serving(replies) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{endpoint.url}/v1")
        cell = next(cell for cell in generated.family("same") if cell.kept)
        book = play(cell.table, cell.space, cell.facts, lambda: arms.policy("llm:m"), 0, 3)
    assert [trial.config["learning_rate"] for trial in book.trials] == [0.001, 0.003, 0.001]
    assert (book.trials[2].seed, book.trials[2].replicate_of) == (1, "t-0")
    assert "learning_rate" in endpoint.requests[1]["messages"][-1]["content"]
    told = json.loads(endpoint.requests[2]["messages"][1]["content"])
    assert [one["trial_id"] for one in told["trainings"]] == ["t-0", "t-1"]
    assert told["space"]["learning_rate"] == [0.0003, 0.001, 0.003]


def test_names_of_language_models_are_arms() -> None:
    assert arms.unknown(["gp", "llm:claude-sonnet-4-5", "nobody"]) == ["nobody"]


def test_a_folder_without_tables_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for benchmark in (main, transfer.main):
        with pytest.raises(SystemExit):
            benchmark(["--tables", str(tmp_path)])
        assert f"--tables {tmp_path} has no trainings.parquet" in capsys.readouterr().err
