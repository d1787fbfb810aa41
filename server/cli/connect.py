"""virtualmle connect: the entry for a chat client, printed or written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from server.cli import client_configs
from server.cli.client_configs import CLIENTS, ClientName
from server.replay.marker import read_replay_home
from server.settings import load_settings


def connect(
    client: Annotated[ClientName, typer.Argument(help="The chat client.", show_default=False)],
    home: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Home of the server; with --ssh, a folder on HOST.")
    ] = None,
    ssh: Annotated[
        str | None,
        typer.Option(metavar="USER@HOST", help="Start the server on this host, over ssh: no port, no token."),
    ] = None,
    remote_program: Annotated[
        str, typer.Option(metavar="P", help="With --ssh: the virtualmle command on HOST.")
    ] = "virtualmle",
    url: Annotated[str | None, typer.Option(metavar="U", help="Use the HTTP server at this URL.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="F", help="With --url: file of its bearer token, on this machine.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the entry into the client's file, which is backed up first.")
    ] = False,
    file: Annotated[Path | None, typer.Option(metavar="F", help="Use this file instead of the client's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the entry as JSON.")] = False,
) -> None:
    """Print a chat client's entry for the server, or write it into the client's configuration."""
    if ssh and url:
        raise typer.BadParameter("--ssh and --url are two ways to one server: give one of them.")
    if token_file is not None and url is None:
        raise typer.BadParameter("--token-file belongs to --url.")
    variables: dict[str, str] = {}
    if ssh:
        command = client_configs.ssh_command(ssh, home, remote_program)
    elif url:
        command = client_configs.bridge_command(url, token_file)
    else:
        replay = read_replay_home(load_settings(home))
        command = client_configs.local_command(home, replay.tables if replay else None)
        variables = {} if home else client_configs.home_variable()
    path = file or client_configs.config_path(client)
    title = CLIENTS[client].title
    if write:
        before = client_configs.write(client, command, path, variables)
        typer.echo(f"{title} finds the server in {path} when it starts again.")
        if before is not None:
            typer.echo(f"The file as it was: {before}")
    elif as_json:
        typer.echo(json.dumps({"path": str(path), "entry": client_configs.entry(client, command, variables)}))
    else:
        typer.echo(client_configs.snippet(client, command, variables))
        where = "run it in a shell" if client == "claude-code" else f"for {path}"
        typer.echo(f"{title}: {where}, or let `virtualmle connect {client} --write` do it.", err=True)
