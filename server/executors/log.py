"""What a child's log and its disk say of how it ended."""

from __future__ import annotations

import shutil
from pathlib import Path

from server.executors.base import ExecutorError
from trainers.spec import NO_ROOM

LOG_FILE = "trial.log"
_TAIL_BYTES = 8192
_MESSAGE_CHARACTERS = 500
_ROOM_FOR_A_LINE = 1 << 16


def log_size(directory: Path) -> int:
    """Bytes that are in the log by now; makes it where there is none. Raises OSError."""
    with (directory / LOG_FILE).open("ab") as file:
        return file.tell()


def last_line(directory: Path, start: int = 0) -> str:
    """The last line that was written after `start`, if any."""
    log = directory / LOG_FILE
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:_MESSAGE_CHARACTERS] for line in reversed(lines) if line.strip()), "")


def check_disk(directory: Path, said: str) -> None:
    """Raises ExecutorError where a child without a result ended because there was no room: that is no verdict on it."""
    try:
        full = shutil.disk_usage(directory).free < _ROOM_FOR_A_LINE
    except OSError:
        full = False
    if full or any(words in said for words in NO_ROOM):
        raise ExecutorError(
            f"The disk of {directory.parent} is full, and the training in {directory.name} ended with it: make room, "
            "then the same run_trial goes on."
        )
