"""serve --http: the owner in the foreground, at an address that was asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import typer

from server.auth import read_tokens
from server.ending import make_way
from server.home import HomeError, take_lock
from server.owner import Address, run_foreground
from server.settings import Settings

_ATTEMPTS = 3


def serve_http(settings: Settings, given: str, token_file: Path | None, fixtures: str | None = None) -> None:
    """Own the home at HOST:PORT, in the place of an idle detached owner; wrong usage is a typer.BadParameter.

    `fixtures` names a module that adds to the app what a conformance suite wants of it.
    """
    address = parse_address(given)
    tokens = read_tokens(token_file) if token_file is not None else ()
    if not tokens and not address.is_loopback:
        raise typer.BadParameter(
            f"{address.host} can be reached from elsewhere: give --token-file F (one token a line), or listen on "
            f"127.0.0.1:{address.port}.",
            param_hint="--http",
        )
    with address.listen() as listener, _take_place(settings):
        host = f"[{address.host}]" if ":" in address.host else address.host
        url = f"http://{host}:{listener.getsockname()[1]}/mcp"
        line = f"VirtualMLE serves {settings.home} at {url}"
        run_foreground(
            settings, address, tokens, listener, lambda: print(line, file=sys.stderr, flush=True), fixtures  # noqa: T201
        )  # fmt: skip


def _take_place(settings: Settings) -> BinaryIO:
    """The home's lock, after an idle owner has made way."""
    for _ in range(_ATTEMPTS):  # a client that comes between the two lines starts another one
        make_way(settings)
        if (lock := take_lock(settings)) is not None:
            return lock
    raise HomeError(f"{settings.home} is taken by another owner; end it with `virtualmle stop`.")


def parse_address(given: str) -> Address:
    """HOST:PORT, an IPv6 address in brackets; a bare port listens on loopback."""
    host, _, port = given.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not port.isdecimal() or int(port) > 65535:
        raise typer.BadParameter(f"{given!r} is not HOST:PORT, such as 127.0.0.1:8000.", param_hint="--http")
    return Address(host, int(port))
