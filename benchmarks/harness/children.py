"""Runs measuring child processes in the environment of a trial, and reads their answers as they arrive."""

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

from benchmarks.harness.machine import ROOT
from benchmarks.harness.task import Answer, PeerTraining
from server.executors.base import Slot
from server.executors.environment import child_environment


class ChildFailed(RuntimeError):
    """A measuring child ended without all its results. The message holds the last line of its log."""


def environment(device: str, threads: int, home: Path) -> dict[str, str]:
    """The environment of a trial on `device` with `threads`, for a child that may also import this package."""
    variables = child_environment(os.environ, Slot(threads=threads), home, secrets.token_hex(8))
    paths = [str(ROOT), *filter(None, variables["PYTHONPATH"].split(os.pathsep))]
    variables["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return variables


@contextmanager
def child(command: Sequence[str], variables: dict[str, str], folder: Path, log: IO[bytes]) -> Iterator[IO[str]]:
    """Runs `command` in `folder` and yields its standard output; kills it where the caller leaves early."""
    with subprocess.Popen(
        command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def answers(module: str, task: PeerTraining, folder: Path, python: Path | None = None) -> Generator[Answer]:
    """Runs `task` with `module` in `folder` and yields its answers. Closing the iterator ends the child.

    Raises ChildFailed where it answers fewer epochs than the task has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task.write(folder / "task.json")
    command = [str(python or sys.executable), "-P", "-m", module, str(folder / "task.json")]
    answered = 0
    with (
        (folder / "child.log").open("wb") as log,
        child(command, environment(task.device, task.threads, folder), folder, log) as output,
    ):
        for line in output:
            if line.startswith("{"):
                answered += 1
                yield Answer(**json.loads(line))
    if answered < task.epochs:
        raise ChildFailed(f"{module} answered {answered} of {task.epochs} epochs: {last_line(folder / 'child.log')}")


def last_line(log: Path) -> str:
    """The last line of a log, blank lines aside."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "not a word")
