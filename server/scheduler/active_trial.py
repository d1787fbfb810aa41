"""A trial while it is queued or running: its state beyond what memory stores, and the events that callers wait for."""

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
from server.executors.base import Exit
from server.scheduler.outcome import Traces
from server.scheduler.run_directory import has_checkpoint, increasing, read_epochs, read_process, read_result
from server.scheduler.slots import Lease, Slots
from server.study.admission import seconds_left
from trainers.contract.wire import Epoch, TrialSpec

log = logging.getLogger(__name__)

NO_MEMORY_LEFT = "out_of_memory beside other trainings; it trains again alone"
PROGRESS_SECONDS = 5.0
"""Longest time between two progress reports to a caller that waits."""


@dataclass
class ActiveTrial:
    """`changed` is set and replaced at every new epoch and at the end; `over` is set at the end."""

    trial: Trial
    study: Study
    directory: Path
    threads: int
    memory_mb: int | None = None
    """Limit on the main memory of this training in MB; None is no limit."""
    wanted_mb: float = 0.0
    """Memory in MB that is reserved for this training."""
    training_hash: str | None = None
    """The hash of the dataset's training arrays; None where there is no such dataset, which the child reports."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    driver: asyncio.Task[None] | None = None
    """The task that waits for a slot and then trains."""
    lease: Lease | None = None
    """The slot that the training holds."""
    work: asyncio.Task[list[Exit]] | None = None
    """The executor's call, once the training has begun."""
    attempt: Attempt | None = None
    epochs: tuple[Epoch, ...] = ()
    offset: int = 0
    """Where the unread part of epochs.jsonl begins, in bytes."""
    cancelled: bool = False
    """Whether somebody cancelled the trial."""
    cancelled_in_queue: bool = False
    """Whether it was cancelled while it waited for a slot."""
    stop_below: tuple[float, ...] = ()
    """The lowest validation score allowed by each epoch; a training below it is stopped."""
    alone: bool = False
    """Whether the trial trains again alone, since memory ran out beside others and its configuration may be fine."""

    def begin_again(self, wanted_mb: float) -> None:
        """Resets the trial to waiting for a slot, with this much memory reserved."""
        self.wanted_mb, self.lease, self.work = wanted_mb, None, None
        self.attempt, self.epochs, self.offset = None, (), 0

    def notify_waiters(self) -> None:
        """Wakes every caller that waits for a change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def may_blame_others(self, slots: Slots) -> bool:
        """Whether other trainings may have used up the memory; never if the training has a limit of its own."""
        limited = self.memory_mb is not None and not slots.on_gpus
        independent = limited or self.alone or self.cancelled
        return not independent and self.lease is not None and slots.crowded(self.lease)

    def read_progress(self, memory: Memory) -> bool:
        """Stores new progress from the run directory; returns whether an epoch is new. Blocks: call it off the loop."""
        process = read_process(self.directory)
        tail, offset = read_epochs(self.directory, self.offset)
        epochs = increasing(tail, self.epochs[-1].epoch if self.epochs else 0)
        try:
            if self.attempt is None and process is not None:
                self.attempt = memory.start_attempt(self.trial.trial_id, process.pid, process.create_time)
            if epochs:
                memory.add_epochs(self.trial.trial_id, epochs)
        except MemoryFault as fault:  # the training continues: the next read starts at the same offset
            log.warning("trial %s: %s", self.trial.trial_id, fault)
            return False
        self.offset = offset
        self.epochs += epochs
        return bool(epochs)

    async def wait(self, seconds: float, on_progress: Callable[[int], Awaitable[None]] | None) -> None:
        """Returns when the trial is over or `seconds` have passed; `on_progress` gets the number of finished epochs."""
        loop = asyncio.get_running_loop()
        end, reported = loop.time() + seconds, 0
        while not self.over.is_set() and (left := end - loop.time()) > 0:
            if on_progress is not None and len(self.epochs) > reported:
                reported = len(self.epochs)
                await on_progress(reported)
            elif not await self.wait_for_change(min(left, PROGRESS_SECONDS)) and on_progress is not None:
                await on_progress(reported)

    async def wait_for_change(self, seconds: float) -> bool:
        """Waits for a change, at most `seconds`; returns whether there was one."""
        changed = self.changed
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()
        return changed.is_set()

    def deadline_seconds(self, used: float = 0.0, sharers: int = 1, kept: float = 0.0) -> float | None:
        """Seconds that the study allows this training if it starts now; zero or less allows none, None is no limit.

        `used`: seconds for which the study's trainings have held slots. `sharers`: how many of them share the rest.
        `kept`: seconds that the study keeps for its fresh seeds.
        """
        budget = self.study.gpu_seconds
        share = None if budget is None else (budget - kept - used) / max(1, sharers)
        limits = (seconds_left(self.study, datetime.now(UTC), kept), self.study.trial_seconds, share)
        return min((seconds for seconds in limits if seconds is not None), default=None)

    def spec(self, weights_of: str | None = None) -> TrialSpec:
        """The content of spec.json, for a training or for an evaluation of the weights of another trial."""
        return TrialSpec(
            trial_id=self.trial.trial_id,
            backbone=self.study.backbone,
            config=self.trial.config,
            seed=self.trial.seed,
            dataset_hash=self.study.dataset_hash,
            training_hash=self.training_hash,
            threads=self.threads,
            memory_mb=self.memory_mb,
            metric=self.study.metric,
            filter_seen=self.study.filter_seen,
            weights_of=weights_of,
            stop_below=self.stop_below,
        )

    def traces(self) -> Traces:
        """What the training has written so far."""
        return Traces(
            trial_id=self.trial.trial_id,
            metric=self.study.metric,
            threads=self.threads,
            written=read_result(self.directory, self.trial.trial_id),
            epochs=self.epochs,
            checkpoint=has_checkpoint(self.directory),
        )
