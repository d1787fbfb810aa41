"""A process that has torch loaded already: it forks a child for each request, or works through them itself.

stdin takes one JSON object a line: a `Request`, or {"pid": …, "signal": …} for the process group of a child. stdout
answers {"ready": true} once all is loaded, {"pid": …} at the start of each request (or {"error": …} where there can be
no child) and {"pid": …, "exit_code": …} at its end, negative for a signal; with "last": true the worker takes no more.
It ends with stdin, and all that it started ends with it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import selectors
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any

from trainers.spec import RESULT_FILES, Task

Perform = Callable[[Task, Path, Path, Callable[[], bool], float], int]
"""(task, directory, datasets, cancelled, deadline) -> exit code."""

_DIE_WITH_PARENT, _ADOPT_ORPHANS = 1, 36
"""PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER of Linux's prctl."""
_VICTIM = "600"
"""When memory runs out a training goes before its worker, which was started with 500."""


@dataclass(frozen=True)
class Request:
    """One run or evaluation; `deadline_seconds` counts from its start."""

    task: Task
    directory: str
    log: str
    threads: int
    deadline_seconds: float | None = None


def load() -> Perform:
    """All that a training imports sooner or later. Nothing here computes: a fork copies no thread, so none may run."""
    from trainers import native, tasks
    from trainers.backbones import BACKBONES

    import_module("torch._dynamo")  # the first optimizer of a process imports it, which takes a second
    for path in BACKBONES.values():
        import_module(path.partition(":")[0])
    native.kernels()
    return tasks.perform


def serve(datasets: Path, load: Callable[[], Perform] = load, forks: bool = True) -> int:
    """Work on requests until stdin ends. Linux only."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    requests, answers = os.dup(0), os.dup(1)
    _point(os.open(os.devnull, os.O_RDWR), 0, 1)  # nothing but answers may reach the reader of stdout
    _prctl(_ADOPT_ORPHANS, 1)
    worker = (_Forking if forks else _Alone)(datasets, load(), requests, answers)
    worker.answer(ready=True)
    worker.serve()
    return 0


class _Wire:
    """Lines in, lines out, and the end of what was left behind."""

    def __init__(self, datasets: Path, perform: Perform, requests: int, answers: int) -> None:
        self.datasets = datasets
        self.perform = perform
        self.requests = requests
        self.answers = answers
        self.children: set[int] = set()
        self._rest = b""

    def answer(self, **values: object) -> None:
        os.write(self.answers, json.dumps(values).encode() + b"\n")

    def lines(self) -> list[dict[str, Any]] | None:
        """What was asked since the last call, waiting for something; None when stdin has ended."""
        text = os.read(self.requests, 65536)
        if not text:
            return None
        *whole, self._rest = (self._rest + text).split(b"\n")
        return [json.loads(line) for line in whole]

    def work(self, request: Request, cancelled: Callable[[], bool]) -> int:
        """Does what is asked in this process; its exit code."""
        deadline = inf if request.deadline_seconds is None else time.monotonic() + request.deadline_seconds
        try:
            _point(os.open(request.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 1, 2)
            os.chdir(request.directory)
            if torch := sys.modules.get("torch"):
                torch.set_num_threads(request.threads)
            return self.perform(request.task, Path(request.directory), self.datasets, cancelled, deadline)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            return 1

    def end_orphans(self) -> None:
        """Kills what ended children left behind.

        Descendants cannot be told by their environment: a forked child shows its parent's. Every child and this process
        adopt the orphans below them, so what is a child here and is not at work descends from one that has ended,
        whatever session it moved to; those of living children are not touched.
        """
        while orphans := _children() - self.children:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
            for pid in orphans:
                os.waitpid(pid, 0)


class _Forking(_Wire):
    """Each request in a child of its own, several at a time."""

    def serve(self) -> None:
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.private = (self.requests, self.answers, woken, wake)
        gc.collect()
        gc.freeze()  # a child's collections leave the pages alone that it shares with the worker
        with selectors.DefaultSelector() as selector:
            selector.register(self.requests, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if woken in ready:
                    os.read(woken, 4096)
                    self._reap()
                if self.requests in ready:
                    if (lines := self.lines()) is None:
                        break
                    for line in lines:
                        self._obey(line)
        for pid in self.children:
            self._signal(pid, signal.SIGKILL)
        self.children.clear()
        self.end_orphans()
        gc.unfreeze()

    def _obey(self, line: dict[str, Any]) -> None:
        if "signal" in line:
            if line["pid"] in self.children:  # once it is reaped its number may belong to somebody else
                self._signal(line["pid"], line["signal"])
            return
        try:
            self._fork(Request(**line))
        except OSError as error:
            self.answer(error=f"no child can be forked: {error.strerror}")

    def _fork(self, request: Request) -> None:
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until the child can catch it
        try:
            pid = os.fork()
            if pid == 0:
                self._child(request, parent)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        self.children.add(pid)
        self.answer(pid=pid)

    def _child(self, request: Request, parent: int) -> None:
        code = 1
        try:
            os.setsid()
            _prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != parent:
                return
            _prctl(_ADOPT_ORPHANS, 1)
            with suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(_VICTIM, encoding="ascii")
            for descriptor in self.private:
                os.close(descriptor)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = self.work(request, _cancelled())
        finally:
            os._exit(code)

    def _signal(self, pid: int, number: int) -> None:
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # it does not lead a group yet
            os.kill(pid, number)

    def _reap(self) -> None:
        ended: list[tuple[int, int]] = []
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended.append(found)
        ended = [(pid, status) for pid, status in ended if pid in self.children]
        self.children -= {pid for pid, _ in ended}
        if ended:
            self.end_orphans()
        for pid, status in ended:
            self.answer(pid=pid, exit_code=os.waitstatus_to_exitcode(status))


class _Alone(_Wire):
    """Request after request in this process, which keeps its GPU open. SIGTERM cancels the one at work."""

    def serve(self) -> None:
        cancelled = _cancelled()
        while (lines := self.lines()) is not None:
            for line in lines:
                cancelled = _cancelled()
                self.answer(pid=os.getpid())
                code = self.work(Request(**line), cancelled)
                _forget_gpu_memory()
                self.end_orphans()
                fit = code == 0 and _sound(Path(line["directory"]), line["task"])
                self.answer(pid=os.getpid(), exit_code=code, last=not fit)
                if not fit:
                    return  # an error may have left the device unusable for this process


def _cancelled() -> Callable[[], bool]:
    """Catches SIGTERM from now on; tells whether it came."""
    cancel = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: cancel.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return cancel.is_set


def _point(opened: int, *descriptors: int) -> None:
    """Makes each of `descriptors` another name of `opened`, which is closed."""
    for descriptor in descriptors:
        os.dup2(opened, descriptor)
    os.close(opened)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _children() -> set[int]:
    """The children of this process, ended ones that nobody waited for included."""
    own, found = os.getpid(), set[int]()
    for name in os.listdir("/proc"):  # noqa: PTH208 - a Path for each process costs more than the rest
        if name.isdecimal():
            with suppress(OSError):
                stat = Path(f"/proc/{name}/stat").read_bytes()
                if int(stat.rpartition(b")")[2].split()[1]) == own:  # the name in brackets may hold anything
                    found.add(int(name))
    return found


def _forget_gpu_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _sound(directory: Path, task: Task) -> bool:
    """Whether the work left a result that speaks of no error."""
    try:
        status = json.loads((directory / RESULT_FILES[task]).read_bytes())["status"]
    except (OSError, ValueError, KeyError):
        return False
    return status not in ("crashed", "out_of_memory", "failed")
