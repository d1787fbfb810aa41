"""virtualmle backup and restore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import anyio
import typer

from server.client.home import BACKUP_PATH, request_owner
from server.portability.backup import COPY, write_backup
from server.portability.backup import restore as restored
from server.portability.backup_contents import SETTINGS_FILE
from server.settings import load_settings

Home = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else the user-data folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write: a new .tar or .tar.gz.")],
    home: Home = None,
    checkpoints: Annotated[
        bool, typer.Option(help="Include weights. Without them, the sealed test and exports need new trainings.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Pack the home into one file, even while it trains: memory, datasets, trials, reports, settings."""
    settings = load_settings(home)
    if file.exists():
        raise typer.BadParameter(f"{file} is there already; name another one.")
    anyio.run(request_owner, home, "POST", BACKUP_PATH, "")
    copy = settings.home / COPY
    try:
        size = write_backup(settings, copy, file, checkpoints)
    finally:
        copy.unlink(missing_ok=True)
    typer.echo(json.dumps({"file": str(file), "bytes": size}) if as_json else file)
    typer.echo(f"{size / 2**20:.1f} MB; `virtualmle restore {file} --home DIR` makes a home of it.", err=True)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `virtualmle backup` wrote.")],
    home: Home = None,
    with_trainers: Annotated[
        bool, typer.Option("--with-trainers", help="Also restore your own trainers: commands that trials will run.")
    ] = False,
    with_settings: Annotated[
        bool, typer.Option("--with-settings", help="Also restore settings that choose what runs, such as an executor.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List what a backup holds and restore a home from it, into a new or empty folder."""
    settings = load_settings(home)
    contents = restored(
        file, settings, with_trainers=with_trainers, with_settings=with_settings,
        show=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    left_out = contents.left_out(with_trainers, with_settings)
    answer = {"home": str(settings.home), **contents.label, "left_out": left_out}
    typer.echo(json.dumps(answer) if as_json else settings.home)
    for name in left_out:
        word = "--with-settings" if name == SETTINGS_FILE else "--with-trainers"
        typer.echo(f"Not restored: {name}, since it chooses what runs here; {word} restores it.", err=True)
    typer.echo(f"As it was at {contents.label['made']}; the next client starts its owner.", err=True)
