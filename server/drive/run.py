"""Runs one drive, from the connection to the files of its report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import typer
from mcp import Client, MCPError
from rich.console import Console

from server.drive.loop import play
from server.drive.plan import Plan
from server.drive.report.live import view_for
from server.drive.report.page import verdict, write_report
from server.drive.state import Drive
from server.drive.study_client import GONE
from server.errors import cause_of

Connect = Callable[[], AbstractAsyncContextManager[Client]]
INTERRUPTED = 130


class DriveFailed(RuntimeError):
    """The drive broke off; the message says why, and what the report holds."""


def run_drive(plan: Plan, connect: Connect, reports: Path, folder: Path | None, as_json: bool) -> int:
    """Tune, write the report and print its path; returns the exit code. Raises DriveFailed if the drive broke off."""
    console = Console(stderr=True, highlight=False)
    with view_for(console) as view:
        drive = Drive(plan, view, folder)
        anyio.run(_play_connected, drive, connect, reports)
    if drive.folder is None or drive.study_client is None or not drive.study_client.opened:
        if drive.failure is not None:
            raise DriveFailed(drive.failure)
        return INTERRUPTED
    if drive.prompt is not None and drive.failure is None:
        typer.echo(drive.prompt)
        typer.echo(f"Nothing was trained and no model asked{drive.leaves}.", err=True)
        return 0
    report = write_report(drive, drive.folder)
    study = report.study_id
    if drive.interrupted:
        typer.echo(
            f"Interrupted. Study {study} is kept, unfinished: `{drive.plan.resume_command(study)}` goes on with it, as "
            "does any MCP client with run_trial and finish_study.",
            err=True,
        )
    elif drive.failure is None:
        typer.echo(verdict(drive, report), err=True)
    typer.echo(report.model_dump_json() if as_json else drive.folder / "report.md")
    if drive.failure is not None:
        goes_on = f"`{drive.plan.resume_command(study)}` goes on with it."
        raise DriveFailed(
            f"{drive.failure} The report holds what had ended; study {study} is kept, unfinished: {goes_on}"
        )
    return INTERRUPTED if drive.interrupted else 0


async def _play_connected(drive: Drive, connect: Connect, reports: Path) -> None:
    try:
        async with connect() as client:
            await play(drive, client, reports)
    except Exception as error:
        if drive.study_client is None or (not drive.ended and not drive.study_client.opened):
            raise
        if not drive.ended:
            cause = cause_of(error)
            said = " ".join(str(cause).split()) or type(cause).__name__
            gone = isinstance(cause, (MCPError, *GONE))
            drive.failure = f"The server went away: {said}" if gone else f"The drive failed: {said}"
