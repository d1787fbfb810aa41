"""Owns the trials: queue, slots, run directories, cancellation; whoever asked for a trial only waits for it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from memory.errors import MemoryFault
from memory.records import Study, Trial
from memory.store import Memory
from server import run_directory
from server.executors.base import Executor, ExecutorError, Exit, Slot
from server.job import NO_MEMORY_LEFT, Job
from server.memory_need import MemoryNeed
from server.outcome import outcome, without_result
from server.recovery import OWNER_ENDED, recover
from server.settings import Settings
from server.slots import Lease, Place, Slots
from server.uninterrupted import uninterrupted
from trainers.spec import Task, TrialResult

log = logging.getLogger(__name__)


class Supervisor:
    """One per owner; `executor` is entered already, so that no process of an earlier owner is left.

    `on_finished` is called with the id of each trial once its result is stored, before anyone who waits is told.
    `stop_below` is asked, as a training starts, how well it must do by each epoch to go on.
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
        self.on_finished = on_finished
        self._stop_below = stop_below
        self._memory = memory
        self._executor = executor
        self._settings = settings
        self._poll_seconds = poll_seconds
        self._jobs: dict[str, Job] = {}
        self._failures: dict[str, str] = {}
        self._evaluations = 0
        self.slots = slots or Slots([Place(lane=lane) for lane in range(settings.slots)], {})
        self._need = MemoryNeed(memory.trials)
        self._threads_of: dict[str, int] = {}
        self._closing = False

    async def __aenter__(self) -> Self:
        run_directory.sweep(self._settings.trials)
        for trial in recover(self._memory, self._settings.trials, self._finish):
            with suppress(ExecutorError):  # the failure stands in the trial
                await self.submit(trial, self._memory.study(trial.study_id))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @property
    def active(self) -> int:
        """Trials queued or running, and evaluations under way."""
        return len(self._jobs) + self._evaluations

    @property
    def jobs(self) -> list[Job]:
        """Trials queued or running here, in the order they came."""
        return list(self._jobs.values())

    def holds(self, trial_id: str) -> bool:
        """Whether the trial is queued or running here; one that is tried again is `interrupted` until it starts."""
        return trial_id in self._jobs

    def failure(self, trial_id: str) -> str | None:
        """Why the machinery could not bring the trial to an end, where the last attempt of this owner failed so."""
        return self._failures.get(trial_id)

    async def submit(self, trial: Trial, study: Study) -> None:
        """Prepares the run directory and queues the trial; it goes on whatever becomes of the caller.

        A trial that is here already stays as it is; an interrupted one starts a new attempt in its directory. Raises
        ExecutorError where the directory cannot be written; the trial has then ended as `crashed`.
        """
        if trial.trial_id in self._jobs:
            return
        if self._closing:
            raise ExecutorError(f"The owner is ending; run_trial starts trial {trial.trial_id!r} at the next one.")
        settings, threads = self._settings, self._threads(study)
        job = Job(trial, study, settings.trials / trial.trial_id, threads, settings.trial_memory_mb)
        self._failures.pop(trial.trial_id, None)
        try:
            run_directory.prepare(job.directory, job.spec())
        except OSError as error:
            message = f"The run directory of {trial.trial_id} cannot be written: {error.strerror or error}."
            self._finish(without_result(job.traces(), "crashed", message))
            raise ExecutorError(message) from None
        self._jobs[trial.trial_id] = job
        job.turn = asyncio.create_task(self._work(job))

    async def wait(
        self, trial_id: str, seconds: float, on_progress: Callable[[int], Awaitable[None]] | None = None
    ) -> None:
        """Returns when the trial is over here or `seconds` are; `on_progress` hears how many epochs are done."""
        if (job := self._jobs.get(trial_id)) is not None:
            await job.wait(seconds, on_progress)

    async def cancel(self, trial_id: str) -> None:
        """Ends a trial that is not finished; returns when it has, and no process of it is left."""
        job = self._jobs.get(trial_id)
        if job is None:
            if not self._memory.trial(trial_id).finished:
                self._finish(TrialResult(trial_id=trial_id, status="cancelled"))
            return
        job.cancelled = True
        if job.work is not None:
            job.work.cancel()
            await job.over.wait()
        elif not job.over.is_set():
            try:
                self._finish(without_result(job.traces(), "cancelled", ""))
            finally:
                self._leave(job)
                if job.turn is not None:
                    job.turn.cancel()

    @property
    def trials(self) -> Path:
        """Where the run directories are."""
        return self._settings.trials

    async def produce(self, directory: Path, task: Task, trains: Trial | None = None) -> None:
        """Has `task` done in a prepared directory, beside the trials, or in their turn where it trains one anew.

        Cancelling ends it. Raises ExecutorError.
        """
        self._evaluations += 1
        try:
            turn = self.slots.guest()
            if trains is not None:
                wanted = self._wanted_mb(self._memory.study(trains.study_id), trains)
                turn = self.slots.take(directory.name, wanted)
            async with turn as lease:
                slot = lease.slot(self._settings.threads, self._settings.trial_memory_mb)
                (exit,) = await self._executor.run([directory], slot, task=task)
        finally:
            self._evaluations -= 1
        if exit.cause != "result":
            raise ExecutorError(f"The work in {directory.name} ended without a result: {exit.message}")

    async def aclose(self) -> None:
        """Ends running children, whose trials become `interrupted`; queued ones stay queued for the next owner."""
        await uninterrupted(self._close())

    async def _close(self) -> None:
        self._closing = True
        turns = [job.turn for job in self._jobs.values() if job.turn is not None]
        for job in self._jobs.values():
            if job.work is not None:
                job.work.cancel()
            elif job.turn is not None:
                job.turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)
        for job in list(self._jobs.values()):
            self._leave(job)

    async def _work(self, job: Job) -> None:
        """Until a job is over: it waits for a place and trains, and where others left it no memory again, alone."""
        try:
            job.wanted_mb = self._wanted_mb(job.study, job.trial)
            await self._turn(job)
            if job.alone:
                run_directory.prepare(job.directory, job.spec())
                job.begin_again(self.slots.whole_mb)
                await self._turn(job)
        except Exception as error:
            log.exception("trial %s", job.trial.trial_id)
            self._failures[job.trial.trial_id] = " ".join(str(error).split())
        finally:
            self._leave(job)

    def _wanted_mb(self, study: Study, trial: Trial) -> float:
        limit = None if self.slots.on_gpus else self._settings.trial_memory_mb  # it is one of the machine's memory
        return limit or self._need.of(study, trial)

    async def _turn(self, job: Job) -> None:
        async with self.slots.take(job.study.study_id, job.wanted_mb) as lease:
            if not job.over.is_set() and not self._closing:
                job.lease = lease
                await self._train(job, lease)

    def _threads(self, study: Study) -> int:
        """Those of the study's first training, so that all of them are numbers of one kind; else the setting."""
        if study.study_id not in self._threads_of:
            known = (trial.threads for trial in self._memory.trials(study.study_id) if trial.threads)
            self._threads_of[study.study_id] = next(known, self._settings.threads)
        return self._threads_of[study.study_id]

    async def _train(self, job: Job, lease: Lease) -> None:
        held, sharers = 0.0, 1
        if job.study.gpu_seconds is not None:
            held = self._memory.slot_seconds(job.study.study_id)
            sharers = sum(one.study.study_id == job.study.study_id and one.lease is not None for one in self.jobs)
        deadline = job.deadline_seconds(held, sharers)
        if deadline is not None and deadline <= 0:
            message = "The budget of the study was used up before the training could start."
            return self._finish(without_result(job.traces(), "timed_out", message))
        self._plan(job)
        job.work = asyncio.create_task(self._run(job, lease.slot(job.threads, job.memory_mb, deadline)))
        try:
            while not job.work.done():
                await asyncio.wait({job.work}, timeout=self._poll_seconds)
                job.read(self._memory)
        finally:
            if not job.work.done():  # the books cannot be kept, so the training is for nothing
                job.work.cancel()
                await asyncio.wait({job.work})
        self._end(job, job.work)
        return None

    async def _run(self, job: Job, slot: Slot) -> list[Exit]:
        run_directory.check_room(self._settings.trials, self._settings.least_free_gb)
        return await self._executor.run([job.directory], slot)

    def _plan(self, job: Job) -> None:
        """Tells the child what is known only now that it starts: what earlier trials came to, and their weights.

        Where a finished trial has trained the same, its weights are only evaluated. The child checks that anew.
        """
        try:
            job.stop_below = self._stop_below(job.study, job.trial)
            run_directory.write_spec(job.directory, job.spec(self._source(job.trial)))
        except (MemoryFault, OSError) as fault:  # it trains, and to its end
            log.warning("trial %s: %s", job.trial.trial_id, fault)

    def _source(self, trial: Trial) -> str | None:
        """A trial whose weights are those that `trial` would train to."""
        sources = self._memory.trained(trial.fingerprint) if trial.fingerprint is not None else []
        return next((one for one in sources if run_directory.has_checkpoint(self._settings.trials / one)), None)

    def _end(self, job: Job, work: asyncio.Task[list[Exit]]) -> None:
        exit, cause = None, OWNER_ENDED
        if not work.cancelled():
            error = work.exception()
            if isinstance(error, ExecutorError):
                cause = self._failures[job.trial.trial_id] = str(error)
            elif error is not None:
                raise error
            else:
                (exit,) = work.result()
        result = outcome(job.traces(), exit, job.cancelled)
        if result is not None and result.status == "out_of_memory" and job.may_blame_others(self.slots):
            result, cause, job.alone = None, NO_MEMORY_LEFT, True
        if result is not None:
            self._need.saw(job.study, self._memory.finish_trial(result))
        elif job.attempt is None:  # no child came to be: the process that tried was this one
            own = psutil.Process()
            job.attempt = self._memory.start_attempt(job.trial.trial_id, os.getpid(), own.create_time())
        if job.attempt is not None:
            self._memory.end_attempt(job.attempt.attempt_id, result.status if result else cause)
        if result is not None:
            self._tell(result.trial_id)

    def _finish(self, result: TrialResult) -> None:
        """Closes the books of a trial that has no attempt under way."""
        self._memory.finish_trial(result)
        self._tell(result.trial_id)

    def _tell(self, trial_id: str) -> None:
        run_directory.forget_state(self._settings.trials / trial_id)
        if self.on_finished is not None:
            try:
                self.on_finished(trial_id)
            except MemoryFault as fault:  # the result is stored; only what was to be noted of it is not
                log.warning("after trial %s: %s", trial_id, fault)

    def _leave(self, job: Job) -> None:
        self._jobs.pop(job.trial.trial_id, None)
        job.over.set()
        job.pulse()
