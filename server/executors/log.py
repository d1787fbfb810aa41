"""Reads from a child's log and its disk how the child ended."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from server.executors.base import ExecutorError
from trainers.contract.regular_files import append_regular, open_regular
from trainers.contract.wire import LOG_FILE, NO_ROOM

_TAIL_BYTES = 8192
_MESSAGE_CHARACTERS = 500
_ROOM_FOR_A_LINE = 1 << 16


def log_size(directory: Path) -> int:
    """The log's current size in bytes; creates the log where there is none. Raises OSError."""
    with append_regular(directory / LOG_FILE) as file:
        return file.seek(0, os.SEEK_END)


def last_line(directory: Path, start: int = 0) -> str:
    """The last non-empty line written after byte `start`; an empty string where there is none."""
    log = directory / LOG_FILE
    try:
        with open_regular(log) as file:
            file.seek(max(start, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode("utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:_MESSAGE_CHARACTERS] for line in reversed(lines) if line.strip()), "")


def check_disk(directory: Path, log_line: str) -> None:
    """Raises ExecutorError if a child left no result because the disk was full: that is no verdict on the trial."""
    try:
        full = shutil.disk_usage(directory).free < _ROOM_FOR_A_LINE
    except OSError:
        full = False
    if full or any(words in log_line for words in NO_ROOM):
        raise ExecutorError(
            f"The disk of {directory.parent} is full, and the training in {directory.name} ended with it: make room, "
            "then the same run_trial goes on."
        )
