"""virtualmle status and doctor: what the owner does, and what is found here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from server.settings import load_settings

Home = Annotated[Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else user data.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MARKS = {"ok": "ok", "note": "-", "problem": "!"}


def status(home: Home = None, as_json: Json = False) -> None:
    """Show the home's owner: where it listens, its clients, what trains, waits and plays. Starts none."""
    from server.ending import owner_status
    from server.home import find_owner

    settings = load_settings(home)
    owner = find_owner(settings)
    if owner is None:
        typer.echo(json.dumps(None) if as_json else f"No owner runs for {settings.home}; the next client starts one.")
        return
    found = owner_status(owner)
    if as_json:
        facts = {"home": str(settings.home), "pid": owner.pid, "url": owner.url, "started": owner.started}
        typer.echo(json.dumps({**facts, **found.model_dump()}))
        return
    typer.echo(
        f"The owner of {settings.home}: pid {owner.pid}, {owner.url}, version {found.version}, since {owner.started}"
    )
    typer.echo(f"clients   {found.clients}")
    for title, ids in (("running", found.running), ("queued", found.queued), ("playing", found.playing)):
        typer.echo(f"{title:<9} {', '.join(ids) or 'none'}")


def doctor(home: Home = None, as_json: Json = False) -> None:
    """Look at system, home, owner, memory, torch, GPU and extras, and say what to do about each problem."""
    from server.doctor import Finding, examine

    findings: list[Finding] = []
    for finding in examine(load_settings(home)):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{MARKS[finding.grade]:>2}  {finding.what:<11} {finding.found}")
            if finding.advice is not None:
                typer.echo(f"    {'':<11} {finding.advice}")
    if as_json:
        typer.echo(json.dumps([finding.model_dump(exclude_none=True) for finding in findings]))
    if any(finding.grade == "problem" for finding in findings):
        raise typer.Exit(1)
