"""virtualmle backup and restore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import anyio
import typer

from server.backup import COPY, write_backup
from server.backup import restore as restored
from server.home import BACKUP_PATH, asked
from server.settings import load_settings

Home = Annotated[Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else user data.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new .tar, or .tar.gz to have it compressed.")],
    home: Home = None,
    checkpoints: Annotated[
        bool, typer.Option(help="Keep weights; without them tests and exports need new trainings.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Pack everything of the home into one file, also while it trains: memory, datasets, trials, reports, settings."""
    settings = load_settings(home)
    if file.exists():
        raise typer.BadParameter(f"{file} is there already; name another one.")
    anyio.run(asked, home, "POST", BACKUP_PATH, "")
    copy = settings.home / COPY
    try:
        size = write_backup(settings, copy, file, checkpoints)
    finally:
        copy.unlink(missing_ok=True)
    typer.echo(json.dumps({"file": str(file), "bytes": size}) if as_json else file)
    typer.echo(f"{size / 2**20:.1f} MB; `virtualmle restore {file} --home DIR` makes a home of it.", err=True)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `virtualmle backup` wrote.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make the home of a backup, in a folder that is not there yet."""
    settings = load_settings(home)
    label = restored(file, settings)
    typer.echo(json.dumps({"home": str(settings.home), **label}) if as_json else settings.home)
    typer.echo(f"As it was at {label['made']}; the next client starts its owner.", err=True)
