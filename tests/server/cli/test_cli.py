"""The command line: exit codes, one line of error, and how little it loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import main
from server.version import installed_version
from tests.support.owners import command, environment, owner_of, run

HEAVY = ("torch", "ray", "docker", "anthropic", "openai", "optuna", "matplotlib")


@pytest.mark.parametrize("module", ["server.tools.app", "server.cli.main", "server.owner.process", "server.cli.memory"])
def test_importing_the_server_loads_nothing_heavy(module: str) -> None:
    program = f"import {module}, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    loaded = subprocess.run(
        [*command()[:2], "-c", program], capture_output=True, text=True, env=environment(), check=True
    )
    assert loaded.stdout == "[]\n"


def test_the_command_line_loads_neither_mcp_nor_duckdb_until_it_needs_them() -> None:
    program = "import server.cli.main, sys; print([name for name in ('mcp', 'duckdb', 'numpy') if name in sys.modules])"
    loaded = subprocess.run(
        [*command()[:2], "-c", program], capture_output=True, text=True, env=environment(), check=True
    )
    assert loaded.stdout == "[]\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"virtualmle {installed_version()}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("serve", "stop", "drive", "data", "study", "memory"):
        assert f"\n  {name} " in shown
    assert "--owner" not in shown


@pytest.mark.parametrize(
    "wrong",
    [["nonsense"], ["serve", "--nonsense"], ["stop", "extra"], ["study", "show"], ["serve", "--http", "nowhere"]],
)
def test_wrong_usage_is_exit_2(wrong: list[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUALMLE_HOME", str(home))
    assert main.main(wrong) == 2


def test_stop_without_an_owner_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["stop", "--home", str(home)]) == 0
    assert main.main(["stop", "--home", str(home), "--json"]) == 0
    assert capsys.readouterr().out == f"No owner runs for {home}.\nnull\n"


def test_a_known_error_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "virtualmle.yaml").write_text("threads: none at all\n")
    assert main.main(["study", "list", "--home", str(home)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"virtualmle: {home / 'virtualmle.yaml'}: threads='none at all'")


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback_wherever_it_stands(home: Path, place: str) -> None:
    home.mkdir()
    (home / "virtualmle.yaml").write_text("threads: none at all\n")
    words = ["stop", "--home", home]
    shown = run(*(["--debug", *words] if place == "before" else [*words, "--debug"]))
    assert shown.returncode == 1
    assert shown.stderr.startswith("Traceback")
    assert shown.stderr.splitlines()[-1].startswith("server.settings.SettingsError")


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (OSError(28, "No space left on device", "/home/x"), 1, "virtualmle: No space left on device: /home/x\n"),
        (
            ExceptionGroup("", [ValueError("two\nlines")]),
            1,
            "virtualmle: ValueError: two lines; --debug shows where.\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130, ""),
    ],
)
def test_whatever_goes_wrong_ends_in_a_code_and_at_most_one_line(
    raised: BaseException,
    code: int,
    said: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr("server.client.stop.stop_owner", fail)
    assert main.main(["stop", "--home", str(home)]) == code
    assert capsys.readouterr().err == said


def test_studies_and_memory_are_read_through_the_owner(home: Path) -> None:
    listed = run("study", "list", "--home", home, "--json")
    assert (listed.returncode, json.loads(listed.stdout), listed.stderr) == (0, [], "")
    learned = run("memory", "list", "--home", home)
    assert (learned.returncode, learned.stdout, learned.stderr) == (0, "", "Nothing was learned yet.\n")
    unknown = run("study", "show", "s-nothere", "--home", home)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("virtualmle: Unknown study 's-nothere'")
    pid = owner_of(home).pid
    stopped = run("stop", "--home", home, "--json")
    assert json.loads(stopped.stdout) == {"pid": pid, "interrupted": [], "queued": []}


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    pipe = f"{' '.join(command('stop', '--home', home))} | true"
    ended = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, env=environment())
    assert (ended.returncode, ended.stderr) == (0, "")


def test_python_m_server_takes_the_options_of_serve(home: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-P", "-m", "server", "--http", "0.0.0.0:0", "--home", str(home)],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert shown.returncode == 2
    assert "--token-file" in shown.stderr
