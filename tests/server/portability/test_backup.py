"""virtualmle backup and restore; which weights stay, and what a full disk does."""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memory.store import Memory
from server.cli.main import main
from server.executors.base import ExecutorError
from server.portability.backup import BackupError, restore, write_backup
from server.scheduler import run_directory
from server.scheduler.retention import prune, superfluous
from server.settings import Settings
from server.study.history import StudyHistory, read_history
from tests.support.examples import study, trial
from tests.support.owners import run
from tests.support.tool_client import ToolClient, tool_client


async def a_study(at: ToolClient) -> tuple[str, str]:
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
    async with tool_client(old.home) as at:
        found, ran = await a_study(at)
        (old.trials_dir / ran / "checkpoint.safetensors").write_bytes(b"weights")
        (old.trials_dir / ran / "result.tmp").write_text("half")
        at.runtime.memory.copy_to(copy)
        later = (await at.call("run_trial", study_id=found, changes={"dropout": 0.1}))["trial_id"]
        write_backup(old, copy, tmp_path / name, checkpoints=True)
    was = new.home.stat().st_ino if into_a_volume else None
    restore(tmp_path / name, new)
    assert was in (None, new.home.stat().st_ino)  # a mount point cannot be replaced
    assert not [path.name for path in new.home.iterdir() if path.name.startswith(".")]
    assert (new.trials_dir / ran / "checkpoint.safetensors").read_bytes() == b"weights"
    assert not (new.trials_dir / ran / "result.tmp").exists()
    async with tool_client(new.home) as at:
        assert [one.trial_id for one in at.runtime.memory.trials(found)] == [ran]
        assert [note.text for note in at.runtime.memory.notes()] == ["Less dropout."]
        again = await at.call("run_trial", study_id=found, changes={"dropout": 0.1})
        assert again["status"] == "ok"
        assert (new.trials_dir / later).exists()  # it was newer than the memory's copy, and does no harm


@pytest.mark.anyio
async def test_without_checkpoints_everything_else_is_there(tmp_path: Path) -> None:
    old, new = Settings(home=tmp_path / "old"), Settings(home=tmp_path / "new")
    async with tool_client(old.home) as at:
        _, ran = await a_study(at)
        (old.trials_dir / ran / "checkpoint.safetensors").write_bytes(b"weights")
        at.runtime.memory.copy_to(tmp_path / "copy")
    write_backup(old, tmp_path / "copy", tmp_path / "b.tar", checkpoints=False)
    restore(tmp_path / "b.tar", new)
    assert (new.trials_dir / ran / "result.json").exists()
    assert not (new.trials_dir / ran / "checkpoint.safetensors").exists()


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


LABEL = b'{"format": 1, "virtualmle": "1", "made": "2026-01-01"}'
TRAINER = json.dumps(
    {"name": "mine", "command": ["/bin/sh", "-c", "id"], "space": {"backbone": "mine", "fields": []}}
).encode()


def entry(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname, member.mode = kind, size, "/etc/passwd", 0o777
    return member


def backup_of(path: Path, *further: tarfile.TarInfo, **files: bytes) -> Path:
    """A backup with the least that one holds, further entries, and further files."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as made:
        given = {
            "backup.json": LABEL,
            "memory.duckdb": b"memory",
            **{k.replace("__", "/"): v for k, v in files.items()},
        }
        for name, content in given.items():
            made.addfile(entry(name, size=len(content)), io.BytesIO(content))
        for member in further:
            made.addfile(member, io.BytesIO(b"x" * member.size))
    return path


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (entry("../outside"), "'../outside' lies outside the home"),
        (entry("/etc/cron.d/mine"), "'/etc/cron.d/mine' lies outside the home"),
        (entry("trials/../../mine"), "lies outside the home"),
        (entry("trials/t-1/link", tarfile.SYMTYPE), "'trials/t-1/link' is a link"),
        (entry("trials/t-1/link", tarfile.LNKTYPE), "is a hard link"),
        (entry("trials/t-1/null", tarfile.CHRTYPE), "is a device"),
        (entry("trials/t-1/pipe", tarfile.FIFOTYPE), "is a pipe"),
        (entry("trials/t-1/odd", b"Z"), "is of an unknown kind"),
        (entry("duckdb.py"), "'duckdb.py' is nothing that a backup holds"),
        (entry("owner.json"), "is nothing that a backup holds"),
        (entry("memory.duckdb.wal"), "is nothing that a backup holds"),
        (entry("trainers/mine.sh"), "is nothing that a backup holds"),
        (entry("trainers/deeper", tarfile.DIRTYPE), "is nothing that a backup holds"),
        (entry("datasets/.import-1/dataset.json"), "is nothing that a backup holds"),
        (entry("trials/t-1/two\nlines"), r"two\\nlines' has a name that no file of a home has"),
        (entry("memory.duckdb"), "'memory.duckdb' is in it twice"),
        (entry("task.key", size=5000), "'task.key' has 5,000 bytes; at most 4,096 are allowed"),
    ],
)
def test_a_backup_with_an_entry_that_no_home_has_is_refused_by_its_name(
    member: tarfile.TarInfo, said: str, tmp_path: Path
) -> None:
    source = backup_of(tmp_path / "b.tar", member)
    with pytest.raises(BackupError, match=said) as caught:
        restore(source, Settings(home=tmp_path / "home" / "new"))
    assert "\n" not in str(caught.value)
    assert "restore only backups that you made" in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["b.tar"]


def test_a_backup_that_unpacks_to_more_than_the_disk_has_free_is_refused_before_it_is_read(tmp_path: Path) -> None:
    source = tmp_path / "b.tar"
    huge = entry("trials/t-1/huge", size=2**60)
    with tarfile.open(source, "w") as made:
        made.addfile(entry("backup.json", size=len(LABEL)), io.BytesIO(LABEL))
        made.fileobj.write(huge.tobuf(tarfile.GNU_FORMAT))  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(BackupError, match=r"'trials/t-1/huge' is too large: .* bytes are free"):
        restore(source, Settings(home=tmp_path / "new"))


def test_an_entry_whose_header_asks_for_all_memory_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "b.tar"
    source.write_bytes(entry("name", tarfile.GNUTYPE_LONGNAME, size=2**40).tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(BackupError, match="a header asks for"):
        restore(source, Settings(home=tmp_path / "new"))


@pytest.mark.parametrize("name", ["b.tar", "b.tar.gz"])
def test_a_backup_that_is_cut_anywhere_is_no_whole_backup(name: str, tmp_path: Path) -> None:
    content = backup_of(tmp_path / name, trials__one=b"1", reports__two=b"2").read_bytes()
    step = 512 if name == "b.tar" else 16
    for length in range(step, len(content.rstrip(b"\0")), step):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(BackupError, match=r"is no (whole )?backup"):
            restore(tmp_path / name, Settings(home=tmp_path / "new"))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_a_backup_runs_is_shown_and_left_out_until_a_word_asks_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = b'slots: 2\nexecutor: docker\ndocker_image: "evil\\e[2J:latest"\n'
    source = backup_of(
        tmp_path / "b.tar",
        **{"trainers/mine.json": TRAINER, "virtualmle.yaml": yaml, "datasets/beauty/dataset.json": b""},
    )
    assert main(["restore", str(source), "--home", str(tmp_path / "new"), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["left_out"] == ["trainers/mine.json", "virtualmle.yaml"]
    for line in (
        "Made 2026-01-01 by virtualmle 1. It holds:",
        "  1 datasets: 'beauty' (0.0 MB)",
        "the trainer mine runs '/bin/sh -c id'",
        "the setting executor is 'docker'",
        "Not restored: trainers/mine.json, since it chooses what runs here; --with-trainers restores it.",
        "Not restored: virtualmle.yaml, since it chooses what runs here; --with-settings restores it.",
    ):
        assert line in told.err
    assert "\x1b" not in told.err
    assert told.err.index("It holds:") < told.err.index("Not restored")
    assert not (tmp_path / "new" / "trainers" / "mine.json").exists()
    assert not (tmp_path / "new" / "virtualmle.yaml").exists()
    words = ["--with-trainers", "--with-settings"]
    assert main(["restore", str(source), "--home", str(tmp_path / "all"), *words]) == 0
    assert (tmp_path / "all" / "trainers" / "mine.json").read_bytes() == TRAINER
    assert (tmp_path / "all" / "virtualmle.yaml").read_bytes() == yaml


def test_settings_that_choose_nothing_that_runs_are_restored(tmp_path: Path) -> None:
    source = backup_of(tmp_path / "b.tar", **{"virtualmle.yaml": b"slots: 2\n", "trials/t-1/predict/deep.txt": b"x"})
    assert restore(source, Settings(home=tmp_path / "new")).left_out(False, False) == []
    assert (tmp_path / "new" / "virtualmle.yaml").read_bytes() == b"slots: 2\n"
    assert (tmp_path / "new" / "trials" / "t-1" / "predict" / "deep.txt").read_bytes() == b"x"


def modes(folder: Path) -> set[str]:
    """Modes that let others in, of a folder and all that it holds."""
    paths = [folder, *folder.rglob("*")]
    return {f"{path.stat().st_mode & 0o777:o} {path.name}" for path in paths if path.stat().st_mode & 0o077}


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Lets everybody in by default, as the umask of some containers does."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("is_volume", [False, True])
def test_only_its_user_can_read_what_is_restored(is_volume: bool, tmp_path: Path) -> None:
    source = backup_of(tmp_path / "b.tar", entry("datasets", tarfile.DIRTYPE), **{"datasets/a/test.safetensors": b"x"})
    if is_volume:
        (tmp_path / "new").mkdir()
    restore(source, Settings(home=tmp_path / "new"))
    assert modes(tmp_path / "new") == set()


@pytest.mark.usefixtures("open_umask")
def test_only_its_user_can_read_a_backup_also_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path / "home")
    (settings.home / "datasets" / "a").mkdir(parents=True)
    (settings.home / "datasets" / "a" / "test.safetensors").write_bytes(b"sealed")
    (tmp_path / "copy").write_bytes(b"memory")
    seen: list[str] = []
    add = tarfile.TarFile.addfile

    def spied(self: tarfile.TarFile, tarinfo: tarfile.TarInfo, fileobj: Any = None) -> None:
        seen.extend(f"{path.stat().st_mode & 0o777:o}" for path in tmp_path.glob(".b.tar*"))
        add(self, tarinfo, fileobj)

    monkeypatch.setattr(tarfile.TarFile, "addfile", spied)
    write_backup(settings, tmp_path / "copy", tmp_path / "b.tar", checkpoints=True)
    assert set(seen) == {"600"}
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    with tarfile.open(tmp_path / "b.tar") as made:
        assert all(member.mode & 0o077 == 0 for member in made)


def test_what_a_trainer_left_beside_its_files_does_not_spoil_a_backup(tmp_path: Path) -> None:
    old, new = Settings(home=tmp_path / "old"), Settings(home=tmp_path / "new")
    trial = old.trials_dir / "t-1"
    trial.mkdir(parents=True)
    os.mkfifo(trial / "pipe")
    (trial / "link").symlink_to("/etc/passwd")
    (trial / "spec.json").write_text("{}")
    os.link(trial / "spec.json", trial / "again.json")
    (trial / "two\nlines").write_text("")
    (tmp_path / "copy").write_bytes(b"memory")
    write_backup(old, tmp_path / "copy", tmp_path / "b.tar", checkpoints=True)
    restore(tmp_path / "b.tar", new)
    assert sorted(path.name for path in (new.trials_dir / "t-1").iterdir()) == ["again.json", "spec.json"]


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
    gone = {one.number for one in superfluous(StudyHistory(study(), trials), keep=5)}
    best = {6, 13, 20, 27, 5}
    assert gone == set(range(1, 25)) - best
    assert superfluous(StudyHistory(study(), trials[:5]), keep=5) == []


def test_a_training_under_way_keeps_its_weights() -> None:
    trials = [trial(0, 0.10), trial(1, None, status="running"), *(trial(number, 0.2) for number in range(2, 9))]
    assert 1 not in {one.number for one in superfluous(StudyHistory(study(), trials), keep=2)}


@pytest.mark.anyio
async def test_weights_are_removed_as_the_study_goes_on(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        settings = at.runtime.settings.model_copy(update={"keep_checkpoints": 2})
        found = (await at.call("start_study", dataset="demo"))["study_id"]
        made: list[str] = []
        for dropout in (0.5, 0.1, 0.2, 0.3, 0.4, 0.6):
            answer = await at.call("run_trial", study_id=found, changes={"dropout": dropout} if made else {})
            made.append(answer["trial_id"])
            (settings.trials_dir / made[-1] / "checkpoint.safetensors").write_bytes(b"w")
        prune(read_history(at.runtime.memory, found), settings.trials_dir, 2)
    left = [one for one in made if (settings.trials_dir / one / "checkpoint.safetensors").exists()]
    assert left == [made[0], made[1], made[2], made[4], made[5]]


@pytest.mark.anyio
async def test_no_training_starts_on_a_disk_that_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tool_client(tmp_path) as at:
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
