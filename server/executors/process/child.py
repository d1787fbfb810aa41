"""One child process in a session of its own: started, awaited without blocking, and ended with all it started."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from server.executors.environment import RUN_MARK
from server.executors.process.process_tree import Meter, end_marked
from trainers.contract.regular_files import append_regular

_POLL_SECONDS = 0.05

# In a process that has threads no Python code may run between fork and exec. So a bare interpreter asks the kernel to
# kill the child together with its owner, makes it the first victim when memory runs out, and becomes the command.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the owner ended")
try:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")
except OSError:
    pass
os.execv(sys.argv[2], sys.argv[2:])
"""


class Working(Protocol):
    """A child at work on one run directory, either a process of its own or forked from a warm worker.

    `exit_code` is None while it runs and negative for a signal. `failure` says why nobody knows how it ended, where
    that is so.
    """

    @property
    def pid(self) -> int: ...

    @property
    def meter(self) -> Meter: ...

    @property
    def exit_code(self) -> int | None: ...

    @property
    def failure(self) -> str | None: ...

    async def begun(self) -> None:
        """Returns once the child has its pid. Raises OSError where no child can be started."""
        ...

    async def wait(self, seconds: float | None = None) -> bool:
        """Whether the child ended within `seconds`; None waits without a limit."""
        ...

    async def end(self, seconds: float) -> None:
        """Sends SIGTERM, and SIGKILL `seconds` later; returns when nothing that the child started is left."""
        ...


async def happened(event: asyncio.Event, seconds: float | None) -> bool:
    """Whether `event` was set within `seconds`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


class Child:
    """A process. Start it from the thread that runs the event loop: the kernel ties its death to that thread."""

    def __init__(self, process: subprocess.Popen[bytes], run_id: str) -> None:
        self._process = process
        self._run_id = run_id
        self._gone = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self.pid = process.pid
        self.meter = Meter(process.pid)
        self.failure: str | None = None
        self._watch_for_end()

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        log: Path | None,
        pipes: tuple[int, int] | None = None,
    ) -> Child:
        """Starts `command` in `directory`, its output appended to `log`, or dropped. Raises OSError.

        `pipes`: the child's stdin and stdout, for a child that exchanges messages; its log then gets stderr only.
        """
        program = shutil.which(command[0])
        if program is None:
            raise FileNotFoundError(f"{command[0]!r} is not a program")
        arguments = [program, *command[1:]]
        if sys.platform == "linux":
            arguments = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *arguments]
        with append_regular(log) if log is not None else Path(os.devnull).open("ab") as output:
            process = subprocess.Popen(
                arguments,
                cwd=directory,
                env=dict(environment),
                stdin=pipes[0] if pipes else subprocess.DEVNULL,
                stdout=pipes[1] if pipes else output,
                stderr=output,
                start_new_session=True,
            )
        return cls(process, environment[RUN_MARK])

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    async def begun(self) -> None:
        return

    async def wait(self, seconds: float | None = None) -> bool:
        return await happened(self._gone, seconds)

    async def end(self, seconds: float) -> None:
        self.send(signal.SIGTERM)
        if not await self.wait(seconds):
            self.send(signal.SIGKILL)
            await self._gone.wait()
        await asyncio.to_thread(end_marked, RUN_MARK, self._run_id)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the child's process group."""
        if self._process.poll() is None:  # once it is reaped, its pid may belong to another process
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _watch_for_end(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, an old kernel, or a sandbox that forbids it
            self._watcher = loop.create_task(self._poll())
            return

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._process.wait()
            self._gone.set()

        loop.add_reader(descriptor, ended)

    async def _poll(self) -> None:
        while self._process.poll() is None:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(_POLL_SECONDS)
        self._gone.set()
