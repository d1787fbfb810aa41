"""A process that has already loaded torch: it forks a child for each request, or performs requests itself.

stdin takes one JSON object per line: a `Request`, or {"pid": …, "signal": …} for the process group of a child. stdout
answers {"ready": true} once everything is loaded, {"pid": …} at the start of each request (or {"error": …} if no child
can be started) and {"pid": …, "exit_code": …} at its end, negative for a signal. After "last": true the worker takes no
more requests. It ends when stdin ends, and so do all processes that it started.
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

from trainers.contract.regular_files import append_regular
from trainers.contract.wire import RESULT_FILES, ChildTask

Perform = Callable[[ChildTask, Path, Path, Callable[[], bool], float], int]
"""Performs a task in this process: (task, directory, datasets, cancelled, deadline) -> exit code."""

_DIE_WITH_PARENT, _ADOPT_ORPHANS = 1, 36
"""The options PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER of Linux's prctl."""
_CHILD_OOM_SCORE = "600"
"""OOM score of a child: if memory runs out, Linux kills a training before its worker, which was started with 500."""


@dataclass(frozen=True)
class Request:
    """One task for a child; `deadline_seconds` counts from its start."""

    task: ChildTask
    directory: str
    log: str
    threads: int
    deadline_seconds: float | None = None


def load() -> Perform:
    """Imports all that a training needs. Nothing here computes: a fork does not copy threads, so none may run."""
    from trainers.child import tasks
    from trainers.models import native
    from trainers.models.backbones import BACKBONES

    import_module("torch._dynamo")  # the first optimizer of a process imports it, which takes a second
    for path in BACKBONES.values():
        import_module(path.partition(":")[0])
    native.kernels()
    return tasks.perform


def serve(datasets: Path, load: Callable[[], Perform] = load, forks: bool = True) -> int:
    """Performs requests until stdin ends; returns an exit code. Linux only."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    requests, answers = os.dup(0), os.dup(1)
    _redirect(os.open(os.devnull, os.O_RDWR), 0, 1)  # only answers may reach the reader of stdout
    _prctl(_ADOPT_ORPHANS, 1)
    worker = (_ForkingWorker if forks else _SingleWorker)(datasets, load(), requests, answers)
    worker.answer(ready=True)
    worker.serve()
    return 0


class _Worker:
    """Reads requests, writes answers, and kills the processes that ended children left behind."""

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
        """The lines received since the last call, after waiting for input; None once stdin has ended."""
        text = os.read(self.requests, 65536)
        if not text:
            return None
        *whole, self._rest = (self._rest + text).split(b"\n")
        return [json.loads(line) for line in whole]

    def perform_request(self, request: Request, cancelled: Callable[[], bool]) -> int:
        """Performs `request` in this process; returns its exit code."""
        deadline = inf if request.deadline_seconds is None else time.monotonic() + request.deadline_seconds
        try:
            with append_regular(Path(request.log)) as log:
                _redirect(os.dup(log.fileno()), 1, 2)
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
        """Kills the processes that ended children left behind.

        Their environment does not identify them: a forked child shows its parent's. This process and each child adopt
        the orphans below them. So a child of this process that is not at work descends from one that has ended,
        whatever session it moved to. Descendants of living children are not touched.
        """
        while orphans := _children() - self.children:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
            for pid in orphans:
                os.waitpid(pid, 0)


class _ForkingWorker(_Worker):
    """Performs each request in a separate child, several at a time."""

    def serve(self) -> None:
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.private = (self.requests, self.answers, woken, wake)
        gc.collect()
        gc.freeze()  # garbage collection in a child then leaves pages shared with the worker alone
        with selectors.DefaultSelector() as selector:
            selector.register(self.requests, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if woken in ready:
                    os.read(woken, 4096)
                    self._reap_children()
                if self.requests in ready:
                    if (lines := self.lines()) is None:
                        break
                    for line in lines:
                        self._handle_line(line)
        for pid in self.children:
            self._signal(pid, signal.SIGKILL)
        self.children.clear()
        self.end_orphans()
        gc.unfreeze()

    def _handle_line(self, line: dict[str, Any]) -> None:
        if "signal" in line:
            if line["pid"] in self.children:  # once it is reaped, another process may have its pid
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
                self._run_child(request, parent)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        self.children.add(pid)
        self.answer(pid=pid)

    def _run_child(self, request: Request, parent: int) -> None:
        code = 1
        try:
            os.setsid()
            _prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != parent:
                return
            _prctl(_ADOPT_ORPHANS, 1)
            with suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(_CHILD_OOM_SCORE, encoding="ascii")
            for descriptor in self.private:
                os.close(descriptor)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = self.perform_request(request, _catch_cancellation())
        finally:
            os._exit(code)

    def _signal(self, pid: int, number: int) -> None:
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # the child does not lead a process group yet
            os.kill(pid, number)

    def _reap_children(self) -> None:
        ended: list[tuple[int, int]] = []
        with suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                ended.append(reaped)
        ended = [(pid, status) for pid, status in ended if pid in self.children]
        self.children -= {pid for pid, _ in ended}
        if ended:
            self.end_orphans()
        for pid, status in ended:
            self.answer(pid=pid, exit_code=os.waitstatus_to_exitcode(status))


class _SingleWorker(_Worker):
    """Performs requests one by one in this process, which keeps its GPU open. SIGTERM cancels the current one."""

    def serve(self) -> None:
        cancelled = _catch_cancellation()
        while (lines := self.lines()) is not None:
            for line in lines:
                cancelled = _catch_cancellation()
                self.answer(pid=os.getpid())
                code = self.perform_request(Request(**line), cancelled)
                _forget_gpu_memory()
                self.end_orphans()
                usable = code == 0 and _ended_well(Path(line["directory"]), line["task"])
                self.answer(pid=os.getpid(), exit_code=code, last=not usable)
                if not usable:
                    return  # an error may have left the device unusable for this process


def _catch_cancellation() -> Callable[[], bool]:
    """Catches SIGTERM from now on; returns a function that says whether it arrived."""
    cancel = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: cancel.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return cancel.is_set


def _redirect(opened: int, *descriptors: int) -> None:
    """Redirects each of `descriptors` to `opened`, which is then closed."""
    for descriptor in descriptors:
        os.dup2(opened, descriptor)
    os.close(opened)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _children() -> set[int]:
    """The children of this process, including ended ones that nothing has waited for."""
    parent, children = os.getpid(), set[int]()
    for name in os.listdir("/proc"):  # noqa: PTH208 - a Path for each process costs more than the rest
        if name.isdecimal():
            with suppress(OSError):
                stat = Path(f"/proc/{name}/stat").read_bytes()
                after_name = stat.rpartition(b")")[2]  # the name, in brackets, may contain anything
                if int(after_name.split()[1]) == parent:
                    children.add(int(name))
    return children


def _forget_gpu_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _ended_well(directory: Path, task: ChildTask) -> bool:
    """Whether the task left a result that reports no error."""
    try:
        status = json.loads((directory / RESULT_FILES[task]).read_bytes())["status"]
    except (OSError, ValueError, KeyError):
        return False
    return status not in ("crashed", "out_of_memory", "failed")
