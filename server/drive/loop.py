"""The drive itself: the default, its seeds, a policy or a model until the budget is gone, then the sealed test."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import anyio
from mcp import Client

from memory.noise import Sigma
from server.drive import notes
from server.drive.desk import Desk, Refused, ServerGone
from server.drive.dialogue import Dialogue, ModelFailed, open_dialogue
from server.drive.plan import plan_of
from server.drive.search import play_policy, train_default
from server.drive.state import Drive
from server.policies import load
from server.policies.base import MissingExtra

GOODBYE_SECONDS = 15.0
"""How long an interrupted drive waits for its trial to end."""


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
    dry = plan.model is not None and plan.model.dry_run
    player = load(plan.policy) if plan.model is None else None if dry else open_dialogue(plan.model)
    if plan.resume is not None:
        await _take_up(drive, plan.resume)
    study = desk.study if desk.opened else await desk.start(plan.study_arguments())
    plan = drive.plan
    drive.folder = drive.folder or reports / study.study_id
    drive.view.opened(study, plan)
    if player is None:
        from server.drive.engineer import first_prompt

        drive.prompt = await first_prompt(drive)
        return
    if isinstance(player, Dialogue):
        from server.drive.engineer import play_model

        if not desk.trials:
            await train_default(drive)
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
    kept = {name: getattr(asked, name) for name in ("policy", "model", "url", "memory", "parallel")}
    drive.plan = replace(plan_of(study), resume=study_id, reflection=asked.reflection, **kept)
    desk.wait_seconds = asked.wait_seconds


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
