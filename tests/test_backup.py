"""virtualmle backup and restore; which weights stay, and what a full disk does."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from memory.store import Memory
from server import run_directory
from server.backup import BackupError, restore, write_backup
from server.cli import main
from server.executors.base import ExecutorError
from server.retention import prune, superfluous
from server.settings import Settings
from tests.examples import study, trial
from tests.owners import run
from tests.test_server_tools import Desk, desk


async def a_study(at: Desk) -> tuple[str, str]:
    found = (await at.call("start_study", dataset="demo"))["study_id"]
    ran = (await at.call("run_trial", study_id=found))["trial_id"]
    note = {"study_id": found, "kind": "heuristic", "text": "Less dropout.", "evidence": [ran]}
    await at.call("write_heuristic", **note)
    return found, ran


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "into_a_volume"), [("all.tar", False), ("all.tar.gz", True)])
async def test_a_home_is_packed_while_it_works_and_made_again(name: str, into_a_volume: bool, tmp_path: Path) -> None:
    old, new, copy = Settings(home=tmp_path / "old"), Settings(home=tmp_path / "new"), tmp_path / "copy"
    if into_a_volume:
        new.home.mkdir()
    async with desk(old.home) as at:
        found, ran = await a_study(at)
        (old.trials / ran / "checkpoint.safetensors").write_bytes(b"weights")
        (old.trials / ran / "result.tmp").write_text("half")
        at.runtime.memory.copy_to(copy)
        later = (await at.call("run_trial", study_id=found, changes={"dropout": 0.1}))["trial_id"]
        write_backup(old, copy, tmp_path / name, checkpoints=True)
    was = new.home.stat().st_ino if into_a_volume else None
    restore(tmp_path / name, new)
    assert was in (None, new.home.stat().st_ino)  # a mount point cannot be replaced
    assert not [path.name for path in new.home.iterdir() if path.name.startswith(".")]
    assert (new.trials / ran / "checkpoint.safetensors").read_bytes() == b"weights"
    assert not (new.trials / ran / "result.tmp").exists()
    async with desk(new.home) as at:
        assert [one.trial_id for one in at.runtime.memory.trials(found)] == [ran]
        assert [note.text for note in at.runtime.memory.notes()] == ["Less dropout."]
        again = await at.call("run_trial", study_id=found, changes={"dropout": 0.1})
        assert again["status"] == "ok"
        assert (new.trials / later).exists()  # it was newer than the memory's copy, and does no harm


@pytest.mark.anyio
async def test_without_checkpoints_everything_else_is_there(tmp_path: Path) -> None:
    old, new = Settings(home=tmp_path / "old"), Settings(home=tmp_path / "new")
    async with desk(old.home) as at:
        _, ran = await a_study(at)
        (old.trials / ran / "checkpoint.safetensors").write_bytes(b"weights")
        at.runtime.memory.copy_to(tmp_path / "copy")
    write_backup(old, tmp_path / "copy", tmp_path / "b.tar", checkpoints=False)
    restore(tmp_path / "b.tar", new)
    assert (new.trials / ran / "result.json").exists()
    assert not (new.trials / ran / "checkpoint.safetensors").exists()


def test_the_commands_back_up_a_living_home_and_restore_it(tmp_path: Path) -> None:
    home, file = tmp_path / "home", tmp_path / "b.tar"
    assert run("study", "list", "--home", home).returncode == 0  # starts the owner
    told = json.loads(run("backup", file, "--home", home, "--json").stdout)
    assert told == {"file": str(file), "bytes": file.stat().st_size}
    assert not (home / "memory.backup.duckdb").exists()
    assert "is there already" in run("backup", file, "--home", home).stderr
    assert run("restore", file, "--home", tmp_path / "new").stdout.strip() == str(tmp_path / "new")
    Memory.open(Settings(home=tmp_path / "new").database).close()


def archive(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w") as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no whole backup"),
        (b"garbage" * 1000, "is no whole backup"),
        (None, "is no backup of this version"),
    ],
)
def test_what_is_no_backup_is_said_and_leaves_nothing(content: bytes | None, said: str, tmp_path: Path) -> None:
    source = tmp_path / "b.tar"
    if content is None:
        archive(source, backup__json=b'{"format": 9}', memory__duckdb=b"x")
    else:
        source.write_bytes(content)
    with pytest.raises(BackupError, match=said) as caught:
        restore(source, Settings(home=tmp_path / "new"))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar"]


@pytest.mark.parametrize("filters", [True, False])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE])
def test_an_archive_that_leaves_its_folder_is_refused(
    kind: bytes, filters: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not filters:  # Python before 3.11.4
        monkeypatch.delattr(tarfile, "data_filter")
    source = tmp_path / "b.tar"
    with tarfile.open(source, "w") as made:
        member = tarfile.TarInfo("link" if kind == tarfile.SYMTYPE else "../outside")
        member.type, member.linkname = kind, "/etc"
        made.addfile(member, io.BytesIO(b""))
    with pytest.raises(BackupError, match="is no file of a home"):
        restore(source, Settings(home=tmp_path / "home" / "new"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["b.tar", "home"]


def test_a_home_that_is_in_use_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine").write_text("")
    with pytest.raises(BackupError, match="is not empty: name a folder"):
        restore(tmp_path / "b.tar", Settings(home=tmp_path / "home"))


def test_a_backup_that_cannot_be_written_leaves_no_part_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BackupError, match="cannot be written"):
        write_backup(Settings(home=tmp_path / "home"), tmp_path / "none", tmp_path / "b.tar", checkpoints=True)
    assert list(tmp_path.iterdir()) == []
    assert main(["restore", str(tmp_path / "none.tar"), "--home", str(tmp_path / "new")]) == 1
    assert "none.tar cannot be restored" in capsys.readouterr().err


def test_the_default_the_best_and_the_newest_keep_their_weights() -> None:
    changed = [trial(n, 0.10 + 0.01 * (n % 7), changes={"dropout": 0.01 * n}) for n in range(1, 30)]
    trials = [trial(0, 0.10), *changed]
    gone = {one.number for one in superfluous(study(), trials, keep=5)}
    best = {6, 13, 20, 27, 5}
    assert gone == set(range(1, 25)) - best
    assert superfluous(study(), trials[:5], keep=5) == []


def test_a_training_under_way_keeps_its_weights() -> None:
    trials = [trial(0, 0.10), trial(1, None, status="running"), *(trial(number, 0.2) for number in range(2, 9))]
    assert 1 not in {one.number for one in superfluous(study(), trials, keep=2)}


@pytest.mark.anyio
async def test_weights_are_removed_as_the_study_goes_on(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        settings = at.runtime.settings.model_copy(update={"keep_checkpoints": 2})
        found = (await at.call("start_study", dataset="demo"))["study_id"]
        made: list[str] = []
        for dropout in (0.5, 0.1, 0.2, 0.3, 0.4, 0.6):
            answer = await at.call("run_trial", study_id=found, changes={"dropout": dropout} if made else {})
            made.append(answer["trial_id"])
            (settings.trials / made[-1] / "checkpoint.safetensors").write_bytes(b"w")
        prune(at.runtime.memory, settings.trials, made[-1], 2)
    left = [one for one in made if (settings.trials / one / "checkpoint.safetensors").exists()]
    assert left == [made[0], made[1], made[2], made[4], made[5]]


@pytest.mark.anyio
async def test_no_training_starts_on_a_disk_that_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path) as at:
        found = (await at.call("start_study", dataset="demo"))["study_id"]
        usage = os.statvfs(tmp_path)
        monkeypatch.setattr(run_directory.shutil, "disk_usage", lambda path: Usage(usage, 2**28))
        said = await at.refused("run_trial", study_id=found)
        assert said.startswith("Only 0.25 GB are free at ")
        assert "make room, then call again" in said
        assert at.runtime.memory.trials(found) == []


class Usage:
    def __init__(self, usage: Any, free: int) -> None:
        self.total, self.used, self.free = usage.f_blocks, usage.f_blocks, free


def test_a_disk_that_cannot_be_asked_stops_nobody(tmp_path: Path) -> None:
    run_directory.check_room(tmp_path / "none", 1e9)
    with pytest.raises(ExecutorError):
        run_directory.check_room(tmp_path, 1e9)
