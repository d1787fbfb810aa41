"""serve --http: the owner in the foreground, at a given address."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import BinaryIO

import typer

from server.auth import read_tokens
from server.client.home import HomeError, take_lock
from server.client.stop import check_makes_way, stop_idle_owner
from server.owner.process import Address, run_foreground
from server.replay.marker import read_replay_home
from server.settings import Settings

_LOCK_SECONDS = 15.0
_POLL_SECONDS = 0.05


def serve_http(settings: Settings, http_address: str, token_file: Path | None, fixtures: str | None = None) -> None:
    """Own the home at HOST:PORT, in place of an idle detached owner.

    Raises typer.BadParameter for wrong usage, and HomeError where another owner has the home or ends this one.

    `fixtures` names a module that adds what a conformance suite needs to the app.
    """
    address = parse_address(http_address)
    tokens = read_tokens(token_file) if token_file is not None else ()
    if not tokens and not address.is_loopback:
        raise typer.BadParameter(
            f"{address.host} can be reached from elsewhere: give --token-file F (one token a line), or listen on "
            f"127.0.0.1:{address.port}.",
            param_hint="--http",
        )
    check_makes_way(settings)  # first: an owner that stays may also have the address
    with address.listen() as listener, _take_lock(settings):
        host = f"[{address.host}]" if ":" in address.host else address.host
        url = f"http://{host}:{listener.getsockname()[1]}/mcp"
        replay = read_replay_home(settings)
        kind = "" if replay is None else f", a replay of {replay.tables}"
        line = f"VirtualMLE serves {settings.home} at {url}{kind}"
        run_foreground(
            settings, address, tokens, listener, lambda: print(line, file=sys.stderr, flush=True), fixtures  # noqa: T201
        )  # fmt: skip


def _take_lock(settings: Settings) -> BinaryIO:
    """The home's lock, after an idle detached owner was stopped. Raises HomeError where another owner stays.

    An owner that is starting holds the lock before it says where it listens; then this waits until it has.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        stop_idle_owner(settings)
        if (lock := take_lock(settings)) is not None:
            return lock
        if time.monotonic() > deadline:
            raise HomeError(
                f"{settings.home} has an owner that does not say where it listens; end the process that holds "
                f"{settings.home / 'owner.lock'} (`fuser` names it), or name another home with --home."
            )
        time.sleep(_POLL_SECONDS)


def parse_address(text: str) -> Address:
    """Parses HOST:PORT, with an IPv6 address in brackets; a bare port listens on loopback."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not port.isdecimal() or int(port) > 65535:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8000.", param_hint="--http")
    return Address(host, int(port))
