"""The drive itself: the default, its seeds, a policy or a model until the budget is gone, then the sealed test."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from types import FrameType
from typing import Protocol

import anyio
import anyio.to_thread
from mcp import Client

from memory.noise import Sigma
from server.answers import MemoryItem, StudyAnswer, TrialAnswer
from server.drive import notes
from server.drive.ablation import ablated
from server.drive.desk import Desk, Refused, ServerGone
from server.drive.dialogue import Dialogue, ModelFailed, open_dialogue
from server.drive.plan import Plan, plan_of
from server.policies import load
from server.policies.base import MissingExtra, Policy, Proposal, first_trial, standings

DEFAULT_SEEDS = 3
"""Trainings of the default, where the budget is wide enough for them."""
SEEDS_FROM_TRIALS = 4
SEEDS_BUDGET_SHARE = 0.1
GOODBYE_SECONDS = 15.0
"""How long an interrupted drive waits for its trial to end."""


class View(Protocol):
    """Where a drive shows what it does."""

    def opened(self, study: StudyAnswer, plan: Plan) -> None: ...

    def started(self, proposal: Proposal, number: int) -> None: ...

    def progress(self, epochs: float, most: float | None) -> None: ...

    def finished(self, answer: TrialAnswer, metric: str) -> None: ...

    def say(self, text: str) -> None: ...


@dataclass
class Drive:
    """One drive's state; what is in it when it ends, however it ends, becomes the report."""

    plan: Plan
    view: View
    folder: Path | None = None
    """Where the report goes, once that is known: HOME/reports/STUDY_ID or what was asked for."""
    desk: Desk | None = None
    written: list[MemoryItem] = field(default_factory=list[MemoryItem])
    remarks: list[str] = field(default_factory=list[str])
    """What the reader of the report has to know beside the numbers."""
    interrupted: bool = False
    failure: str | None = None
    ended: bool = False
    """Whether `play` came to its end, however it was; what fails after that is only the closing of the connection."""
    began: float = field(default_factory=time.monotonic)
    shared: bool = False
    """Whether others may train in the study meanwhile: then each proposal first takes in what they found."""

    def remark(self, text: str) -> None:
        """Say it now and in the report."""
        self.remarks.append(text)
        self.view.say(text)

    @property
    def desk_open(self) -> Desk:
        assert self.desk is not None
        return self.desk

    def elapsed(self) -> float:
        """Seconds since the drive began."""
        return time.monotonic() - self.began

    def spent(self) -> bool:
        """Whether the wall-clock budget is gone."""
        if self.plan.budget_seconds is None:
            return False
        return self.elapsed() >= self.plan.budget_seconds


async def play(drive: Drive, client: Client, reports: Path) -> None:
    """Everything from start_study to finish_study; failures and interruptions end up in `drive`."""
    drive.desk = Desk(client, drive.view.progress, drive.plan.wait_seconds)
    try:
        with anyio.CancelScope() as scope, _stoppable(drive, scope):
            await _tune(drive, reports)
        if drive.interrupted:
            with anyio.move_on_after(GOODBYE_SECONDS):
                await _leave(drive)
    except (Refused, ServerGone, ModelFailed, MissingExtra) as error:
        drive.failure = str(error)
    drive.ended = True


@contextmanager
def _stoppable(drive: Drive, scope: anyio.CancelScope) -> Generator[None]:
    """The first Ctrl-C (or SIGTERM) ends the drive politely, the second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        drive.interrupted = True
        loop.call_soon_threadsafe(scope.cancel)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


async def _leave(drive: Drive) -> None:
    """Cancel what runs; what cannot be asked any more is left out of the report."""
    desk = drive.desk_open
    if not desk.opened:
        return
    drive.view.say("Interrupted: ending the running trial.")
    try:
        await desk.cancel_running()
        drive.written = await desk.notes()
    except (Refused, ServerGone) as error:
        drive.remark(f"The running trial could not be ended: {error}")


async def _tune(drive: Drive, reports: Path) -> None:
    desk, plan = drive.desk_open, drive.plan
    player = load(plan.policy) if plan.model is None else open_dialogue(plan.model)
    if plan.resume is not None:
        await _take_up(drive, plan.resume)
    study = desk.study if desk.opened else await desk.start(plan.study_arguments())
    plan = drive.plan
    drive.folder = drive.folder or reports / study.study_id
    drive.view.opened(study, plan)
    if isinstance(player, Dialogue):
        from server.drive.engineer import play_model

        if not desk.trials:
            await _default(drive)
        async with player:
            await play_model(drive, player)
    else:
        await play_policy(drive, player)
    if desk.finish is None:
        learns = plan.memory == "on" and not isinstance(player, Dialogue) and player.reflects
        await finish(drive, learns)
    drive.written = await desk.notes()


async def _take_up(drive: Drive, study_id: str) -> None:
    """Goes on with a study as it was asked for."""
    desk, asked = drive.desk_open, drive.plan
    study = await desk.reopen(study_id)
    if study.finished:
        raise Refused(f"Study {study_id!r} is finished, and its test revealed; there is nothing to go on with.")
    kept = {"policy": asked.policy, "model": asked.model, "url": asked.url, "memory": asked.memory}
    drive.plan = replace(plan_of(study), resume=study_id, reflection=asked.reflection, **kept)
    desk.wait_seconds = asked.wait_seconds


async def _default(drive: Drive) -> None:
    """Trial 0, and two more seeds of it where they cost little: the noise that everything else is judged by."""
    desk, plan = drive.desk_open, drive.plan
    first = await run(drive, Proposal({}, hypothesis="the default configuration: the measure of everything after it"))
    observed = desk.observations()[0]
    if observed.score is None:
        why = f" ({first.message})" if first.message else ""
        drive.remark(
            f"The default configuration itself ended {first.status}{why}; going on from it with other settings."
        )
    budget = plan.budget_seconds
    cheap = budget is None or observed.seconds < SEEDS_BUDGET_SHARE * budget
    if plan.trials >= SEEDS_FROM_TRIALS and cheap and observed.score is not None:
        for seed in range(2, DEFAULT_SEEDS + 1):
            if drive.spent():
                break
            why = f"seed {seed} of the default: how much luck there is"
            await run(drive, Proposal({}, replicate_of=first.trial_id, hypothesis=why))


async def _older_best(drive: Drive, policy: Policy) -> None:
    """Trains what won on the older version of the dataset, whatever the policy would try."""
    previous = drive.desk_open.study.brief.previous
    if previous is None or not previous.changes or drive.plan.trials < 2 or drive.spent():
        return
    why = f"what won on the older version of this dataset (study {previous.study_id})"
    proposal = Proposal(previous.changes, parent=first_trial(drive.desk_open.observations()), hypothesis=why)
    answer = await run(drive, proposal)
    if policy.reflects and drive.plan.reflection:
        await _reflect(drive, answer, proposal, None)


async def run(drive: Drive, proposal: Proposal) -> TrialAnswer:
    """One training, shown."""
    desk = drive.desk_open
    number = len({trial.number for trial in desk.trials.values()})
    drive.view.started(proposal, number)
    answer = await desk.run(proposal)
    drive.view.finished(answer, desk.study.brief.metric)
    return answer


async def play_policy(drive: Drive, policy: Policy) -> None:
    """The default, unless it is trained; then ask the policy, train what it proposes and write down what it taught.

    Until the policy or the budget has nothing left.
    """
    desk = drive.desk_open
    reflects = policy.reflects and drive.plan.reflection
    begins = not desk.trials
    if begins:
        await _default(drive)
        await _older_best(drive, policy)
    proposal = await _propose(drive, policy)
    if begins and reflects:
        await _reflect(drive, next(iter(desk.trials.values())), Proposal({}), proposal)
    while proposal is not None:
        try:
            answer = await run(drive, proposal)
        except Refused as refusal:
            if drive.spent():
                return
            drive.remark(f"The server refused a trial, so the search ends here: {refusal}")
            return
        following = await _propose(drive, policy)
        if reflects:
            await _reflect(drive, answer, proposal, following)
        if answer.duplicate and following == proposal:
            drive.remark(f"{policy.__class__.__name__} proposes {answer.trial_id} again, so the search ends here.")
            return
        proposal = following


async def _propose(drive: Drive, policy: Policy) -> Proposal | None:
    desk, plan = drive.desk_open, drive.plan
    if drive.spent():
        return None
    if drive.shared:
        await desk.catch_up()
    history = desk.observations()
    left = plan.trials - len(standings(history))
    if left < 0:
        return None
    rng = Random(f"{plan.seed}:{len(history)}")
    brief = desk.brief()
    brief = replace(brief, trials_left=left if brief.trials_left is None else min(left, brief.trials_left))
    told = ablated(brief, plan.memory, desk.space, plan.seed)
    return await anyio.to_thread.run_sync(policy.propose, desk.space, history, told, rng)


async def _reflect(drive: Drive, answer: TrialAnswer, proposal: Proposal, following: Proposal | None) -> None:
    text = notes.reflection(answer, proposal, drive.desk_open.study.brief.metric, following)
    await drive.desk_open.note("reflection", text, [answer.trial_id])


def sigma_of(desk: Desk) -> Sigma:
    """Relative seed noise as the server knows it now."""
    known = [answer.noise for answer in desk.trials.values() if answer.noise is not None]
    noise = known[-1] if known else desk.study.brief.noise
    return Sigma(noise.sigma, noise.df)


async def finish(drive: Drive, with_heuristics: bool) -> None:
    """Write down what was learned, then reveal the sealed test."""
    desk = drive.desk_open
    drive.view.say("Revealing the sealed test of the chosen configuration and of the default.")
    if with_heuristics:
        for learned in notes.heuristics(desk.study.brief, desk.observations(), sigma_of(desk)):
            await desk.learn(learned.text, learned.evidence, learned.claim)
    await desk.end()
