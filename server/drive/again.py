"""The report of a study that is in memory already, whoever drove it."""

from __future__ import annotations

import time
from pathlib import Path

from mcp import Client
from rich.console import Console

from server.drive.desk import Desk
from server.drive.live import view_for
from server.drive.page import write_report
from server.drive.plan import plan_of
from server.drive.report import Report
from server.drive.state import Drive


async def report_again(client: Client, study_id: str, folder: Path) -> Report:
    """Write report.md, report.json and the picture of a study into `folder`. Raises Refused where there is none."""
    with view_for(Console(stderr=True, quiet=True)) as view:
        desk = Desk(client, lambda epochs, most: None, 45.0)
        study = await desk.reopen(study_id)
        drive = Drive(plan_of(study), view, folder, desk, await desk.notes(), ended=True)
    trained = sum((trial.seconds or 0.0) + (trial.eval_seconds or 0.0) for trial in desk.trials.values())
    drive.began = time.monotonic() - trained
    return write_report(drive, folder)
