"""Policies that play studies inside the owner, without any client: they go on when clients leave and owners end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from typing import Self, cast

import anyio.to_thread
from mcp import Client

from memory.errors import MemoryFault
from memory.records import PolicyRun, RunOutcome, Study
from memory.store import Memory, new_id
from server.admission import ProtocolError
from server.answers import StudyAnswer, TrialAnswer
from server.causes import cause_of
from server.drive.desk import Desk
from server.drive.loop import finish
from server.drive.plan import Plan, PolicyName
from server.drive.search import play_policy
from server.drive.state import Drive
from server.policies import load
from server.policies.base import MissingExtra, Policy, Proposal

Connect = Callable[[], AbstractAsyncContextManager[Client]]

log = logging.getLogger(__name__)


class Autopilot:
    """One per owner. `connect` opens a client of this very server, so that a policy plays by everyone's rules.

    Each policy keeps up to `slots` trainings under way.
    """

    def __init__(self, memory: Memory, connect: Connect, slots: int = 1) -> None:
        self._memory = memory
        self._slots = slots
        self._connect = connect
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    async def __aenter__(self) -> Self:
        for run in self._memory.runs.unended():
            self._begin(run)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @property
    def studies(self) -> list[str]:
        """Those that are being played."""
        return list(self._tasks)

    async def start(
        self, study: Study, policy: str, max_trials: int, budget_seconds: float | None, finishes: bool
    ) -> PolicyRun:
        """Let `policy` play on, for `max_trials` more configurations; returns at once.

        Raises ProtocolError where that cannot be, and MemoryFault where a policy plays already.
        """
        if study.finished:
            raise ProtocolError(f"Study {study.study_id!r} is finished; start_study opens a new one.")
        if self._closing:
            raise ProtocolError("The owner is ending; the same call starts the policy at the next one.")
        await anyio.to_thread.run_sync(loaded, policy)
        known = {trial.number for trial in self._memory.trials(study.study_id)}
        run = PolicyRun(
            run_id=new_id("r"),
            study_id=study.study_id,
            started_at=datetime.now(UTC),
            policy=policy,
            until_trials=len(known) + max_trials,
            budget_seconds=budget_seconds,
            finishes=finishes,
        )
        self._memory.runs.add(run)
        self._begin(run)
        return run

    async def cancel(self, study_id: str) -> None:
        """Ends the policy of a study, if one plays; its running trial goes on."""
        run, task = self._memory.runs.last(study_id), self._tasks.get(study_id)
        if run is None or run.outcome is not None:
            return
        self._memory.runs.end(run.run_id, "cancelled")
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def over(self, study_id: str, seconds: float) -> bool:
        """Waits so long for the policy of a study to end; whether it has."""
        task = self._tasks.get(study_id)
        return task is None or bool((await asyncio.wait({task}, timeout=seconds))[0])

    async def aclose(self) -> None:
        """Ends the playing here; the runs go on with the next owner."""
        self._closing = True
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()))

    def _begin(self, run: PolicyRun) -> None:
        task = asyncio.create_task(self._played(run))
        self._tasks[run.study_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(run.study_id, None))

    async def _played(self, run: PolicyRun) -> None:
        """Plays to the end and writes down how it came; what was cancelled has been written down already."""
        outcome: RunOutcome = "done"
        try:
            message = await self._play(run)
        except Exception as error:  # nobody awaits this task: what went wrong is told in the study
            cause = cause_of(error)
            outcome, message = "failed", " ".join(str(cause).split()) or type(cause).__name__
            log.warning("policy %s of study %s: %s", run.policy, run.study_id, message)
        with suppress(MemoryFault):  # then it goes on with the next owner
            self._memory.runs.end(run.run_id, outcome, message)

    async def _play(self, run: PolicyRun) -> str:
        """What the search had to remark."""
        study = self._memory.study(run.study_id)
        policy = await anyio.to_thread.run_sync(loaded, run.policy)
        plan = Plan(
            dataset=study.dataset, backbone=study.backbone, policy=cast(PolicyName, run.policy),
            trials=run.until_trials, budget_seconds=_left(run), seed=study.seed,
            parallel=self._slots,
        )  # fmt: skip
        async with self._connect() as client:
            drive = Drive(plan, _Quiet(), desk=Desk(client, lambda done, most: None, plan.wait_seconds), shared=True)
            await drive.desk_open.reopen(run.study_id)
            await play_policy(drive, policy)
            if run.finishes:
                await drive.desk_open.catch_up()
                await finish(drive, policy.reflects)
        return " ".join(drive.remarks)


def loaded(name: str) -> Policy:
    """The policy; raises ProtocolError where its library is not installed."""
    try:
        return load(name)
    except MissingExtra as missing:
        raise ProtocolError(str(missing)) from missing


def _left(run: PolicyRun) -> float | None:
    """Of its wall clock, in seconds."""
    if run.budget_seconds is None:
        return None
    return max(0.0, run.budget_seconds - (datetime.now(UTC) - run.started_at).total_seconds())


class _Quiet:
    """Nobody watches: what happens is in memory."""

    def opened(self, study: StudyAnswer, plan: Plan) -> None: ...

    def started(self, proposal: Proposal, number: int) -> None: ...

    def progress(self, epochs: float, most: float | None) -> None: ...

    def finished(self, answer: TrialAnswer, metric: str) -> None: ...

    def say(self, text: str) -> None: ...
