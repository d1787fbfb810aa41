"""The virtualmle commands; each is a few lines around the owner, its tools or the datasets."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from server.cli.replay_home import home_for
from server.client.home import make_home
from server.errors import cause_of
from server.settings import load_settings
from server.version import installed_version

_LATER = {
    "connect": "server.cli.connect:connect",
    "status": "server.cli.host:status",
    "doctor": "server.cli.host:doctor",
    "open": "server.cli.host:open_page",
    "backup": "server.cli.backup:backup",
    "restore": "server.cli.backup:restore",
    "drive": "server.cli.drive:drive",
    "data": "server.cli.data:app",
    "trainer": "server.cli.trainer:app",
    "study": "server.cli.memory:study",
    "memory": "server.cli.memory:memory",
    "compare": "server.cli.memory:compare",
    "export": "server.cli.export:export",
    "recommend": "server.cli.export:recommend",
}
"""Commands whose modules are loaded only when they are used, so that `serve` starts quickly."""

_OURS = ("server", "memory", "trainers", "prompts")


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_LATER]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _LATER:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = _LATER[cmd_name].partition(":")
        command = getattr(import_module(module), attribute)
        group = typer.Typer(add_completion=False, rich_markup_mode=None)
        if isinstance(command, typer.Typer):
            group.add_typer(command, name=cmd_name)
        else:
            group.command(cmd_name)(command)
        return get_group(group).get_command(ctx, cmd_name)


app = typer.Typer(
    cls=_Commands,
    help="The virtual ML engineer for sequential recommenders.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Home = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else the user-data folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"virtualmle {installed_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. May also follow the command.")] = False,
) -> None: ...


@app.command()
def serve(
    home: Home = None,
    http: Annotated[
        str | None,
        typer.Option("--http", metavar="HOST:PORT", help="Listen on HTTP at this address instead of on stdin."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="F",
            envvar="VIRTUALMLE_TOKEN_FILE",
            help="File of accepted bearer tokens, one per line.",
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", metavar="DIR", help="Answer trainings from the recorded tables in DIR, in a home of their own."
        ),
    ] = None,
    owner: Annotated[int | None, typer.Option("--owner", hidden=True)] = None,
    conformance: Annotated[
        str | None, typer.Option("--conformance", hidden=True, help="A module whose register(server) adds fixtures.")
    ] = None,
) -> None:
    """Serve MCP over stdin and stdout, or over HTTP."""
    if owner is not None:
        from server.owner.process import run_detached

        settings = load_settings(home)
        make_home(settings)
        run_detached(settings, lock=owner)
        return
    settings = home_for(home, replay)
    make_home(settings)
    if http is not None:
        from server.owner.foreground import serve_http

        serve_http(settings, http, token_file, conformance)
    else:
        from server.client.bridge import run_bridge
        from server.client.endpoint import LocalEndpoint

        if replay is not None:
            typer.echo(f"{settings.home} replays the trainings recorded in {replay}; nothing is trained.", err=True)
        run_bridge(LocalEndpoint(settings))


@app.command()
def bridge(
    url: Annotated[str, typer.Option(metavar="U", help="The server's MCP endpoint, such as https://host/mcp.")],
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="F", envvar="VIRTUALMLE_TOKEN_FILE", help="File of the bearer token."),
    ] = None,
) -> None:
    """Connect a client that speaks only stdio to a remote server."""
    from server.client.bridge import run_bridge
    from server.client.endpoint import RemoteEndpoint, read_token

    run_bridge(RemoteEndpoint(url, read_token(token_file) if token_file else None))


@app.command()
def stop(home: Home = None, as_json: Json = False) -> None:
    """Stop the home's owner. A trial in training is interrupted."""
    from server.client.stop import stop_owner

    settings = load_settings(home)
    stopped = stop_owner(settings)
    if as_json:
        typer.echo(json.dumps(stopped.model_dump() if stopped else None))
    elif stopped is None:
        typer.echo(f"No owner runs for {settings.home}.")
    else:
        typer.echo(f"Stopped the owner of {settings.home} (pid {stopped.pid}).")
        for trial_id in stopped.interrupted:
            typer.echo(f"Interrupted trial {trial_id}; the same run_trial starts it again.")
        for trial_id in stopped.queued:
            typer.echo(f"Trial {trial_id} stays queued; the next owner starts it.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    before_separator = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in before_separator
    words = [word for word in before_separator if word != "--debug"] + words[len(before_separator) :]
    try:
        get_command(app)(words, prog_name="virtualmle")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        if debug:
            raise
        cause = cause_of(error)
        if isinstance(cause, KeyboardInterrupt):
            return 130
        print(f"virtualmle: {_describe(cause)}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _describe(error: BaseException) -> str:
    """One line for the user: the message of our own and of system errors, any other error with its type."""
    text = " ".join(str(error).split())
    if type(error).__module__.partition(".")[0] in _OURS:
        return text
    if isinstance(error, OSError):
        named = f": {error.filename}" if error.filename is not None else ""
        return f"{error.strerror or text}{named}"
    return f"{type(error).__name__}: {text}; --debug shows where."
