"""virtualmle status and doctor: what the owner does, and what is found here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from server.owner_status import QueueLine
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
    typer.echo(f"slots     {found.slots}")
    for title, ids in (("running", found.running), ("queued", found.queued), ("playing", found.playing)):
        typer.echo(f"{title:<9} {', '.join(ids) or 'none'}")
    if found.queue:
        typer.echo("")
        Console(soft_wrap=True).print(_queue_table(found.queue))


def _queue_table(queue: list[QueueLine]) -> Table:
    table = Table("trial", "study", "trains", box=None, pad_edge=False)
    for heading in ("state", "where", "epochs", "memory MB"):
        table.add_column(heading, justify="right")
    for line in queue:
        where = "" if not line.running else "CPU" if line.gpu is None else f"GPU {line.gpu}"
        state = "running" if line.running else "queued"
        what = f"{line.backbone} on {line.dataset}"
        table.add_row(line.trial_id, line.study_id, what, state, where, str(line.epochs), f"{line.memory_mb:,.0f}")
    return table


def open_page(
    study_id: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Default: the newest one.")] = None,
    home: Home = None,
    browser: Annotated[bool, typer.Option(help="Open it; else print its address only.")] = True,
) -> None:
    """Open the study page of the home's owner, which is started where there is none."""
    import webbrowser

    import anyio

    from server.home import find_or_start

    owner = anyio.run(find_or_start, load_settings(home))
    study = f"&study={study_id}" if study_id else ""
    address = f"{owner.url}/#token={owner.page_token}{study}"
    typer.echo(address)
    if browser and not webbrowser.open(address):
        typer.echo("No browser was found: open the address yourself; it may look, and change nothing.", err=True)


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
