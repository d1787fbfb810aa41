"""Measuring children: each in a fresh process with the environment that a trial gets, its answers read as they come."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from benchmarks.machine import ROOT
from benchmarks.task import Answer, Task
from server.executors.base import Slot
from server.executors.environment import child_environment


class ChildFailed(RuntimeError):
    """A measuring child ended without what it was asked for; the message holds its last words."""


def environment(device: str, threads: int, home: Path) -> dict[str, str]:
    """A trial's environment on `device` with `threads`, for a child that may import this package, too."""
    given = child_environment(os.environ, Slot(threads=threads), home, secrets.token_hex(8))
    paths = [str(ROOT), *filter(None, given["PYTHONPATH"].split(os.pathsep))]
    given["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    if device == "cpu":
        given["CUDA_VISIBLE_DEVICES"] = ""
    return given


@contextmanager
def child(command: Sequence[str], surroundings: dict[str, str], folder: Path, log: IO[bytes]) -> Iterator[IO[str]]:
    """Runs `command` in `folder` and gives its standard output; it is ended where the caller leaves early."""
    with subprocess.Popen(
        command, cwd=folder, env=surroundings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def answers(module: str, task: Task, folder: Path, python: Path | None = None) -> Generator[Answer]:
    """Has `module` do `task` in `folder` and yields its answers; closing the iterator ends it.

    Raises ChildFailed where fewer epochs than asked for were answered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task.write(folder / "task.json")
    command = [str(python or sys.executable), "-P", "-m", module, str(folder / "task.json")]
    said = 0
    with (
        (folder / "child.log").open("wb") as log,
        child(command, environment(task.device, task.threads, folder), folder, log) as output,
    ):
        for line in output:
            if line.startswith("{"):
                said += 1
                yield Answer(**json.loads(line))
    if said < task.epochs:
        raise ChildFailed(f"{module} answered {said} of {task.epochs} epochs: {last_words(folder / 'child.log')}")


def last_words(log: Path) -> str:
    """The last line of a log that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "not a word")
