"""One child process in a session of its own: started, waited for without blocking, ended with all it started."""

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

from server.executors.descendants import Meter, end_marked
from server.executors.environment import RUN_MARK

_POLL_SECONDS = 0.05

# Between fork and exec nothing of ours may run in a process that has threads, so a bare interpreter asks the kernel to
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
    """A child on one run directory, whether a process was started for it or forked from one that is there.

    `exit_code`: None while it runs; negative for a signal. `failure`: why nobody knows how it ended, where that is so.
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
        """Returns once it has its pid. Raises OSError where there can be no child."""
        ...

    async def wait(self, seconds: float | None = None) -> bool:
        """Whether it ended within `seconds`."""
        ...

    async def end(self, seconds: float) -> None:
        """SIGTERM, `seconds` to obey it, SIGKILL; then nothing that it started is left."""
        ...


async def happened(event: asyncio.Event, seconds: float | None) -> bool:
    """Whether `event` was set within `seconds`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


class Child:
    """Must be started from the thread that runs the event loop: the kernel ties its death to that thread."""

    def __init__(self, process: subprocess.Popen[bytes], run_id: str) -> None:
        self._process = process
        self._run_id = run_id
        self._gone = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self.pid = process.pid
        self.meter = Meter(process.pid)
        self.failure: str | None = None
        self._notice_the_end()

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        log: Path,
        talk: tuple[int, int] | None = None,
    ) -> Child:
        """Starts `command` in `directory`, its output appended to `log`. Raises OSError.

        `talk`: descriptors to read from and to write to, for a child that is spoken with; its log has its errors only.
        """
        program = shutil.which(command[0])
        if program is None:
            raise FileNotFoundError(f"{command[0]!r} is not a program")
        arguments = [program, *command[1:]]
        if sys.platform == "linux":
            arguments = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *arguments]
        with log.open("ab") as output:
            process = subprocess.Popen(
                arguments,
                cwd=directory,
                env=dict(environment),
                stdin=talk[0] if talk else subprocess.DEVNULL,
                stdout=talk[1] if talk else output,
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
        """Sends it to the child's process group."""
        if self._process.poll() is None:  # once it is reaped its number may belong to somebody else
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _notice_the_end(self) -> None:
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
