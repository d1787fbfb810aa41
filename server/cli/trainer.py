"""The `virtualmle trainer` commands: register, list, check and remove the user's own trainers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from server.client.home import make_home
from server.settings import load_settings
from trainers.external import registry

app = typer.Typer(help="Register, list, check and remove your own trainers.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the trainer as a backbone.")]
File = Annotated[Path, typer.Argument(metavar="SPACE_YAML", help="File of the trainer's command and fields.")]
Home = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else the user-data folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(name: Name, space: File, home: Home = None) -> None:
    """Register the trainer of SPACE_YAML as backbone=NAME. Replaces an earlier trainer of that name."""
    settings = load_settings(home)
    make_home(settings)
    added = registry.add(settings.trainers_dir, name, space)
    typer.echo(f"Added {name}: {' '.join(added.command)}; {len(added.space.fields)} fields.", err=True)


@app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List the registered trainers."""
    folder = load_settings(home).trainers_dir
    trainers = [registry.find(folder, name) for name in registry.names(folder)]
    if as_json:
        lines = [{"name": trainer.name, "command": trainer.command, "version": trainer.version} for trainer in trainers]
        typer.echo(json.dumps(lines, indent=1))
        return
    for trainer in trainers:
        typer.echo(f"{trainer.name}  {' '.join(trainer.command)}")
    if not trainers:
        typer.echo("None yet; `virtualmle trainer add NAME SPACE_YAML` registers one.", err=True)


@app.command()
def remove(name: Name, home: Home = None) -> None:
    """Remove the trainer NAME. Its studies stay in memory."""
    registry.remove(load_settings(home).trainers_dir, name)
    typer.echo(f"Removed {name}.", err=True)


@app.command()
def check(
    space: File,
    seconds: Annotated[float, typer.Option(min=1, help="How long each call of the trainer may take.")] = 120.0,
    runs: Annotated[int, typer.Option(min=0, help="How many trainings may try choices and conditional fields.")] = 20,
) -> None:
    """Run the trainer of SPACE_YAML on a tiny dataset and report what is wrong. Exits with 1 if anything is."""
    from trainers.external.check import check_trainer

    with tempfile.TemporaryDirectory(prefix="virtualmle-check-") as home:
        for line in check_trainer(space, Path(home), seconds, runs):
            typer.echo(line, err=True)
    typer.echo("It keeps the protocol.", err=True)
