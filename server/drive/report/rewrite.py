"""Writes the report of a study that is in memory already, whoever drove it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from mcp import Client
from rich.console import Console

from server.drive.report.live import view_for
from server.drive.report.page import write_report
from server.drive.report.report import Report
from server.drive.state import Drive
from server.drive.stored_plan import plan_of
from server.drive.study_client import StudyClient


async def report_again(client: Client, study_id: str, folder: Path, home: Path | None = None) -> Report:
    """Write report.md, report.json and the picture of a study into `folder`. Raises Refused where there is none."""
    with view_for(Console(stderr=True, quiet=True)) as view:
        study_client = StudyClient(client, lambda epochs, most: None, 45.0)
        study = await study_client.reopen(study_id)
        plan = replace(plan_of(study), home=home)
        if study.max_trials is None:
            tried = {trial.number for trial in study_client.trials.values()}
            request = plan.request.model_copy(update={"max_trials": max(1, len(tried))})
            plan = replace(plan, request=request)
        drive = Drive(plan, view, folder, study_client, await study_client.notes(), ended=True)
    trained = sum((trial.seconds or 0.0) + (trial.eval_seconds or 0.0) for trial in study_client.trials.values())
    drive.began = time.monotonic() - trained
    return write_report(drive, folder)
