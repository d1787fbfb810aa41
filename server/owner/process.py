"""The owner process of a home: holds the home's lock, listens, writes its address to owner.json, and ends cleanly."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

import anyio
import psutil
import uvicorn
from anyio.abc import TaskStatus

from server.auth import OWNER, PAGE, Token, Tokens
from server.client.home import HomeError, find_owner
from server.client.owner_record import Kind, Owner
from server.owner.connections import LimitedConnection
from server.settings import Settings
from server.version import installed_version

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn._types import ASGIApplication

    from server.owner.activity import Activity
    from server.runtime import Runtime

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_IDLE_CHECK_SECONDS = 5.0


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 lets the system choose."""

    host: str = "127.0.0.1"
    port: int = 0

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def names(self) -> tuple[str, ...]:
        """Host headers that name this address."""
        if self.host in _ANY_ADDRESS:
            return ()
        return (f"[{self.host}]" if ":" in self.host else self.host,)

    def listen(self) -> socket.socket:
        """A listening socket. Raises OSError with a message that names the address."""
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            listener = socket.create_server((self.host, self.port), family=family, backlog=128)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise OSError(error.errno, f"cannot listen on {self.host}:{self.port}: {reason}") from None
        # asyncio sets it only where the socket's proto says TCP; without it an answer waits 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener


def run_detached(settings: Settings, lock: int) -> None:
    """Own the home on a loopback port of the system's choice until the owner has been idle for long enough.

    `lock` is the descriptor of the home's lock, which the process that started this one had taken.
    """
    os.set_inheritable(lock, False)
    address = Address()
    with os.fdopen(lock, "ab"), address.listen() as listener:
        anyio.run(_run_owner, settings, listener, address, Tokens(_private_token(), page=_page_token()), "detached")


def run_foreground(
    settings: Settings, address: Address, listed: tuple[Token, ...], listener: socket.socket,
    on_listening: Callable[[], None], fixtures: str | None = None,
) -> None:  # fmt: skip
    """Own the home at an address until a signal or `virtualmle stop`.

    Raises KeyboardInterrupt after Ctrl-C, and HomeError where another process asked it to end. The caller holds the
    home's lock. `on_listening` is called once the owner answers.
    """
    tokens = Tokens(_private_token(), listed, required=bool(listed), page=_page_token())
    anyio.run(_run_owner, settings, listener, address, tokens, "foreground", on_listening, fixtures)


def _private_token() -> Token:
    return Token(secrets.token_urlsafe(32), OWNER)


def _page_token() -> Token:
    """The token in the study page's address. Browsers remember addresses, so it may only read."""
    return Token(secrets.token_urlsafe(32), PAGE, "read")


async def _run_owner(
    settings: Settings,
    listener: socket.socket,
    address: Address,
    tokens: Tokens,
    kind: Kind,
    on_listening: Callable[[], None] | None = None,
    fixtures: str | None = None,
) -> None:
    from server.owner.access_log import log_json_lines

    if kind == "detached":  # people read a detached owner's log, and see its last line where the owner does not start
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    else:
        log_json_lines()
    from server.owner.activity import Activity
    from server.owner.assembly import open_runtime
    from server.owner.web import build_web

    activity = Activity(kind)
    signals: list[int] = []
    async with anyio.create_task_group() as tasks:
        await tasks.start(_stop_on_signal, activity, signals)
        async with open_runtime(settings) as runtime:
            web = build_web(runtime, tokens, activity, address.names, fixtures)
            server = _WebServer(web, settings, _describe_owner(listener, address, tokens, kind), on_listening)
            tasks.start_soon(server.end_when, activity.stopping)
            tasks.start_soon(_end_trials_when, activity.stopping, runtime)
            if kind == "detached":
                tasks.start_soon(_stop_when_idle, activity, runtime, settings.idle_seconds, server.listening)
            await server.serve(sockets=[listener])
        tasks.cancel_scope.cancel()
    if signal.SIGINT in signals:
        raise KeyboardInterrupt
    if kind == "foreground" and activity.ended_by_other:  # exit code 1, so that a service manager starts it again
        raise HomeError(f"The owner of {settings.home} ended because another process asked it to.")


class _WebServer(uvicorn.Server):
    """A uvicorn server that announces itself in owner.json while it listens, and leaves signals to us.

    uvicorn's own handling raises SIGTERM again at its end, before the trials and the database are closed.
    """

    def __init__(self, web: ASGIApp, settings: Settings, owner: Owner, on_listening: Callable[[], None] | None) -> None:
        super().__init__(
            uvicorn.Config(
                cast("ASGIApplication", web),  # starlette and uvicorn have different types for one protocol
                http=LimitedConnection,
                h11_max_incomplete_event_size=LimitedConnection.limits.header_bytes,
                log_config=None,
                access_log=False,
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=3,
                # Longer than clients keep a connection, so that the server never closes one during a request.
                timeout_keep_alive=75,
            )
        )
        self._settings = settings
        self._owner = owner
        self._on_listening = on_listening
        self.listening = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        write_owner(self._settings, self._owner)
        self.listening.set()
        if self._on_listening is not None:
            self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        remove_owner(self._settings)
        await super().shutdown(sockets)

    async def end_when(self, stopping: anyio.Event) -> None:
        await stopping.wait()
        self.should_exit = True


def _describe_owner(listener: socket.socket, address: Address, tokens: Tokens, kind: Kind) -> Owner:
    process = psutil.Process()
    return Owner(
        pid=process.pid,
        create_time=process.create_time(),
        host=_ANY_ADDRESS.get(address.host, address.host),
        port=listener.getsockname()[1],
        token=tokens.private.value,
        version=installed_version(),
        page_token=tokens.page.value if tokens.page is not None else "",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        kind=kind,
    )


def write_owner(settings: Settings, owner: Owner) -> None:
    """Write owner.json atomically, readable by its user alone."""
    partial = settings.owner_file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(owner.model_dump_json())
    partial.replace(settings.owner_file)


def remove_owner(settings: Settings) -> None:
    """Remove owner.json if it names this process."""
    owner = find_owner(settings)
    if owner is not None and owner.pid == os.getpid():
        settings.owner_file.unlink(missing_ok=True)


async def _stop_on_signal(activity: Activity, received: list[int], *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            received.append(number)
            activity.stopping.set()


async def _end_trials_when(stopping: anyio.Event, runtime: Runtime) -> None:
    """Ends trials while calls in flight may still finish, so that a call waiting for a trial learns how it ended."""
    await stopping.wait()
    await runtime.autopilot.aclose()
    await runtime.supervisor.aclose()


async def _stop_when_idle(activity: Activity, runtime: Runtime, idle_seconds: float, listening: anyio.Event) -> None:
    await listening.wait()
    activity.touch()
    while (left := idle_seconds - activity.idle_seconds) > 0:
        await anyio.sleep(min(left, _IDLE_CHECK_SECONDS))
        if runtime.supervisor.busy or runtime.autopilot.studies:
            activity.touch()
    activity.stopping.set()
