"""virtualmle status, open and doctor: the owner's state, its study page, and a check of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from server.client.status import QueueLine
from server.replay.marker import read_replay_home
from server.settings import load_settings

Home = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else the user-data folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MARKS = {"ok": "ok", "note": "-", "problem": "!"}


def status(home: Home = None, as_json: Json = False) -> None:
    """Show the home's owner: its address, clients, trials and policies. Does not start one."""
    from server.client.home import find_owner
    from server.client.stop import owner_status

    settings = load_settings(home)
    owner = find_owner(settings)
    if owner is None:
        typer.echo(json.dumps(None) if as_json else f"No owner runs for {settings.home}; the next client starts one.")
        replay = read_replay_home(settings)
        if replay is not None and not as_json:
            typer.echo(_replay_line(replay.tables))
        return
    current = owner_status(owner)
    if as_json:
        facts = {"home": str(settings.home), "pid": owner.pid, "url": owner.url, "started": owner.started}
        typer.echo(json.dumps({**facts, **current.model_dump()}))
        return
    typer.echo(
        f"The owner of {settings.home}: pid {owner.pid}, {owner.url}, version {current.version}, since {owner.started}"
    )
    if current.replay is not None:
        typer.echo(_replay_line(current.replay))
    typer.echo(f"clients   {current.clients}")
    typer.echo(f"slots     {current.slots}")
    for title, ids in (("running", current.running), ("queued", current.queued), ("playing", current.playing)):
        typer.echo(f"{title:<9} {', '.join(ids) or 'none'}")
    if current.queue:
        typer.echo("")
        Console(soft_wrap=True).print(_queue_table(current.queue))


def _replay_line(tables: Path | str) -> str:
    return f"replay    {tables}: results come from recorded trainings, and nothing is trained"


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
    study_id: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study_id, s-…. Default: the newest study.")
    ] = None,
    home: Home = None,
    browser: Annotated[bool, typer.Option(help="Open a browser; else only print the address.")] = True,
) -> None:
    """Open the study page in a browser. Starts the home's owner if none runs."""
    import webbrowser

    import anyio

    from server.client.home import find_or_start

    owner = anyio.run(find_or_start, load_settings(home))
    study = f"&study={study_id}" if study_id else ""
    address = f"{owner.url}/#token={owner.page_token}{study}"
    typer.echo(address)
    if browser and not webbrowser.open(address):
        typer.echo("No browser was found: open the address yourself; it may look, and change nothing.", err=True)


def doctor(home: Home = None, as_json: Json = False) -> None:
    """Check system, home, owner, memory, torch, GPU and extras, and say how to fix each problem."""
    from server.cli.doctor import Finding, examine

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
