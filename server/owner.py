"""The owner process of a home: takes the home's lock, listens, tells where in owner.json, and ends cleanly."""

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

from server.auth import Token, Tokens
from server.home import Owner, find_owner
from server.settings import Settings
from server.version import installed_version

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn._types import ASGIApplication

    from server.runtime import Runtime
    from server.web import Activity

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_IDLE_CHECK_SECONDS = 5.0
PAGE = "page"


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
        """A listening socket; OSError with a message that names the address."""
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            listener = socket.create_server((self.host, self.port), family=family, backlog=128)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise OSError(error.errno, f"cannot listen on {self.host}:{self.port}: {reason}") from None
        # asyncio sets it only where it can tell TCP from the socket's proto; without it an answer waits 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener


def run_detached(settings: Settings, lock: int) -> None:
    """Own the home on a loopback port of the system's choice until nobody needs it any more.

    `lock`: the descriptor of the home's lock, which whoever started this process had taken.
    """
    os.set_inheritable(lock, False)
    address = Address()
    with os.fdopen(lock, "ab"), address.listen() as listener:
        anyio.run(_run, settings, listener, address, Tokens(_private_token(), (_page_token(),)), True)


def run_foreground(
    settings: Settings, address: Address, listed: tuple[Token, ...], listener: socket.socket, say: Callable[[], None],
    fixtures: str | None = None,
) -> None:  # fmt: skip
    """Own the home at an address until a signal or `virtualmle stop`; KeyboardInterrupt after Ctrl-C.

    The caller holds the home's lock. `say` is called once the owner answers.
    """
    tokens = Tokens(_private_token(), (*listed, _page_token()), required=bool(listed))
    anyio.run(_run, settings, listener, address, tokens, False, say, fixtures)


def _private_token() -> Token:
    return Token(secrets.token_urlsafe(32), "owner")


def _page_token() -> Token:
    """Goes into the address of a page, which browsers remember, so it may only look."""
    return Token(secrets.token_urlsafe(32), PAGE, "read")


async def _run(
    settings: Settings,
    listener: socket.socket,
    address: Address,
    tokens: Tokens,
    idles: bool,
    say: Callable[[], None] | None = None,
    fixtures: str | None = None,
) -> None:
    from server.httplog import log_json_lines

    if idles:  # a detached owner's log is read by its user, who sees the end of it where it does not start
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    else:
        log_json_lines()
    from server.runtime import open_runtime
    from server.web import Activity, build_web

    activity = Activity()
    signals: list[int] = []
    async with anyio.create_task_group() as tasks:
        await tasks.start(_stop_on_signal, activity, signals)
        async with open_runtime(settings) as runtime:
            web = build_web(runtime, tokens, activity, address.names, fixtures)
            server = _WebServer(web, settings, _describe(listener, address, tokens), say)
            tasks.start_soon(server.end_when, activity.stopping)
            tasks.start_soon(_end_trials_when, activity.stopping, runtime)
            if idles:
                tasks.start_soon(_stop_when_idle, activity, runtime, settings.idle_seconds, server.listening)
            await server.serve(sockets=[listener])
        tasks.cancel_scope.cancel()
    if signal.SIGINT in signals:
        raise KeyboardInterrupt


class _WebServer(uvicorn.Server):
    """uvicorn that announces itself in owner.json while it listens, and leaves signals to us.

    Its own handling raises SIGTERM again at the end, before the trials and the database are closed.
    """

    def __init__(self, web: ASGIApp, settings: Settings, owner: Owner, say: Callable[[], None] | None) -> None:
        super().__init__(
            uvicorn.Config(
                cast("ASGIApplication", web),  # starlette's and uvicorn's types of the same protocol
                log_config=None,
                access_log=False,
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=3,
                # Longer than clients keep a connection, so that it is never we who close one under a request.
                timeout_keep_alive=75,
            )
        )
        self._settings = settings
        self._owner = owner
        self._say = say
        self.listening = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        write_owner(self._settings, self._owner)
        self.listening.set()
        if self._say is not None:
            self._say()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        remove_owner(self._settings)
        await super().shutdown(sockets)

    async def end_when(self, stopping: anyio.Event) -> None:
        await stopping.wait()
        self.should_exit = True


def _describe(listener: socket.socket, address: Address, tokens: Tokens) -> Owner:
    process = psutil.Process()
    return Owner(
        pid=process.pid,
        create_time=process.create_time(),
        host=_ANY_ADDRESS.get(address.host, address.host),
        port=listener.getsockname()[1],
        token=tokens.private.value,
        version=installed_version(),
        page_token=next(token.value for token in tokens.listed if token.name == PAGE),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write_owner(settings: Settings, owner: Owner) -> None:
    """Write owner.json, readable by its user alone, in one step."""
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
    """Trials end while calls in flight have their grace, so that whoever waits for one is told what became of it."""
    await stopping.wait()
    await runtime.autopilot.aclose()
    await runtime.supervisor.aclose()


async def _stop_when_idle(activity: Activity, runtime: Runtime, idle_seconds: float, listening: anyio.Event) -> None:
    await listening.wait()
    activity.touch()
    while (left := idle_seconds - activity.idle_seconds) > 0:
        await anyio.sleep(min(left, _IDLE_CHECK_SECONDS))
        if runtime.supervisor.active or runtime.autopilot.studies:
            activity.touch()
    activity.stopping.set()
