"""Policies that play studies inside the owner, without a client. They go on when clients leave and owners end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Self

from mcp import Client

from memory.errors import MemoryFault
from memory.off_loop import off_loop
from memory.records import PolicyRun, RunOutcome, Study
from memory.store import Memory, new_id
from server.answers import StudyAnswer, TrialAnswer
from server.drive.loop import finish
from server.drive.plan import Plan
from server.drive.search import play_policy
from server.drive.state import Drive
from server.drive.stored_plan import plan_of
from server.drive.study_client import StudyClient
from server.errors import cause_of
from server.policies import load
from server.policies.base import MissingExtra, Policy, Proposal
from server.study import policy_limit
from server.study.admission import ProtocolError
from server.study.requests import StudyRequest

Connect = Callable[[], AbstractAsyncContextManager[Client]]

log = logging.getLogger(__name__)


class Autopilot:
    """One per owner. `connect` opens a client of the owner's own server: a policy has the same rules as any client.

    Each policy keeps up to `slots` trainings under way.
    """

    def __init__(self, memory: Memory, connect: Connect, slots: int = 1) -> None:
        self._memory = memory
        self._slots = slots
        self._connect = connect
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._finishing: set[str] = set()
        """The studies whose policies are finishing them."""
        self._closing = False

    async def __aenter__(self) -> Self:
        for run in await off_loop(self._memory.runs.unended):
            self._start_task(run)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @property
    def studies(self) -> list[str]:
        """Ids of the studies that are being played."""
        return list(self._tasks)

    async def start(
        self, study: Study, policy: str, max_trials: int, budget_seconds: float | None, finishes: bool
    ) -> PolicyRun:
        """Let `policy` play the study for `max_trials` more configurations; returns at once.

        Raises ProtocolError where the study cannot go on or the policy cannot be loaded, and MemoryFault where a
        policy plays the study already.
        """
        if study.finished:
            raise ProtocolError(f"Study {study.study_id!r} is finished; start_study opens a new one.")
        if study.closing:
            raise ProtocolError(f"Study {study.study_id!r} is being finished; start_study opens a new one.")
        if self._closing:
            raise ProtocolError("The owner is ending; the same call starts the policy at the next one.")
        await off_loop(load_policy, policy)
        numbers = {trial.number for trial in await off_loop(self._memory.trials, study.study_id)}
        run = PolicyRun(
            run_id=new_id("p"),
            study_id=study.study_id,
            started_at=datetime.now(UTC),
            policy=policy,
            until_trials=len(numbers) + max_trials,
            budget_seconds=budget_seconds,
            finishes=finishes,
        )
        await off_loop(self._memory.runs.add, run)
        self._start_task(run)
        return run

    async def cancel(self, study_id: str) -> None:
        """Ends the policy of a study, if one plays; its running trial goes on."""
        run = await off_loop(self._memory.runs.last, study_id)
        task = self._tasks.get(study_id)
        if run is None or run.outcome is not None:
            return
        await off_loop(self._memory.runs.end, run.run_id, "cancelled")
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def end_before_finish(self, study_id: str) -> None:
        """Ends the policy of a study that is about to be finished, unless the policy itself is finishing it."""
        if study_id not in self._finishing:
            await self.cancel(study_id)

    async def wait_for_end(self, study_id: str, seconds: float) -> bool:
        """Waits up to `seconds` for the policy of a study to end; returns whether it has."""
        task = self._tasks.get(study_id)
        return task is None or bool((await asyncio.wait({task}, timeout=seconds))[0])

    async def aclose(self) -> None:
        """Ends every policy here; their runs go on with the next owner."""
        self._closing = True
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()))

    def _start_task(self, run: PolicyRun) -> None:
        task = asyncio.create_task(self._play_to_end(run))
        self._tasks[run.study_id] = task
        task.add_done_callback(partial(self._forget_task, run.study_id))

    def _forget_task(self, study_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(study_id) is task:  # else a newer run plays already
            del self._tasks[study_id]

    async def _play_to_end(self, run: PolicyRun) -> None:
        """Plays a run to its end and records the outcome; that of a cancelled run has been recorded already."""
        outcome: RunOutcome = "done"
        try:
            message = await self._play(run)
        except Exception as error:  # nobody awaits this task: the study shows what went wrong
            cause = cause_of(error)
            outcome, message = "failed", " ".join(str(cause).split()) or type(cause).__name__
            log.warning("policy %s of study %s: %s", run.policy, run.study_id, message)
        with suppress(MemoryFault):  # then the run goes on with the next owner
            await off_loop(self._memory.runs.end, run.run_id, outcome, message)

    def _trained_by_others(self, run: PolicyRun) -> int:
        return policy_limit.trained_by_others(run, self._memory.trials(run.study_id))

    async def _play(self, run: PolicyRun) -> str:
        """Plays a run to its end; returns the remarks of the search."""
        study = await off_loop(self._memory.study, run.study_id)
        policy = await off_loop(load_policy, run.policy)
        request = StudyRequest(
            dataset=study.dataset, backbone=study.backbone, policy=run.policy, max_trials=run.until_trials,
            budget_seconds=_seconds_left(run), seed=study.seed,
        )  # fmt: skip
        stored = plan_of(study)  # a policy does not read what the study was started to leave unread
        plan = Plan(request, memory=stored.memory, reflection=stored.reflection, parallel=self._slots)
        async with self._connect() as client:
            drive = Drive(
                plan,
                _Quiet(),
                study_client=StudyClient(client, lambda epochs, most: None, plan.wait_seconds),
                shared=True,
                count_others=lambda: off_loop(self._trained_by_others, run),
            )
            drive.open_study.request_key = partial(policy_limit.request_key, run.run_id)
            await drive.open_study.reopen(run.study_id)
            await play_policy(drive, policy)
            if run.finishes:
                await drive.open_study.catch_up()
                self._finishing.add(run.study_id)
                try:
                    await finish(drive, policy.reflects)
                finally:
                    self._finishing.discard(run.study_id)
        return " ".join(drive.remarks)


def load_policy(name: str) -> Policy:
    """The policy of a name. Raises ProtocolError where its library is not installed."""
    try:
        return load(name)
    except MissingExtra as missing:
        raise ProtocolError(str(missing)) from missing


def _seconds_left(run: PolicyRun) -> float | None:
    """Seconds left of the run's wall clock, None without a limit. Never quite zero, which would mean no limit."""
    if run.budget_seconds is None:
        return None
    return max(1e-3, run.budget_seconds - (datetime.now(UTC) - run.started_at).total_seconds())


class _Quiet:
    """A view that shows nothing: nobody watches, and memory records what happens."""

    def opened(self, study: StudyAnswer, plan: Plan) -> None: ...

    def started(self, proposal: Proposal, number: int) -> None: ...

    def progress(self, epochs: float, most: float | None) -> None: ...

    def finished(self, answer: TrialAnswer, metric: str) -> None: ...

    def say(self, text: str) -> None: ...
