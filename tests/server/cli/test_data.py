"""The `virtualmle data` commands: data on stdout, the rest on stderr, and exit codes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli.data import app
from tests.support.interactions import sequences, table, write
from trainers.data import DataError, add


def test_add_prints_facts_to_stdout_and_losses_to_stderr(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", table("user", "item", "ts") + "4,9\n99,7,5.0,1000000100\n")
    result = _run(tmp_path, "add", "log", str(path), "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["report"]["dropped"] == {"broken_row": 1, "short_user": 1}
    assert result.stderr.splitlines() == [
        "Read 9 rows of log.csv as csv (user='user', item='item', timestamp='ts').",
        "Ignored the columns 'rating'.",
        "Read times as s since 1970.",
        "Event: user '4', item '30', 2001-09-09 01:48:20 UTC.",
        "Event: user '4', item '7', 2001-09-09 01:50:00 UTC.",
        "Event: user '4', item '100', 2001-09-09 01:51:40 UTC.",
        "Times from 2001-09-09 01:48:20 to 2001-09-09 01:58:20 UTC.",
        "Dropped 1 row unreadable or with the wrong number of columns.",
        "Dropped 1 row of users with fewer than 3 events.",
        "Lost 22.22% of the rows.",
        "Warning: Only 2 users validate and test: chance alone moves an ndcg@10 near .05 by about ±0.277 (95 %).",
        "22.2% of the rows were lost, more than --max-lost 0.1 allows (exit code 3); the reasons are above.",
    ]


def test_a_dry_run_says_everything_and_stores_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", table("user", "item", "ts"))
    result = _run(tmp_path, "add", "log", str(path), "--dry-run", "--json")
    assert (result.exit_code, json.loads(result.stdout)["interactions"]) == (0, 7)
    assert "Nothing was stored (--dry-run)." in result.stderr
    assert not (tmp_path / "home").exists()


def test_the_recipe_is_a_command_that_adds_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "log.csv", table("user", "item", "ts"))
    monkeypatch.chdir(tmp_path)
    _run(tmp_path, "add", "log", "log.csv", "--where", "rating > 1", "--drop-duplicates", "none")
    command = _run(tmp_path, "recipe", "log").stdout.strip()
    assert command == (
        "virtualmle data add log log.csv --user user --item item --timestamp ts --where "
        "'rating > 1' --drop-duplicates none"
    )
    again = _run(tmp_path, *shlex.split(command)[2:])
    assert "log is there already with the same content" in again.stderr


def test_adding_the_same_again_says_so_and_succeeds(tmp_path: Path) -> None:
    path = write(tmp_path / "log.txt", sequences())
    _run(tmp_path, "add", "log", str(path))
    again = _run(tmp_path, "add", "log", str(path))
    assert again.exit_code == 0
    assert "log is there already with the same content; nothing was changed." in again.stderr


def test_list_prints_the_promised_fields(tmp_path: Path) -> None:
    dataset = add(tmp_path / "home" / "datasets", "log", write(tmp_path / "log.txt", sequences()))
    (line,) = json.loads(_run(tmp_path, "list", "--json").stdout)
    promised = {name: line[name] for name in ("name", "users", "items", "interactions", "content_hash")}
    assert promised == {
        "name": "log",
        "users": 2,
        "items": 4,
        "interactions": 7,
        "content_hash": dataset.content_hash,
    }
    for_people = _run(tmp_path, "list").stdout.splitlines()
    assert for_people[1].split() == ["log", "2", "4", "7", "3.50", dataset.content_hash]


def test_an_empty_list_is_an_empty_list(tmp_path: Path) -> None:
    assert json.loads(_run(tmp_path, "list", "--json").stdout) == []
    assert "No datasets yet; add one" in _run(tmp_path, "list").stderr


def test_show_says_that_the_demo_is_synthetic(tmp_path: Path) -> None:
    result = _run(tmp_path, "show", "demo")
    assert result.exit_code == 0
    assert "demo is synthetic: generated, seed 0." in result.stderr
    assert "yes: generated, not real data" in result.stdout


def test_remove_deletes(tmp_path: Path) -> None:
    add(tmp_path / "home" / "datasets", "log", write(tmp_path / "log.txt", sequences()))
    assert _run(tmp_path, "remove", "log").exit_code == 0
    assert json.loads(_run(tmp_path, "list", "--json").stdout) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "../log", "log.txt"),
        ("add", "log", "log.txt", "--format", "excel"),
        ("add", "log", "log.txt", "--k-core", "0"),
        ("add", "log", "log.txt", "--kcore", "5"),
        ("show", "a/b"),
        ("remove", ""),
    ],
)
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = _run(tmp_path, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_failure_is_left_to_the_main_program(tmp_path: Path) -> None:
    result = _run(tmp_path, "add", "log", str(tmp_path / "missing.csv"))
    assert isinstance(result.exception, DataError)
    assert not (tmp_path / "home").exists()


def _run(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--home", str(tmp_path / "home")])
