"""The `virtualmle trainer` commands: register, list, check and forget trainers of the user's own."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from server.settings import load_settings
from trainers import registry

app = typer.Typer(help="Register, list, check and forget trainers of your own.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What it is called as a backbone.")]
File = Annotated[Path, typer.Argument(metavar="SPACE_YAML", help="Its command and its fields.")]
Home = Annotated[Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else user data.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(name: Name, space: File, home: Home = None) -> None:
    """Register the trainer of SPACE_YAML, to be used as backbone=NAME; what was there under NAME is replaced."""
    found = registry.add(load_settings(home).trainers, name, space)
    typer.echo(f"Added {name}: {' '.join(found.command)}; {len(found.space.fields)} fields.", err=True)


@app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List the registered trainers."""
    folder = load_settings(home).trainers
    found = [registry.find(folder, name) for name in registry.names(folder)]
    if as_json:
        lines = [{"name": one.name, "command": one.command, "version": one.version} for one in found]
        typer.echo(json.dumps(lines, indent=1))
        return
    for one in found:
        typer.echo(f"{one.name}  {' '.join(one.command)}")
    if not found:
        typer.echo("None yet; `virtualmle trainer add NAME SPACE_YAML` registers one.", err=True)


@app.command()
def remove(name: Name, home: Home = None) -> None:
    """Forget the trainer NAME; its studies stay in memory."""
    registry.remove(load_settings(home).trainers, name)
    typer.echo(f"Removed {name}.", err=True)


@app.command()
def check(
    space: File,
    seconds: Annotated[float, typer.Option(min=1, help="How long each call of it may take.")] = 120.0,
) -> None:
    """Run the trainer of SPACE_YAML on a tiny dataset, and say what is wrong with it. Exit 1 where something is."""
    from trainers.trial_run import check_trainer

    with tempfile.TemporaryDirectory(prefix="virtualmle-check-") as home:
        for line in check_trainer(space, Path(home), seconds):
            typer.echo(line, err=True)
    typer.echo("It keeps the protocol.", err=True)
