"""The owner's side of trainers/child/worker.py: a process that has torch loaded, and the children it forks."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from server.executors.process.child import happened
from server.executors.process.pipe import MessagePipe
from server.executors.process.process_tree import Meter
from trainers.contract.wire import ChildTask

_ANSWER_SECONDS = 10.0
"""A worker that has not reported a child after this time is broken and is ended with all its children."""
_START_SECONDS = 120.0


class Request(BaseModel):
    """One task on one run directory, as the worker reads it."""

    model_config = ConfigDict(frozen=True)

    task: ChildTask
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
    """A warm process. With `forks` it forks a child for each request, several at a time; otherwise it works itself.

    `broken`: it never became ready, or it ended unasked and no training was to blame.
    """

    def __init__(self, command: Sequence[str], home: Path, environment: Mapping[str, str], forks: bool) -> None:
        """Starts `command`; call it from the thread that runs the event loop. Raises OSError."""
        self._pipe = MessagePipe.start(command, home, environment, self._take)
        loop = asyncio.get_running_loop()
        self.forks = forks
        self.served = 0
        self.broken = False
        self._process = self._pipe.process
        self._ready: asyncio.Future[bool] = loop.create_future()
        self._requested: deque[WarmChild] = deque()
        self._working: dict[int, WarmChild] = {}
        self._retiring = False
        self._ending = loop.create_task(self._watch_until_end())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def serving(self) -> bool:
        """Whether it takes requests now, or will once it is ready."""
        return self._process.exit_code is None and not self._retiring

    @property
    def ended(self) -> bool:
        """Whether none of its processes is left and `broken` is final."""
        return self._ending.done()

    @property
    def busy(self) -> bool:
        """Whether a child is at work or requested."""
        return bool(self._requested or self._working)

    async def ready(self) -> bool:
        """Waits until it takes requests, or until it clearly never will; returns whether it does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                return await asyncio.shield(self._ready)
        await self.end()
        return False

    def begin(self, request: Request) -> WarmChild:
        """Requests a child, which has begun once its `begun` returns. Raises OSError."""
        child = WarmChild(self)
        self._pipe.send(request.model_dump())
        self._requested.append(child)
        self.served += 1
        return child

    def send(self, child: WarmChild, number: signal.Signals) -> None:
        """Sends a signal to the process group of a child at work; does nothing for a child that has ended."""
        if self._working.get(child.pid) is not child:
            return
        if not self.forks:
            self._process.send(number)
        else:
            with suppress(OSError):  # a worker that takes no messages has ended, and its children with it
                self._pipe.send({"pid": child.pid, "signal": number})

    def retire(self) -> None:
        """Ends the worker as soon as no child is at work."""
        self._retiring = True
        if not self.busy:
            self._process.send(signal.SIGKILL)

    async def end(self) -> None:
        """Ends the worker with all its children; returns when none of them is left."""
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
            child = self._working[answer.pid] = self._requested.popleft()
            child.has_begun(answer.pid)
        else:
            self._requested.popleft().cannot_begin(answer.error)

    async def _watch_until_end(self) -> None:
        await self._pipe.ended()
        code = self._process.exit_code or 0
        blameless = self._retiring or code == 0 or (self._working and not self.forks)
        self.broken = not self._ready.done() or not blameless
        if not self._ready.done():
            self._ready.set_result(False)
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        for child in self._requested:
            child.cannot_begin(f"the process that was to fork it ended ({how})")
        for child in self._working.values():
            failure = f"The process that had forked the training ended ({how}), and the training with it; try again."
            child.has_ended(code, failure if self.forks else None)
        self._requested.clear()
        self._working.clear()


class WarmChild:
    """A child of a worker, or the worker itself while it works on one request. Its pid is 0 until it has begun."""

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
