"""Finds, measures and ends the processes of a child, wherever they moved to."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

_ROUNDS = 100
"""Largest number of searches: a process may start another while it is being ended, so the search is repeated."""
_ROUND_SECONDS = 0.05
"""Seconds to wait between searches; short, because a process that is dead but not reaped would be waited for."""

_LOOKS = 10
_LOOK_SECONDS = 0.001


def marked(name: str, value: str) -> list[psutil.Process]:
    """The processes whose environment holds `name`=`value`, except this one and its ancestors."""
    excluded = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    processes: list[psutil.Process] = []
    for pid in psutil.pids():
        if pid in excluded:
            continue
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if _environment(process).get(name) == value:
                processes.append(process)
    return processes


def _environment(process: psutil.Process) -> dict[str, str]:
    """The environment of a process. It is empty for a moment during exec, and always in a kernel thread."""
    for _ in range(_LOOKS):
        environment = process.environ()
        if environment or not process.memory_info().vms:
            return environment
        time.sleep(_LOOK_SECONDS)
    return {}


def end_marked(name: str, value: str) -> None:
    """Kills the processes that carry `name`=`value` and waits until they are gone. Blocks: call it on a thread."""
    for _ in range(_ROUNDS):
        processes = marked(name, value)
        if not processes:
            return
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=_ROUND_SECONDS)


class Meter:
    """Resident memory of a process and its descendants in MB; shared pages count once for each process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.last_mb = 0.0
        self.peak_mb = 0.0

    def sample(self) -> float:
        """Measures now and returns MB. For a process that is gone, the last measurement stays."""
        with suppress(psutil.Error, OSError):
            leader = psutil.Process(self._pid)
            total = leader.memory_info().rss
            for process in leader.children(recursive=True):
                with suppress(psutil.Error):
                    total += process.memory_info().rss
            if total:
                self.last_mb = total / 2**20
            self.peak_mb = max(self.peak_mb, self.last_mb, _high_water_mb(self._pid))
        return self.last_mb


def _high_water_mb(pid: int) -> float:
    """The largest resident size so far in MB, where the kernel reports it; it also covers the time between samples."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0
