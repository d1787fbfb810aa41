"""What the kernel reports about memory here: how often it killed for lack of memory, and this process's limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")
_CGROUP_OF_PROCESS = Path("/proc/self/cgroup")


def oom_kills() -> int:
    """How often the kernel's out-of-memory killer has struck in this cgroup; 0 where the kernel does not count."""
    for folder in _folders():
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError, ValueError):
                counts = dict(line.split() for line in (folder / name).read_text(encoding="ascii").splitlines())
                return int(counts.get("oom_kill", 0))
    return 0


def ceiling_mb() -> float:
    """The most memory in MB that processes here can have: the machine's, or less where a cgroup limits it."""
    ceiling = psutil.virtual_memory().total
    for folder in _folders():
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max" is not a number: no limit at this level
                ceiling = min(ceiling, int((folder / name).read_text(encoding="ascii")))
    return ceiling / 2**20


def _folders() -> Iterator[Path]:
    """The memory cgroup of this process and those above it, innermost first; version 2, or the tree of version 1."""
    with suppress(OSError):
        for line in _CGROUP_OF_PROCESS.read_text(encoding="utf-8").splitlines():
            _number, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                base = _ROOT / controllers
                inner = base / path.lstrip("/")
                yield from (inner, *(parent for parent in inner.parents if parent.is_relative_to(base)))
