"""--replay DIR of serve and drive: the marks that a replay home leaves, and how it is kept apart from other homes."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from server.cli.main import main
from server.cli.replay_home import home_for, open_replay_home
from server.replay.marker import ReplayHomeError, read_replay_home
from server.settings import Settings
from tests.support.owners import command, environment, foreground, run
from tests.support.recorded_tables import recorded_tables

REAL = os.environ.get("VIRTUALMLE_TEST_DATA")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    return recorded_tables(tmp_path / "tables")


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command fails."""
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("virtualmle: ")


def test_a_drive_on_tables_is_marked_from_its_first_line_to_its_report(home: Path, tables: Path) -> None:
    drive = ("drive", "--replay", tables, "--dataset", "log", "--policy", "random", "--trials", "2", "--home", home)
    driven = run(*drive)
    assert driven.returncode == 0, driven.stderr
    assert driven.stderr.splitlines()[1].startswith("Replay: results come from recorded trainings, and nothing is")
    assert "#0 the default, seed 1: ok (replayed) ndcg@10 0.1000; 2 epochs, 30.0 s" in driven.stderr
    page = Path(driven.stdout.strip())
    report = json.loads((page.parent / "report.json").read_text())
    assert report["replay"].startswith("Replay: ")
    assert {trial["replayed"] for trial in report["trials"]} <= {"recorded", "simulated seed"}
    text = page.read_text()
    assert text.split("\n\n")[1] == f"> **{report['replay']}**"
    again = (
        "virtualmle drive --dataset log --backbone sasrec --policy random --trials 2 --seed 0 --preset strong "
        f"--replay {tables} --home {home}"
    )
    assert f"\n{again}\n" in text
    assert run("study", "report", report["study_id"], "--home", home).returncode == 0
    assert f"\n{again}\n" in page.read_text()
    status = run("status", "--home", home)
    assert f"replay    {tables}: results come from recorded trainings, and nothing is trained\n" in status.stdout
    assert json.loads(run("status", "--home", home, "--json").stdout)["replay"] == str(tables)
    assert run("study", "list", "--home", home).stderr == f"{report['replay'].partition(' The space')[0]}\n"
    for words in (["memory", "export", home / "pack"], ["export", report["study_id"], home / "model"]):
        refused = run(*words, "--home", home)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert len(refused.stderr.splitlines()) == 1
    assert not (home / "pack").exists()
    assert not (home / "model").exists()


@pytest.mark.anyio
async def test_a_client_over_stdio_gets_the_tables_and_the_next_one_must_ask_for_them(home: Path, tables: Path) -> None:
    def server(*more: str | Path) -> StdioServerParameters:
        program, *arguments = command("serve", "--home", home, *more)
        return StdioServerParameters(command=program, args=arguments, env=environment())

    async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
        answer = await client.call_tool(tool, arguments)
        assert answer.structured_content is not None, answer.content
        return answer.structured_content

    async with Client(server("--replay", tables)) as client:
        assert (client.instructions or "").endswith(
            "Replay: results come from recorded trainings, and nothing is trained."
        )
        study_id = (await call(client, "start_study", dataset="log"))["study_id"]
        trial = await call(client, "run_trial", study_id=study_id, wait_seconds=30)
        assert (trial["metrics"], trial["replayed"]) == ({"ndcg@10": 0.1}, "recorded")
        ended = await call(client, "finish_study", study_id=study_id, wait_seconds=30)
        assert ended["chosen"]["test"] == {"ndcg@10": 0.05}
    refused = run("serve", "--home", home)
    assert (refused.returncode, refused.stdout, refused.stderr) == (
        1,
        "",
        f"virtualmle: {home} is a replay home: nothing is trained in it. Add --replay {tables} to go on with it, or "
        "name another home with --home.\n",
    )


def test_http_serves_the_tables_too(home: Path, tables: Path) -> None:
    with foreground(home, "--replay", tables) as process:
        assert process.poll() is None
        assert json.loads(run("status", "--home", home, "--json").stdout)["replay"] == str(tables)


def test_a_home_for_real_trainings_never_becomes_a_replay_home(
    home: Path, tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir()
    (home / "memory.duckdb").touch()
    for words in (["serve"], ["drive", "--dataset", "log"]):
        assert error_of([*words, "--replay", str(tables), "--home", str(home)], capsys) == (
            f"{home} is a home for real trainings, and a replay home is kept apart from those: name a new folder with "
            "--home."
        )
    assert [path.name for path in home.iterdir()] == ["memory.duckdb"]


def test_a_replay_home_keeps_to_its_tables_and_to_replays(
    home: Path, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(home=home)
    open_replay_home(settings, tables)
    assert error_of(["drive", "--home", str(home)], capsys).startswith(f"{home} is a replay home: nothing is trained")
    with pytest.raises(ReplayHomeError, match="is a replay home"):
        home_for(home, None)
    first = read_replay_home(settings)
    assert first is not None
    moved = tables.rename(tmp_path / "moved")
    assert home_for(home, moved).home == home  # the same trainings in another folder: the home follows them
    assert read_replay_home(settings) == first.model_copy(update={"tables": moved})
    (moved / "trainings.parquet").write_bytes(b"others")
    assert error_of(["serve", "--replay", str(moved), "--home", str(home)], capsys) == (
        f"{home} replays other trainings than those in {moved}, and a replay home keeps to one table: name a new home "
        "with --home."
    )


def test_datasets_are_imported_once_and_again_only_where_they_are_gone(home: Path, tables: Path) -> None:
    settings = Settings(home=home)
    open_replay_home(settings, tables)
    imported = settings.datasets_dir / "log" / "dataset.json"
    first = imported.stat().st_mtime_ns
    open_replay_home(settings, tables)
    assert imported.stat().st_mtime_ns == first
    assert main(["data", "remove", "log", "--home", str(home)]) == 0
    open_replay_home(settings, tables)
    assert imported.exists()


def no_folder(tables: Path) -> str:
    return str(tables.with_name("nowhere"))


def no_trainings(tables: Path) -> str:
    (tables / "trainings.parquet").unlink()
    return str(tables)


def broken(tables: Path) -> str:
    (tables / "trainings.parquet").write_bytes(b"nothing")
    return str(tables)


def no_dataset(tables: Path) -> str:
    (tables / "log.txt").unlink()
    return str(tables)


@pytest.mark.parametrize("command_name", ["serve", "drive"])
@pytest.mark.parametrize("spoil", [no_folder, no_trainings, broken, no_dataset])
def test_a_folder_that_cannot_be_replayed_is_one_line_and_makes_no_home(
    command_name: str, spoil: Callable[[Path], str], home: Path, tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = spoil(tables)
    assert given in error_of([command_name, "--replay", given, "--home", str(home)], capsys)
    assert not home.exists()


def test_a_replay_has_a_home_of_its_own_by_default(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VIRTUALMLE_HOME", raising=False)
    monkeypatch.setattr("platformdirs.user_data_dir", lambda application, **_: str(tmp_path / application))
    assert home_for(None, tables).home == tmp_path / "virtualmle-replay"
    assert home_for(None, None).home == tmp_path / "virtualmle"


def test_replay_and_url_exclude_each_other(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drive", "--replay", str(tables), "--url", "http://127.0.0.1:1/mcp"]) == 2
    assert "leave --url out" in capsys.readouterr().err


def test_a_transcript_is_still_taken_and_the_new_name_said(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transcript = tmp_path / "t.jsonl"
    transcript.write_text("{")
    assert main(["drive", "--policy", "llm", "--replay", str(transcript), "--home", str(home)]) == 1
    hint, error = capsys.readouterr().err.splitlines()
    assert hint == "--replay F is now --replay-transcript F; --replay names a folder of recorded tables."
    assert error.startswith(f"virtualmle: --replay-transcript {transcript} is no transcript.jsonl of a drive")
    assert main(["drive", "--replay", str(transcript), "--home", str(home)]) == 2  # the playbook has no transcript
    assert "--replay-transcript" in capsys.readouterr().err


def test_a_backup_of_a_replay_home_is_one_again(home: Path, tables: Path, tmp_path: Path) -> None:
    open_replay_home(Settings(home=home), tables)
    assert run("backup", tmp_path / "b.tar", "--home", home).returncode == 0
    with tarfile.open(tmp_path / "b.tar") as archive:
        assert "replay.json" in archive.getnames()
    restored = run("restore", tmp_path / "b.tar", "--home", tmp_path / "again")
    assert "  a replay home: its results come from recorded trainings\n" in restored.stderr
    assert read_replay_home(Settings(home=tmp_path / "again")) == read_replay_home(Settings(home=home))


def test_a_chat_client_s_entry_names_the_tables(home: Path, tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_replay_home(Settings(home=home), tables)
    assert main(["connect", "cursor", "--home", str(home), "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)["entry"]
    assert entry["args"][-5:] == ["serve", "--replay", str(tables), "--home", str(home)]


@pytest.mark.data
@pytest.mark.skipif(REAL is None, reason="VIRTUALMLE_TEST_DATA is not set")
def test_the_shipped_tables_answer_a_drive_from_the_preset_to_the_sealed_test(home: Path) -> None:
    tables = Path(REAL or "") / "replay"
    drive = ("drive", "--replay", tables, "--dataset", "beauty", "--backbone", "hstu", "--policy", "playbook")
    driven = run(*drive, "--preset", "paper", "--trials", "3", "--home", home, "--json")
    assert driven.returncode == 0, driven.stderr
    report = json.loads(driven.stdout)
    default = report["trials"][0]
    # the row of beauty, hstu, seed 1 with 128, 1, 0.5, 3e-4, normalised: the recorded cell that is nearest to `paper`
    assert (default["validation"]["ndcg@10"], default["seconds"]) == (0.09418, 28.5)
    assert report["best"]["test"].keys() == {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}
