"""The workers of one executor: started when first needed, replaced when they end or have served long enough."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from server.executors.base import Slot
from server.executors.environment import child_environment
from server.executors.process.worker import Worker

SERVED = 200
"""Trainings after which a worker is replaced, so that whatever a long-lived process leaks stays bounded."""
_BROKEN_ALLOWED = 3


class Workers:
    """Warm workers, each started as `command worker --datasets D [--one-at-a-time]`.

    CPU trainings share one worker, which forks. Each slot of a GPU has its own worker, which trains by itself and keeps
    the GPU open, since a process that has used CUDA must not fork. After three broken workers every child starts cold.
    """

    def __init__(
        self,
        command: Sequence[str],
        datasets: Path,
        home: Path,
        served: int = SERVED,
        owner: Mapping[str, str] = os.environ,
    ) -> None:
        self._command = (*command, "worker", "--datasets", str(datasets))
        self._home = home
        self._served = served
        self._owner = owner
        self._broken_allowed = _BROKEN_ALLOWED
        self._closing = False
        self._current: dict[tuple[tuple[int, ...], int], Worker] = {}
        self._all: set[Worker] = set()

    async def worker(self, slot: Slot) -> Worker | None:
        """A worker that takes a request for `slot` now, before the next await; None where the child must start cold."""
        if sys.platform != "linux" or self._closing:
            return None
        worker = self._worker_for(slot)
        if worker is None or not await worker.ready() or not worker.serving:
            return None
        return worker if worker.forks or not worker.busy else None

    async def aclose(self) -> None:
        """Ends all workers; none of their processes is left when it returns."""
        self._closing = True
        await asyncio.gather(*(worker.end() for worker in self._all))

    def _worker_for(self, slot: Slot) -> Worker | None:
        for worker in [worker for worker in self._all if worker.ended]:
            self._all.remove(worker)
            self._broken_allowed -= worker.broken
        current = self._current.get(_key(slot))
        if current is not None and current.serving:
            if current.served < self._served:
                return current
            current.retire()
        return self._start_worker(slot) if self._broken_allowed > 0 else None

    def _start_worker(self, slot: Slot) -> Worker | None:
        forks = not slot.gpu_ids
        command = self._command if forks else (*self._command, "--one-at-a-time")
        environment = child_environment(self._owner, slot, self._home, secrets.token_hex(8))
        # numpy would start threads on import, and a process with threads cannot be forked safely
        environment["OPENBLAS_NUM_THREADS"] = "1"
        try:
            worker = Worker(command, self._home, environment, forks)
        except OSError:
            self._broken_allowed -= 1
            return None
        self._current[_key(slot)] = worker
        self._all.add(worker)
        return worker


def _key(slot: Slot) -> tuple[tuple[int, ...], int]:
    return slot.gpu_ids, slot.lane if slot.gpu_ids else 0
