"""Starts the command of a user's own trainer in a directory and waits for its end. No torch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Literal

from trainers.contract.regular_files import append_regular, create_regular, open_regular
from trainers.contract.wire import (
    LOG_FILE,
    SPEC_FILE,
    TrialSpec,
)
from trainers.external.environment import trainer_environment
from trainers.external.registry import ExternalTrainer

OBEY_SECONDS = 30.0
"""How long a trainer may take to write its result after a SIGTERM."""
_POLL_SECONDS = 0.1
_TAIL_BYTES = 8192

# The kernel kills the trainer together with the process that waits for it; see server/executors/process/child.py.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that waits for this ended")
os.execv(sys.argv[2], sys.argv[2:])
"""

EndedBy = Literal["timed_out", "cancelled"]


class Misbehaved(RuntimeError):
    """A trainer broke the protocol; the message is one line that says how."""


def write_request(directory: Path, spec: TrialSpec, train: Path) -> None:
    """Writes the spec and a copy of the training split for the trainer, which never sees the test items."""
    with create_regular(directory / SPEC_FILE) as file:
        file.write(spec.model_dump_json(indent=1).encode())
    copy_regular(train, directory / "train.safetensors")


def copy_regular(source: Path, target: Path) -> None:
    """Copies a regular file in place of what is at `target`. Raises OSError, also where the disk has no room for it."""
    with open_regular(source, shutil.disk_usage(target.parent).free) as file, create_regular(target) as copy:
        shutil.copyfileobj(file, copy, 1 << 20)


def run_command(
    trainer: ExternalTrainer, directory: Path, cancelled: Callable[[], bool], deadline: float
) -> EndedBy | None:
    """Runs the command to its end; returns what ended it early, if anything did. Raises Misbehaved.

    It has a process group of its own, so that a signal to ours does not end it before it was asked to end.
    """
    ended_by: EndedBy | None = None
    command = [*trainer.command, str(directory.absolute())]
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
    try:
        log = append_regular(directory / LOG_FILE)
    except OSError as error:
        raise Misbehaved(f"its {LOG_FILE} cannot be written: {error.strerror or error}") from None
    with log:
        start = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=trainer_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )
    kill_at = inf
    try:
        while process.poll() is None:
            now = time.monotonic()
            if ended_by is None and ((is_cancelled := cancelled()) or now >= deadline):
                ended_by = "cancelled" if is_cancelled else "timed_out"
                kill_at = now + OBEY_SECONDS
                _signal_group(process.pid, signal.SIGTERM)
            elif now >= kill_at:
                raise Misbehaved(f"it did not end within {OBEY_SECONDS:g} s of a SIGTERM")
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
    finally:
        _signal_group(process.pid, signal.SIGKILL)  # what it has started ends with it
        process.wait()
    if process.returncode and ended_by is None:
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        raise Misbehaved(f"its command ended with {how}: {_last_words(directory / LOG_FILE, start)}")
    return ended_by


def _signal_group(leader: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _last_words(path: Path, start: int) -> str:
    """The last line that the log got after byte `start`."""
    try:
        with open_regular(path) as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return "its log cannot be read"
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it said nothing")
