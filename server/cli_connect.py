"""virtualmle connect: the entry for a chat client, printed or written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from server import connecting
from server.connecting import CLIENTS, ClientName


def connect(
    client: Annotated[ClientName, typer.Argument(help="Which chat client.", show_default=False)],
    home: Annotated[Path | None, typer.Option(metavar="DIR", help="Of the server; on HOST with --ssh.")] = None,
    ssh: Annotated[
        str | None, typer.Option(metavar="USER@HOST", help="The server runs there: no port, no token.")
    ] = None,
    remote_program: Annotated[str, typer.Option(metavar="P", help="virtualmle on HOST.")] = "virtualmle",
    url: Annotated[str | None, typer.Option(metavar="U", help="The server runs there, over HTTP.")] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="F", help="Its bearer token, on this machine.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Write it into the client's file, with a backup.")] = False,
    file: Annotated[Path | None, typer.Option(metavar="F", help="Another file than the client's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the entry as JSON.")] = False,
) -> None:
    """Print what a chat client needs to start the server, or write it into its configuration."""
    if ssh and url:
        raise typer.BadParameter("--ssh and --url are two ways to one server: give one of them.")
    if token_file is not None and url is None:
        raise typer.BadParameter("--token-file belongs to --url.")
    if ssh:
        command = connecting.ssh_command(ssh, home, remote_program)
    elif url:
        command = connecting.bridge_command(url, token_file)
    else:
        command = connecting.local_command(home)
    path = file or connecting.config_path(client)
    title = CLIENTS[client].title
    if write:
        before = connecting.write(client, command, path)
        typer.echo(f"{title} finds the server in {path} when it starts again.")
        if before is not None:
            typer.echo(f"The file as it was: {before}")
    elif as_json:
        typer.echo(json.dumps({"path": str(path), "entry": connecting.entry(client, command)}))
    else:
        typer.echo(connecting.snippet(client, command))
        where = "run it in a shell" if client == "claude-code" else f"for {path}"
        typer.echo(f"{title}: {where}, or let `virtualmle connect {client} --write` do it.", err=True)
