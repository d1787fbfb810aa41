"""The virtualmle commands; each a few lines over the owner, its tools or the datasets."""

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

from server.causes import cause_of
from server.home import prepare_home
from server.settings import load_settings
from server.version import installed_version

_LATER = {
    "connect": "server.cli_connect:connect",
    "status": "server.cli_host:status",
    "doctor": "server.cli_host:doctor",
    "open": "server.cli_host:open_page",
    "backup": "server.cli_backup:backup",
    "restore": "server.cli_backup:restore",
    "drive": "server.drive.cli:drive",
    "data": "server.cli_data:app",
    "trainer": "server.cli_trainer:app",
    "study": "server.cli_memory:study",
    "memory": "server.cli_memory:memory",
    "compare": "server.cli_memory:compare",
    "export": "server.cli_takehome:export",
    "recommend": "server.cli_takehome:recommend",
}
"""Commands whose modules are loaded when they are asked for: `serve` must not wait for them."""

_OURS = ("server", "memory", "trainers", "prompts")


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_LATER]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _LATER:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = _LATER[cmd_name].partition(":")
        found = getattr(import_module(module), attribute)
        group = typer.Typer(add_completion=False, rich_markup_mode=None)
        if isinstance(found, typer.Typer):
            group.add_typer(found, name=cmd_name)
        else:
            group.command(cmd_name)(found)
        return get_group(group).get_command(ctx, cmd_name)


app = typer.Typer(
    cls=_Commands,
    help="The virtual ML engineer for sequential recommenders.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Home = Annotated[Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else user data.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"virtualmle {installed_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; works after the command, too.")] = False,
) -> None: ...


@app.command()
def serve(
    home: Home = None,
    http: Annotated[
        str | None, typer.Option("--http", metavar="HOST:PORT", help="Listen here instead of on stdin.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="F", envvar="VIRTUALMLE_TOKEN_FILE", help="Bearer tokens, one a line."),
    ] = None,
    owner: Annotated[int | None, typer.Option("--owner", hidden=True)] = None,
    conformance: Annotated[
        str | None, typer.Option("--conformance", hidden=True, help="A module whose register(server) adds fixtures.")
    ] = None,
) -> None:
    """Serve MCP: over stdin and stdout, or over HTTP."""
    settings = load_settings(home)
    prepare_home(settings)
    if owner is not None:
        from server.owner import run_detached

        run_detached(settings, lock=owner)
    elif http is not None:
        from server.foreground import serve_http

        serve_http(settings, http, token_file, conformance)
    else:
        from server.bridge import run_bridge
        from server.reach import NearReach

        run_bridge(NearReach(settings))


@app.command()
def bridge(
    url: Annotated[str, typer.Option(metavar="U", help="Of the server's MCP endpoint, as https://host/mcp.")],
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="F", envvar="VIRTUALMLE_TOKEN_FILE", help="Its bearer token."),
    ] = None,
) -> None:
    """Serve MCP over stdin and stdout for a server elsewhere: for clients that only start commands."""
    from server.bridge import run_bridge
    from server.reach import FarReach, read_token

    run_bridge(FarReach(url, read_token(token_file) if token_file else None))


@app.command()
def stop(home: Home = None, as_json: Json = False) -> None:
    """End the home's owner; a trial that it is training is interrupted."""
    from server.ending import stop_owner

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
    """Run one command line; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in own
    given = [word for word in own if word != "--debug"] + given[len(own) :]
    try:
        get_command(app)(given, prog_name="virtualmle")
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
    """One line: our own errors are written for the user, as are the system's; others say what they are."""
    text = " ".join(str(error).split())
    if type(error).__module__.partition(".")[0] in _OURS:
        return text
    if isinstance(error, OSError):
        named = f": {error.filename}" if error.filename is not None else ""
        return f"{error.strerror or text}{named}"
    return f"{type(error).__name__}: {text}; --debug shows where."


if __name__ == "__main__":
    sys.exit(main())
