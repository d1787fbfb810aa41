"""Owns the queued and running trials: queue, slots, cancellation. Callers only wait for their trials."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from memory.off_loop import off_loop, uninterrupted
from memory.records import Study, Trial
from memory.store import Memory
from server.executors.base import Executor, ExecutorError, Exit, Slot
from server.scheduler import run_directory
from server.scheduler.active_trial import NO_MEMORY_LEFT, ActiveTrial
from server.scheduler.outcome import outcome, without_result
from server.scheduler.recorder import Recorder
from server.scheduler.recovery import OWNER_ENDED
from server.scheduler.slots import Lease, Place, Slots
from server.settings import Settings
from trainers.contract.wire import ChildTask
from trainers.data import DataError, check_content, find_by_hash

log = logging.getLogger(__name__)


class Supervisor:
    """One per owner. `executor` must be entered already, so that no process of an earlier owner is left.

    `on_finished` and `stop_below`: see Recorder.
    """

    def __init__(
        self,
        memory: Memory,
        executor: Executor,
        settings: Settings,
        on_finished: Callable[[str], None] | None = None,
        stop_below: Callable[[Study, Trial], tuple[float, ...]] = lambda study, trial: (),
        poll_seconds: float = 0.25,
        slots: Slots | None = None,
    ) -> None:
        self.recorder = Recorder(memory, settings.trials_dir, stop_below, on_finished)
        self._memory = memory
        self._executor = executor
        self._settings = settings
        self._poll_seconds = poll_seconds
        self._active: dict[str, ActiveTrial] = {}
        self._failures: dict[str, str] = {}
        self._tasks_beside = 0
        self.slots = slots or Slots([Place(lane=lane) for lane in range(settings.slots)], {})
        self._closing = False
        self._entering = asyncio.Lock()
        """Held while a trial is queued, and while `cancel` looks whether a trial is queued."""
        self._ending: set[asyncio.Task[None]] = set()
        """Tasks that store the cancellation of queued trials."""

    async def __aenter__(self) -> Self:
        for trial, study in await off_loop(self.recorder.recover):
            with suppress(ExecutorError):  # the trial itself records the failure
                await self.enqueue(trial, study)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @property
    def active_trials(self) -> list[ActiveTrial]:
        """Trials queued or running here, in the order of arrival."""
        return list(self._active.values())

    @property
    def busy(self) -> bool:
        """Whether a trial is queued or running, or an evaluation or an export is under way."""
        return bool(self._active or self._tasks_beside)

    @property
    def trials_dir(self) -> Path:
        """The folder of the run directories."""
        return self._settings.trials_dir

    def holds(self, trial_id: str) -> bool:
        """Whether the trial is queued or running here. A trial that is tried again is `interrupted` until it starts."""
        return trial_id in self._active

    def failure(self, trial_id: str) -> str | None:
        """Why this owner's last attempt could not bring the trial to an end; None if it did not fail this way."""
        return self._failures.get(trial_id)

    async def enqueue(self, trial: Trial, study: Study) -> None:
        """Prepares the run directory and queues the trial, which continues whatever becomes of the caller.

        A trial that is already queued or running stays as it is. An interrupted trial starts a new attempt in its
        directory. Raises ExecutorError if the directory cannot be written or the dataset was changed; the trial has
        then ended as `crashed`.
        """
        async with self._entering:
            if trial.trial_id in self._active or (await off_loop(self._memory.trial, trial.trial_id)).finished:
                return
            if self._closing:
                raise ExecutorError(f"The owner is ending; run_trial starts trial {trial.trial_id!r} at the next one.")
            threads = await off_loop(self.recorder.threads, study, self._settings.threads)
            wanted_mb = await self._wanted_mb(study, trial)
            directory = self.trials_dir / trial.trial_id
            active = ActiveTrial(trial, study, directory, threads, self._settings.trial_memory_mb, wanted_mb)
            self._failures.pop(trial.trial_id, None)
            try:
                active.training_hash = await off_loop(self.check_dataset, study)
                run_directory.prepare(directory, active.spec())
            except (OSError, DataError) as error:
                message = str(error)
                if isinstance(error, OSError):
                    message = f"The run directory of {trial.trial_id} cannot be written: {error.strerror or error}."
                await off_loop(self.recorder.store_result, without_result(active.traces(), "crashed", message))
                raise ExecutorError(message) from None
            self._active[trial.trial_id] = active
            active.driver = asyncio.create_task(self._drive_trial(active))

    async def wait(
        self, trial_id: str, seconds: float, on_progress: Callable[[int], Awaitable[None]] | None = None
    ) -> None:
        """Returns when the trial is over or `seconds` have passed; `on_progress` gets the number of finished epochs."""
        if (active := self._active.get(trial_id)) is not None:
            await active.wait(seconds, on_progress)

    async def cancel(self, trial_id: str) -> None:
        """Ends an unfinished trial; returns when it has ended and none of its processes is left."""
        async with self._entering:
            active = self._active.get(trial_id)
            if active is None:
                await off_loop(self.recorder.cancel_unfinished, trial_id)
                return
        if not active.cancelled:
            active.cancelled = True
            if active.work is not None:
                active.work.cancel()
            elif active.driver is not None:
                active.cancelled_in_queue = True
                active.driver.cancel()
                ending = asyncio.create_task(self._cancel_in_queue(active, active.driver))
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)
        await active.over.wait()
        await off_loop(self.recorder.cancel_unfinished, trial_id)  # its training may have ended without a result

    async def _cancel_in_queue(self, active: ActiveTrial, driver: asyncio.Task[None]) -> None:
        """Stores the cancellation of a trial that waits for a slot, once its driver has ended."""
        await asyncio.wait({driver})
        try:
            await off_loop(self.recorder.cancel_unfinished, active.trial.trial_id, active.traces())
        finally:
            self._release(active)

    def check_dataset(self, study: Study) -> str | None:
        """The hash of the training arrays of the study's dataset. Raises DataError if the dataset was changed.

        None where the dataset is gone, which the child says. Reads files: call it off the event loop.
        """
        try:
            dataset = find_by_hash(self._settings.datasets_dir, study.dataset_hash)
        except DataError:
            return None
        return check_content(dataset)

    async def run_task(self, directory: Path, task: ChildTask, trains: Trial | None = None) -> None:
        """Has a child do `task` in a prepared directory, beside the trials. It waits for a slot if it `trains` again.

        Cancelling the call ends the child. Raises ExecutorError.
        """
        self._tasks_beside += 1
        try:
            lease_context = self.slots.guest()
            if trains is not None:
                study = await off_loop(self._memory.study, trains.study_id)
                lease_context = self.slots.take(directory.name, await self._wanted_mb(study, trains))
            async with lease_context as lease:
                slot = lease.slot(self._settings.threads, self._settings.trial_memory_mb)
                (exit,) = await self._executor.run([directory], slot, task=task)
        finally:
            self._tasks_beside -= 1
        if exit.cause != "result":
            raise ExecutorError(f"The work in {directory.name} ended without a result: {exit.message}")

    async def aclose(self) -> None:
        """Ends running children, whose trials become `interrupted`; queued trials stay queued for the next owner."""
        await uninterrupted(self._close())

    async def _close(self) -> None:
        self._closing = True
        drivers = [active.driver for active in self._active.values() if active.driver is not None]
        for active in self._active.values():
            if active.work is not None:
                active.work.cancel()
            elif active.driver is not None:
                active.driver.cancel()
        await asyncio.gather(*drivers, *self._ending, return_exceptions=True)
        for active in list(self._active.values()):
            self._release(active)

    async def _drive_trial(self, active: ActiveTrial) -> None:
        """Takes the trial from the queue to its end. If others left it no memory, it trains a second time, alone."""
        try:
            await self._await_slot(active)
            if active.alone and not active.cancelled:
                run_directory.prepare(active.directory, active.spec())
                active.begin_again(self.slots.whole_mb)
                await self._await_slot(active)
        except Exception as error:
            log.exception("trial %s", active.trial.trial_id)
            self._failures[active.trial.trial_id] = " ".join(str(error).split())
        finally:
            if not active.cancelled_in_queue:  # otherwise `_cancel_in_queue` stores the end first
                self._release(active)

    async def _wanted_mb(self, study: Study, trial: Trial) -> float:
        """Memory to reserve in MB: the limit if the training uses main memory and has one, else the estimate."""
        limit = None if self.slots.on_gpus else self._settings.trial_memory_mb
        return limit or await off_loop(self.recorder.estimate.of, study, trial)

    async def _await_slot(self, active: ActiveTrial) -> None:
        async with self.slots.take(active.study.study_id, active.wanted_mb) as lease:
            if not active.over.is_set() and not self._closing:
                active.lease = lease
                await self._train(active, lease)

    async def _train(self, active: ActiveTrial, lease: Lease) -> None:
        held, sharers = 0.0, 1
        if active.study.gpu_seconds is not None:
            study_id = active.study.study_id
            held = await off_loop(self._memory.slot_seconds, study_id)
            sharers = sum(other.study.study_id == study_id and other.lease is not None for other in self.active_trials)
        kept = await off_loop(self.recorder.kept_seconds, active.study)
        deadline = active.deadline_seconds(held, sharers, kept)
        if deadline is not None and deadline <= 0:
            message = "The budget of the study was used up before the training could start."
            await off_loop(self.recorder.store_result, without_result(active.traces(), "timed_out", message))
            return
        await off_loop(self.recorder.write_hints, active)
        active.work = asyncio.create_task(self._run(active, lease.slot(active.threads, active.memory_mb, deadline)))
        try:
            ended = False
            while not ended:  # what the child wrote last is read once more after its end
                ended = bool((await asyncio.wait({active.work}, timeout=self._poll_seconds))[0])
                if await off_loop(active.read_progress, self._memory):
                    active.notify_waiters()
        finally:
            if not active.work.done():  # progress cannot be stored, so the training is of no use
                active.work.cancel()
                await asyncio.wait({active.work})
        await self._close_attempt(active, active.work)

    async def _run(self, active: ActiveTrial, slot: Slot) -> list[Exit]:
        run_directory.check_room(self.trials_dir, self._settings.least_free_gb)
        return await self._executor.run([active.directory], slot)

    async def _close_attempt(self, active: ActiveTrial, work: asyncio.Task[list[Exit]]) -> None:
        """Stores how the attempt ended, and the trial's result if there is one."""
        exit, cause = None, OWNER_ENDED
        if not work.cancelled():
            error = work.exception()
            if isinstance(error, ExecutorError):
                cause = self._failures[active.trial.trial_id] = str(error)
            elif error is not None:
                raise error
            else:
                (exit,) = work.result()
        result = outcome(active.traces(), exit, active.cancelled)
        if result is not None and result.status == "out_of_memory" and active.may_blame_others(self.slots):
            result, cause, active.alone = None, NO_MEMORY_LEFT, True
        await off_loop(self.recorder.store_attempt, active, result, cause)

    def _release(self, active: ActiveTrial) -> None:
        """Removes the trial from the active ones and wakes every caller that waits for it."""
        self._active.pop(active.trial.trial_id, None)
        active.over.set()
        active.notify_waiters()
