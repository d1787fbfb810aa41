"""Runs a drive: the default and its seeds, a policy or a model until the budget is gone, then the sealed test."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import anyio
from mcp import Client

from memory.statistics.noise import Sigma
from server.drive import notes
from server.drive.llm.dialogue import Dialogue, ModelFailed, open_dialogue
from server.drive.plan import PlanError, Resume
from server.drive.search import play_policy, train_missing_default
from server.drive.state import Drive
from server.drive.stored_plan import resumed
from server.drive.study_client import Refused, ServerGone, StudyClient
from server.policies import load
from server.policies.base import MissingExtra

CANCEL_SECONDS = 15.0
"""How long an interrupted drive waits for its trial to end."""


async def play(drive: Drive, client: Client, reports: Path) -> None:
    """Everything from start_study to finish_study; `drive` records failures and interruptions."""
    drive.study_client = StudyClient(client, drive.view.progress, drive.plan.wait_seconds)
    try:
        with anyio.CancelScope() as scope, _stoppable(drive, scope):
            await _tune(drive, reports)
        if drive.interrupted:
            with anyio.move_on_after(CANCEL_SECONDS):
                await _cancel_running(drive)
    except (Refused, ServerGone, PlanError, ModelFailed, MissingExtra) as error:
        drive.failure = str(error)
    drive.ended = True


@contextmanager
def _stoppable(drive: Drive, scope: anyio.CancelScope) -> Generator[None]:
    """The first Ctrl-C (or SIGTERM) ends the drive cleanly, the second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        drive.interrupted = True
        loop.call_soon_threadsafe(scope.cancel)

    for number in handlers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


async def _cancel_running(drive: Drive) -> None:
    """Cancel what runs and read the notes; the report lacks what the server does not answer any more."""
    study_client = drive.open_study
    if not study_client.opened:
        return
    drive.view.say("Interrupted: ending the running trial.")
    try:
        await study_client.cancel_running()
        drive.written = await study_client.notes()
    except (Refused, ServerGone) as error:
        drive.remark(f"The running trial could not be ended: {error}")


async def _tune(drive: Drive, reports: Path) -> None:
    study_client = drive.open_study
    if drive.plan.resume is not None:
        await _resume(drive, drive.plan.resume)
    plan = drive.plan
    dry_run = plan.model is not None and plan.model.dry_run
    player = load(plan.policy) if plan.model is None else None if dry_run else open_dialogue(plan.model)
    study = study_client.study if study_client.opened else await study_client.start(plan.study_arguments())
    drive.folder = drive.folder or reports / study.study_id
    drive.view.opened(study, plan)
    if player is None:
        from server.drive.llm.engineer import first_prompt

        drive.prompt = await first_prompt(drive)
        if plan.resume is None and not await study_client.forget():
            resume_command = plan.resume_command(study.study_id)
            drive.leaves = f"; this server keeps the study, which `{resume_command}` goes on with"
        return
    if isinstance(player, Dialogue):
        from server.drive.llm.engineer import play_model

        await train_missing_default(drive)
        async with player:
            await play_model(drive, player)
    else:
        await play_policy(drive, player)
    if study_client.finish is None:
        await finish(drive, not isinstance(player, Dialogue) and player.reflects)
    await study_client.catch_up()  # the fresh seeds, which the server trained
    drive.written = await study_client.notes()


async def _resume(drive: Drive, resume: Resume) -> None:
    """Goes on with an open study, with the options that it was started with."""
    study_client = drive.open_study
    study = await study_client.reopen(resume.study_id)
    if study.finished:
        raise Refused(f"Study {resume.study_id!r} is finished, and its test revealed; there is nothing to go on with.")
    tried = {trial.number for trial in study_client.trials.values()}
    drive.plan = resumed(drive.plan, resume, study, len(tried))
    drive.shared = True  # its earlier driver may have left trials in training
    if drive.plan.policy != study.policy:
        drive.remark(f"Policy {study.policy!r} tuned this study so far; from here on {drive.plan.policy} does.")


def sigma_of(study_client: StudyClient) -> Sigma:
    """Relative seed noise, as the server's latest answer gives it."""
    noises = [answer.noise for answer in study_client.trials.values() if answer.noise is not None]
    noise = noises[-1] if noises else study_client.study.brief.noise
    return Sigma(noise.sigma, noise.df)


async def finish(drive: Drive, reflects: bool) -> None:
    """Writes down what was learned, if the policy reflects and memory is on, then reveals the sealed test."""
    study_client = drive.open_study
    drive.view.say("Training fresh seeds of the choice and of the default, then revealing their sealed test.")
    if reflects and drive.plan.memory == "on":
        brief, observations = study_client.study.brief, study_client.observations()
        for draft in notes.heuristics(brief, observations, sigma_of(study_client)):
            await study_client.write_heuristic(draft.text, draft.evidence, draft.claim)
    await study_client.end()
