"""A trial while it is queued or running: what is known of it beyond memory, and who waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from memory.errors import MemoryFault
from memory.records import Attempt, Study, Trial
from memory.store import Memory
from server.admission import seconds_left
from server.executors.base import Exit
from server.outcome import Traces
from server.run_directory import has_checkpoint, read_epochs, read_process, read_result
from server.slots import Lease, Slots
from trainers.spec import Epoch, TrialSpec

log = logging.getLogger(__name__)

NO_MEMORY_LEFT = "out_of_memory beside other trainings; it trains again alone"
PROGRESS_SECONDS = 5.0
"""The longest silence towards somebody who waits."""


@dataclass
class Job:
    """`changed` is set, and replaced, at every new epoch and at the end; `over` is set at the end."""

    trial: Trial
    study: Study
    directory: Path
    threads: int
    memory_mb: int | None = None
    """Its limit of the machine's memory, where there is one."""
    wanted_mb: float = 0.0
    """What is set aside for it."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Task[None] | None = None
    """Waits for a place and trains."""
    lease: Lease | None = None
    """The place that it has."""
    work: asyncio.Task[list[Exit]] | None = None
    attempt: Attempt | None = None
    epochs: tuple[Epoch, ...] = ()
    offset: int = 0
    """In epochs.jsonl, of what has not been read."""
    cancelled: bool = False
    stop_below: tuple[float, ...] = ()
    """What the training must have validated at by each epoch, so as not to be stopped."""
    alone: bool = False
    """Memory ran out while others trained beside it, which says nothing of its configuration: it trains again alone."""

    def begin_again(self, wanted_mb: float) -> None:
        """Makes it one that waits for a place, with so much memory."""
        self.wanted_mb, self.lease, self.work = wanted_mb, None, None
        self.attempt, self.epochs, self.offset = None, (), 0

    def pulse(self) -> None:
        """Wakes everyone who waits for a change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def may_blame_others(self, slots: Slots) -> bool:
        """Whether memory may have run out for others' sake; a limit of its own is nobody else's."""
        limited = self.memory_mb is not None and not slots.on_gpus
        own = limited or self.alone or self.cancelled
        return not own and self.lease is not None and slots.crowded(self.lease)

    def read(self, memory: Memory) -> None:
        """Takes what is new in the run directory into the books."""
        process = read_process(self.directory)
        epochs, offset = read_epochs(self.directory, self.offset)
        try:
            if self.attempt is None and process is not None:
                self.attempt = memory.start_attempt(self.trial.trial_id, process.pid, process.create_time)
            if epochs:
                memory.add_epochs(self.trial.trial_id, epochs)
        except MemoryFault as fault:  # the training need not suffer: the next reading begins at the same place
            log.warning("trial %s: %s", self.trial.trial_id, fault)
            return
        self.offset = offset
        if epochs:
            self.epochs += epochs
            self.pulse()

    async def wait(self, seconds: float, on_progress: Callable[[int], Awaitable[None]] | None) -> None:
        """Returns when it is over or `seconds` are; `on_progress` hears how many epochs are done."""
        loop = asyncio.get_running_loop()
        end, told = loop.time() + seconds, 0
        while not self.over.is_set() and (left := end - loop.time()) > 0:
            if on_progress is not None and len(self.epochs) > told:
                told = len(self.epochs)
                await on_progress(told)
            elif not await self.change(min(left, PROGRESS_SECONDS)) and on_progress is not None:
                await on_progress(told)

    async def change(self, seconds: float) -> bool:
        """Whether something changed within `seconds`."""
        changed = self.changed
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()
        return changed.is_set()

    def deadline_seconds(self, used: float = 0.0, sharers: int = 1) -> float | None:
        """What the study leaves for this training if it starts now; zero or less is nothing, None is no limit.

        `used`: seconds that the study's trainings have held slots; `sharers` of them share what is left.
        """
        whole = self.study.gpu_seconds
        share = None if whole is None else (whole - used) / max(1, sharers)
        left = (seconds_left(self.study, datetime.now(UTC)), self.study.trial_seconds, share)
        return min((seconds for seconds in left if seconds is not None), default=None)

    def spec(self, weights_of: str | None = None) -> TrialSpec:
        """spec.json of the training, or of an evaluation of the weights that another trial trained."""
        return TrialSpec(
            trial_id=self.trial.trial_id,
            backbone=self.study.backbone,
            config=self.trial.config,
            seed=self.trial.seed,
            dataset_hash=self.study.dataset_hash,
            threads=self.threads,
            memory_mb=self.memory_mb,
            metric=self.study.metric,
            filter_seen=self.study.filter_seen,
            weights_of=weights_of,
            stop_below=self.stop_below,
        )

    def traces(self) -> Traces:
        """What the training has left so far."""
        return Traces(
            trial_id=self.trial.trial_id,
            metric=self.study.metric,
            threads=self.threads,
            written=read_result(self.directory, self.trial.trial_id),
            epochs=self.epochs,
            checkpoint=has_checkpoint(self.directory),
        )
