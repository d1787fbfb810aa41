"""The contract between the supervisor and whatever runs a training."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict

from trainers.spec import Task

ATTEMPT_FILE = "attempt.json"
"""Written by the executor into the run directory as soon as the work has a pid: {"pid", "create_time"}."""


class Slot(BaseModel):
    """The share of a machine that one call of `run` may use.

    `deadline_seconds`: from the start; the child ends at its next epoch boundary after it, and the executor kills what
    outlives it by `grace_seconds`. `memory_mb`: None is no limit.
    """

    model_config = ConfigDict(frozen=True)

    threads: int
    gpu_ids: tuple[int, ...] = ()
    lane: int = 0
    """Which of a GPU's slots: each has a warm worker of its own."""
    memory_mb: int | None = None
    deadline_seconds: float | None = None
    grace_seconds: float = 120.0

    @property
    def allowed_seconds(self) -> float | None:
        """After which the executor kills the child; None: never."""
        return None if self.deadline_seconds is None else self.deadline_seconds + self.grace_seconds

    @property
    def overdue(self) -> str:
        """What is said of a child that was killed so."""
        return f"still at work {self.grace_seconds:g} s after its deadline of {self.deadline_seconds:g} s"


class Exit(BaseModel):
    """How the work on one run directory ended, seen from outside.

    `cause`: `result` (the result file is there), else why it is not: `out_of_memory`, `crashed`; or that the executor
    ended it: `timed_out` (deadline and grace were over), `killed` (the executor is closing). What the executor ends may
    still have left a result file.
    """

    model_config = ConfigDict(frozen=True)

    cause: Literal["result", "killed", "out_of_memory", "timed_out", "crashed"]
    message: str = ""
    peak_memory_mb: float | None = None


class Executor(Protocol):
    """An async context manager; entering it ends whatever an earlier owner of the same home left behind."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def run(self, directories: Sequence[Path], slot: Slot, task: Task = "run") -> list[Exit]:
        """Work on each directory to its end and tell how each ended, in order.

        Cancelling the call asks the child to end (SIGTERM, so that it may still write a result), then kills it; no
        process of it is left when the cancellation comes out. Raises ExecutorError where the machinery is broken.
        """
        ...


class ExecutorError(RuntimeError):
    """The machinery itself failed (no interpreter, no disk, no engine): no verdict on the trial."""


ENDING = "The owner is ending; no training starts any more."


def cannot_start(directory: Path, error: OSError) -> ExecutorError:
    """There can be no child for a run directory."""
    advice = ": make room, then the same run_trial goes on" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return ExecutorError(f"The training in {directory.name} cannot start: {error.strerror or error}{advice}.")


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes `content` by rename: there is a whole file under this name, or none. Raises OSError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
