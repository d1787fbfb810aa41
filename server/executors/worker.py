"""A process with torch loaded already, and the children that it forks for run directories: see trainers/worker.py."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from server.executors.child import happened
from server.executors.descendants import Meter
from server.executors.talk import Talk
from trainers.spec import Task

_ANSWER_SECONDS = 10.0
"""A worker that has not told of a child after so long is broken, and is ended with all its children."""
_START_SECONDS = 120.0


class Request(BaseModel):
    """One run or evaluation, as the worker reads it."""

    model_config = ConfigDict(frozen=True)

    task: Task
    directory: str
    log: str
    threads: int
    deadline_seconds: float | None


class _Answer(BaseModel):
    ready: bool = False
    pid: int = 0
    exit_code: int | None = None
    last: bool = False
    error: str = ""


class Worker:
    """`forks`: a child for each request, several at a time; otherwise the worker itself, one after the other.

    `broken`: it never became ready, or ended unasked and not by the fault of a training.
    """

    def __init__(self, command: Sequence[str], home: Path, environment: Mapping[str, str], forks: bool) -> None:
        """Starts `command`; must be called from the thread that runs the event loop. Raises OSError."""
        self._talk = Talk.start(command, home, environment, self._take)
        loop = asyncio.get_running_loop()
        self.forks = forks
        self.served = 0
        self.broken = False
        self._process = self._talk.process
        self._ready: asyncio.Future[bool] = loop.create_future()
        self._asked: deque[WarmChild] = deque()
        self._working: dict[int, WarmChild] = {}
        self._retiring = False
        self._ending = loop.create_task(self._until_it_ends())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def serving(self) -> bool:
        """Whether it takes requests, or will."""
        return self._process.exit_code is None and not self._retiring

    @property
    def ended(self) -> bool:
        """Whether nothing of it is left, and `broken` is known."""
        return self._ending.done()

    @property
    def busy(self) -> bool:
        """Whether a child is at work or asked for."""
        return bool(self._asked or self._working)

    async def ready(self) -> bool:
        """Whether it takes requests; waits until it does or it is clear that it never will."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                return await asyncio.shield(self._ready)
        await self.end()
        return False

    def begin(self, request: Request) -> WarmChild:
        """A child for `request`; it has begun once its `begun` returns. Raises OSError."""
        child = WarmChild(self)
        self._talk.ask(request.model_dump())
        self._asked.append(child)
        self.served += 1
        return child

    def send(self, child: WarmChild, number: signal.Signals) -> None:
        """A signal for the group of a child that is at work; none for one that has ended."""
        if self._working.get(child.pid) is not child:
            return
        if not self.forks:
            self._process.send(number)
        else:
            with suppress(OSError):  # a worker that cannot be asked any more has ended, and its children with it
                self._talk.ask({"pid": child.pid, "signal": number})

    def retire(self) -> None:
        """Ends it as soon as no child is at work."""
        self._retiring = True
        if not self.busy:
            self._process.send(signal.SIGKILL)

    async def end(self) -> None:
        """Ends it with all its children; returns when nothing of them is left."""
        self._process.send(signal.SIGKILL)
        await asyncio.wait({self._ending})

    def _take(self, line: bytes) -> None:
        answer = _Answer.model_validate_json(line)
        if answer.ready:
            if not self._ready.done():
                self._ready.set_result(True)
        elif answer.exit_code is not None:
            self._working.pop(answer.pid).has_ended(answer.exit_code)
            if self._retiring or answer.last:
                self.retire()
        elif answer.pid:
            child = self._working[answer.pid] = self._asked.popleft()
            child.has_begun(answer.pid)
        else:
            self._asked.popleft().cannot_begin(answer.error)

    async def _until_it_ends(self) -> None:
        await self._talk.ended()
        code = self._process.exit_code or 0
        blameless = self._retiring or code == 0 or (self._working and not self.forks)
        self.broken = not self._ready.done() or not blameless
        if not self._ready.done():
            self._ready.set_result(False)
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        for child in self._asked:
            child.cannot_begin(f"the process that was to fork it ended ({how})")
        for child in self._working.values():
            failure = f"The process that had forked the training ended ({how}), and the training with it; try again."
            child.has_ended(code, failure if self.forks else None)
        self._asked.clear()
        self._working.clear()


class WarmChild:
    """A child of a worker, or the worker itself while it works on one request. Before it has begun its pid is 0."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._begun = asyncio.Event()
        self._gone = asyncio.Event()
        self._refused: str | None = None
        self.pid = 0
        self.meter = Meter(worker.pid)
        self.exit_code: int | None = None
        self.failure: str | None = None

    def has_begun(self, pid: int) -> None:
        self.pid = pid
        self.meter = Meter(pid)
        self._begun.set()

    def cannot_begin(self, reason: str) -> None:
        self._refused = reason
        self._begun.set()
        self._gone.set()

    def has_ended(self, exit_code: int, failure: str | None = None) -> None:
        self.exit_code = exit_code
        self.failure = failure
        self._gone.set()

    async def begun(self) -> None:
        if not await happened(self._begun, _ANSWER_SECONDS):
            raise OSError(errno.ETIMEDOUT, "the process that was to fork it does not answer")
        if self._refused is not None:
            raise OSError(errno.ECHILD, self._refused)

    async def wait(self, seconds: float | None = None) -> bool:
        return await happened(self._gone, seconds)

    async def end(self, seconds: float) -> None:
        if not await happened(self._begun, _ANSWER_SECONDS):
            await self._worker.end()
        self._worker.send(self, signal.SIGTERM)
        if not await self.wait(seconds):
            self._worker.send(self, signal.SIGKILL)
            if not await self.wait(_ANSWER_SECONDS):
                await self._worker.end()
