"""The contract between the supervisor and whatever runs a training."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict

from trainers.contract.regular_files import create_regular
from trainers.contract.wire import ChildTask


class Slot(BaseModel):
    """The share of a machine that one call of `run` may use.

    `deadline_seconds` counts from the start of the call. The child ends at its first epoch boundary after the deadline,
    and the executor kills a child that still runs `grace_seconds` later. `memory_mb` None means no limit.
    """

    model_config = ConfigDict(frozen=True)

    threads: int
    gpu_ids: tuple[int, ...] = ()
    lane: int = 0
    """Which of a GPU's slots this is; each lane has its own warm worker."""
    memory_mb: int | None = None
    deadline_seconds: float | None = None
    grace_seconds: float = 120.0

    @property
    def allowed_seconds(self) -> float | None:
        """Seconds after which the executor kills the child; None means never."""
        return None if self.deadline_seconds is None else self.deadline_seconds + self.grace_seconds

    @property
    def overdue(self) -> str:
        """The message for a child that was killed because it outlived its deadline and grace period."""
        return f"still at work {self.grace_seconds:g} s after its deadline of {self.deadline_seconds:g} s"


class Exit(BaseModel):
    """How the work on one run directory ended, as the executor saw it.

    `cause` is `result` if the result file exists. Otherwise it says why the file is missing (`out_of_memory`,
    `crashed`) or that the executor ended the child: `timed_out` when deadline and grace were over, `killed` when the
    executor was closing. A child that the executor ended may still have left a result file.
    """

    model_config = ConfigDict(frozen=True)

    cause: Literal["result", "killed", "out_of_memory", "timed_out", "crashed"]
    message: str = ""
    peak_memory_mb: float | None = None


class Executor(Protocol):
    """An async context manager. Entering it ends every process that an earlier owner of the same home left behind."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def run(self, directories: Sequence[Path], slot: Slot, task: ChildTask = "run") -> list[Exit]:
        """Works on each directory to its end; returns one Exit per directory, in order.

        Cancelling the call asks the child to end (SIGTERM, so that it may still write a result), then kills it. None of
        its processes is left when the cancellation propagates. Raises ExecutorError where the machinery is broken.
        """
        ...


class ExecutorError(RuntimeError):
    """The machinery itself failed (no interpreter, no disk, no engine), which says nothing about the trial."""


ENDING = "The owner is ending; no training starts any more."


def cannot_start(directory: Path, error: OSError) -> ExecutorError:
    """The error for a run directory in which no child can be started."""
    return ExecutorError(f"The training in {directory.name} cannot start: {reason(error)}.")


def reason(error: OSError) -> str:
    """What the system says of an error, and what to do where a disk is full."""
    advice = ": make room, then the same run_trial goes on" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.strerror or error}{advice}"


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes `content` by rename, so the file at `path` is either complete or absent. Raises OSError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with create_regular(temporary) as file:  # a training may have left a link or a pipe of that name
            file.write(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
