"""Files that another process may have put there: links, pipes, folders and endless files are refused at once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trainers.contract.regular_files import (
    append_regular,
    check_regular,
    is_regular,
    open_regular,
    read_regular,
    remove,
)

NOT_REGULAR: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a file": lambda path: path.symlink_to(__file__),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("kind", NOT_REGULAR)
@pytest.mark.parametrize("access", [open_regular, read_regular, append_regular, check_regular])
def test_what_is_no_regular_file_is_refused_without_waiting(
    kind: str, access: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "entry"
    NOT_REGULAR[kind](path)
    with pytest.raises(OSError, match=r"."):
        access(path)
    assert not is_regular(path)
    assert not (tmp_path / "nowhere").exists()


def test_a_regular_file_is_read_up_to_its_limit_and_no_further(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert (read_regular(path, 5), is_regular(path)) == (b"12345", True)
    with open_regular(path, 5) as file:
        assert file.read() == b"12345"
    for access in (read_regular, open_regular):
        with pytest.raises(OSError, match="it has more than 4 bytes"):
            access(path, 4)


def test_a_file_that_grows_after_it_was_opened_is_still_limited(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"it has more than 10 bytes|not a regular file"):
        read_regular(Path("/proc/self/status"), 10)  # its size reads 0, and its content is longer


def test_appending_makes_a_private_file_and_goes_on_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for text in (b"one\n", b"two\n"):
        with append_regular(path) as file:
            file.write(text)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one\ntwo\n", 0o600)


def test_files_are_read_where_the_system_has_no_flags_against_links_and_pipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
        monkeypatch.delattr(os, name)
    (tmp_path / "file").write_bytes(b"12")
    assert read_regular(tmp_path / "file") == b"12"


def test_whatever_is_there_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    path = tmp_path / "entry"
    for make in (
        lambda: path.symlink_to(kept),
        lambda: (path / "inside").mkdir(parents=True),
        path.touch,
        lambda: None,
    ):
        make()
        remove(path)
        assert list(tmp_path.iterdir()) == [kept]
    assert (kept / "file").exists()
