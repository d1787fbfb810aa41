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
from server.executors.worker import Worker

SERVED = 200
"""Trainings; what a long-lived process may leak stays bounded."""
_LIVES = 3


class Workers:
    """`command` gets `worker --datasets D [--one-at-a-time]`.

    CPU trainings share one worker that forks. Each slot of a GPU has one that works by itself and keeps it open, since
    a process that has used CUDA must not fork. After three broken ones there are no more, and all is done cold.
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
        self._lives = _LIVES
        self._closing = False
        self._current: dict[tuple[tuple[int, ...], int], Worker] = {}
        self._all: set[Worker] = set()

    async def worker(self, slot: Slot) -> Worker | None:
        """One that takes a request for `slot` now; None where that has to be done cold. Begin before the next await."""
        if sys.platform != "linux" or self._closing:
            return None
        worker = self._fitting(slot)
        if worker is None or not await worker.ready() or not worker.serving:
            return None
        return worker if worker.forks or not worker.busy else None

    async def aclose(self) -> None:
        """Ends them all; nothing of them is left when it returns."""
        self._closing = True
        await asyncio.gather(*(worker.end() for worker in self._all))

    def _fitting(self, slot: Slot) -> Worker | None:
        for worker in [worker for worker in self._all if worker.ended]:
            self._all.remove(worker)
            self._lives -= worker.broken
        current = self._current.get(_key(slot))
        if current is not None and current.serving:
            if current.served < self._served:
                return current
            current.retire()
        return self._new(slot) if self._lives > 0 else None

    def _new(self, slot: Slot) -> Worker | None:
        forks = not slot.gpu_ids
        command = self._command if forks else (*self._command, "--one-at-a-time")
        environment = child_environment(self._owner, slot, self._home, secrets.token_hex(8))
        # numpy would start threads as it is imported, and a process with threads cannot be forked safely
        environment["OPENBLAS_NUM_THREADS"] = "1"
        try:
            worker = Worker(command, self._home, environment, forks)
        except OSError:
            self._lives -= 1
            return None
        self._current[_key(slot)] = worker
        self._all.add(worker)
        return worker


def _key(slot: Slot) -> tuple[tuple[int, ...], int]:
    return slot.gpu_ids, slot.lane if slot.gpu_ids else 0
