"""Finds, measures and ends the processes of a child, wherever they moved to."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

_ROUNDS = 100
"""A process may start another while it is being ended, so looking is repeated until none is found."""
_ROUND_SECONDS = 0.05
"""Short: what is dead but was not reaped yet is no longer found, but would be waited for."""

_LOOKS = 10
_LOOK_SECONDS = 0.001


def marked(name: str, value: str) -> list[psutil.Process]:
    """The processes whose environment holds `name`=`value`, this one and its ancestors left out."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: list[psutil.Process] = []
    for pid in psutil.pids():
        if pid in own:
            continue
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if _environment(process).get(name) == value:
                found.append(process)
    return found


def _environment(process: psutil.Process) -> dict[str, str]:
    """Its environment: empty for a moment while it becomes another program, and always in a kernel thread."""
    for _ in range(_LOOKS):
        found = process.environ()
        if found or not process.memory_info().vms:
            return found
        time.sleep(_LOOK_SECONDS)
    return {}


def end_marked(name: str, value: str) -> None:
    """Kills those processes and waits until they are gone. Blocks: call it on a thread."""
    for _ in range(_ROUNDS):
        found = marked(name, value)
        if not found:
            return
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=_ROUND_SECONDS)


class Meter:
    """Resident memory of a process and its descendants, in MB; pages they share count once for each."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.last_mb = 0.0
        self.peak_mb = 0.0

    def sample(self) -> float:
        """Measures now. A process that is gone keeps what was last seen."""
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
    """The largest resident size so far, where the kernel tells: it sees what happens between two samples."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0
