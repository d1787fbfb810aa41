"""Runs each training in a child process on this machine, within its limits, and leaves none behind."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import psutil

from memory.off_loop import uninterrupted
from server.executors.base import ENDING, ExecutorError, Exit, Slot, cannot_start, write_whole
from server.executors.environment import OWNER_MARK, child_environment, owner_mark
from server.executors.host_memory import ceiling_mb, oom_kills
from server.executors.log import check_disk, last_line, log_size
from server.executors.process.child import Child, Working
from server.executors.process.pool import Workers
from server.executors.process.process_tree import end_marked
from server.executors.process.worker import Request, Worker
from server.settings import Settings
from trainers.contract.wire import ATTEMPT_FILE, LOG_FILE, RESULT_FILES, ChildTask

TRAINERS = (sys.executable, "-P", "-m", "trainers")
"""`-P` keeps the run directory off the child's path: a folder named trainers in it must not win."""
_NEAR = 0.9
"""Share of the memory ceiling; a SIGKILL from outside at this much use is taken for the kernel's."""

EndedBy = Literal["itself", "memory", "deadline", "closing"]


@dataclass
class _Run:
    """One child at work, and the state from before it started."""

    child: Working
    directory: Path
    slot: Slot
    task: ChildTask
    since: float
    log_start: int
    oom_kills: int
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class ProcessExecutor:
    """Runs `command TASK DIR --datasets D [--deadline-seconds S]`; tests pass another command than the trainers'.

    `warm`: where possible, a process that is already loaded does the same without the cost of a start. `hide_gpus`: a
    training sees no GPUs but those of its slot.
    """

    def __init__(
        self,
        datasets: Path,
        home: Path,
        command: Sequence[str] = TRAINERS,
        sample_seconds: float = 0.5,
        obey_seconds: float = 3.0,
        warm: bool = True,
        hide_gpus: bool = False,
    ) -> None:
        self._datasets = datasets.absolute()
        self._home = home.resolve()
        self._command = tuple(command)
        self._owner = {**os.environ, "CUDA_VISIBLE_DEVICES": ""} if hide_gpus else os.environ
        self._workers = Workers(command, self._datasets, self._home, owner=self._owner) if warm else None
        self._sample_seconds = sample_seconds
        self._obey_seconds = obey_seconds
        self._runs: list[_Run] = []
        self._closing = False

    @classmethod
    def of(cls, settings: Settings) -> ProcessExecutor:
        """The executor that the settings describe."""
        return cls(settings.datasets_dir, settings.home, hide_gpus=settings.gpus == ())

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(end_marked, OWNER_MARK, owner_mark(self._home))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await uninterrupted(self._close())

    async def run(self, directories: Sequence[Path], slot: Slot, task: ChildTask = "run") -> list[Exit]:
        return [await self._run_one(directory, slot, task) for directory in directories]

    async def _close(self) -> None:
        self._closing = True
        await asyncio.gather(*(run.ended.wait() for run in self._runs))
        if self._workers is not None:
            await self._workers.aclose()
        await asyncio.to_thread(end_marked, OWNER_MARK, owner_mark(self._home))

    async def _run_one(self, directory: Path, slot: Slot, task: ChildTask) -> Exit:
        since = asyncio.get_running_loop().time()
        worker = await self._workers.worker(slot) if self._workers is not None else None
        if self._closing:
            raise ExecutorError(ENDING)
        run = self._start(directory, slot, task, since, worker)
        self._runs.append(run)
        ended_by: EndedBy = "itself"
        try:
            await run.child.begun()
            write_attempt(directory, run.child.pid)
            ended_by = await self._watch(run)
        except OSError as error:
            raise cannot_start(directory, error) from None
        finally:
            await uninterrupted(self._end(run, 0.0 if ended_by == "memory" else self._obey_seconds))
        return _exit(run, ended_by)

    async def _end(self, run: _Run, obey_seconds: float) -> None:
        try:
            await run.child.end(obey_seconds)
        finally:
            self._runs.remove(run)
            run.ended.set()

    def _start(self, directory: Path, slot: Slot, task: ChildTask, since: float, worker: Worker | None) -> _Run:
        seconds = slot.deadline_seconds if task == "run" else None
        if seconds is not None:
            seconds = max(0.0, since + seconds - asyncio.get_running_loop().time())
        try:
            log_start = log_size(directory)
            kills_before = oom_kills()
            child: Working
            if worker is None:
                child = self._start_cold(directory, slot, task, seconds)
            else:
                child = worker.begin(_request(directory, slot, task, seconds))
        except OSError as error:
            raise cannot_start(directory, error) from None
        return _Run(child, directory, slot, task, since, log_start, kills_before)

    def _start_cold(self, directory: Path, slot: Slot, task: ChildTask, seconds: float | None) -> Child:
        command = [*self._command, task, str(directory.absolute()), "--datasets", str(self._datasets)]
        if seconds is not None:
            command += ["--deadline-seconds", f"{seconds:.3f}"]
        environment = child_environment(self._owner, slot, self._home, secrets.token_hex(8))
        return Child.start(command, directory, environment, directory / LOG_FILE)

    async def _watch(self, run: _Run) -> EndedBy:
        loop = asyncio.get_running_loop()
        slot, meter = run.slot, run.child.meter
        allowed = slot.allowed_seconds
        while not await run.child.wait(self._sample_seconds):
            if self._closing:
                return "closing"
            used = await asyncio.to_thread(meter.sample)
            if slot.memory_mb is not None and used > slot.memory_mb:
                return "memory"
            if allowed is not None and loop.time() - run.since > allowed:
                return "deadline"
        return "itself"


def _request(directory: Path, slot: Slot, task: ChildTask, seconds: float | None) -> Request:
    absolute = directory.absolute()
    return Request(
        task=task, directory=str(absolute), log=str(absolute / LOG_FILE), threads=slot.threads, deadline_seconds=seconds
    )


def write_attempt(directory: Path, pid: int) -> None:
    """Writes the pid and creation time, which together identify a process for good. Raises OSError."""
    try:
        created = psutil.Process(pid).create_time()
    except psutil.Error:  # the process has ended already
        return
    write_whole(directory / ATTEMPT_FILE, json.dumps({"pid": pid, "create_time": created}))


def _exit(run: _Run, ended_by: EndedBy) -> Exit:
    peak = round(run.child.meter.peak_mb, 1) or None
    slot = run.slot
    if ended_by == "closing":
        return Exit(cause="killed", message="the owner ended", peak_memory_mb=peak)
    if ended_by == "deadline":
        return Exit(cause="timed_out", message=slot.overdue, peak_memory_mb=peak)
    if (run.directory / RESULT_FILES[run.task]).exists():
        return Exit(cause="result", peak_memory_mb=peak)
    if ended_by == "memory":
        message = f"used {peak or 0:.0f} MB at its peak; the limit is {slot.memory_mb} MB"
        return Exit(cause="out_of_memory", message=message, peak_memory_mb=peak)
    if run.child.failure is not None:
        raise ExecutorError(run.child.failure)
    return _unfinished(run, peak)


def _unfinished(run: _Run, peak: float | None) -> Exit:
    """The exit of a child that ended by itself, or was ended from outside, and left no result."""
    log_line = last_line(run.directory, run.log_start)
    check_disk(run.directory, log_line)
    code, last_mb = run.child.exit_code or 0, run.child.meter.last_mb
    ceiling = run.slot.memory_mb or ceiling_mb()
    if code == -signal.SIGKILL and (oom_kills() > run.oom_kills or last_mb >= _NEAR * ceiling):
        message = f"killed by the system when memory ran out, at {last_mb:.0f} MB of {ceiling:.0f} MB"
        return Exit(cause="out_of_memory", message=message, peak_memory_mb=peak)
    message = f"killed by signal {-code}" if code < 0 else log_line or f"ended with exit code {code}, without a word"
    return Exit(cause="crashed", message=message, peak_memory_mb=peak)
