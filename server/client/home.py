"""connect(home): a client of the home's owner, which is found through owner.json or started detached."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import anyio
import httpx2

from server.client.owner_record import Owner, is_running, read_owner
from server.settings import Settings, load_settings
from server.version import installed_version

if TYPE_CHECKING:
    from mcp import Client

MCP_PATH = "/mcp"
STATUS_PATH = "/owner/status"
STOP_PATH = "/owner/stop"
PRESENCE_PATH = "/owner/presence"
BACKUP_PATH = "/owner/backup"
EXPORT_PATH = "/owner/export"
RECOMMEND_PATH = "/owner/recommend"
PACK_PATH = "/owner/pack"
PACKS_PATH = "/owner/packs"
CREDIT_PATH = "/owner/credit"

OWNER_ENDED = "The owner ended during this call; repeat it — a trial that had finished is kept."

START_SECONDS = 30.0
_ANSWER_SECONDS = 10.0
_POLL_SECONDS = 0.02
_MAX_LOG_BYTES = 1_000_000

_started: list[subprocess.Popen[bytes]] = []
"""Owners that this process started, kept so that an ended one is reaped rather than left a zombie."""


class HomeError(RuntimeError):
    """A home's owner cannot be started or reached; the message says why and what to do."""


def make_home(settings: Settings) -> None:
    """Creates the home and its folders, for its user alone: notes and run directories reveal the user's data.

    A folder that is there is closed to others where it is empty or was a home before. Raises HomeError where the
    folder cannot be a home.
    """
    home = settings.home
    if home.exists() and not home.is_dir():
        raise HomeError(f"{home} is a file, not a folder; name another home with --home.")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(home.iterdir()) or settings.database.exists() or (home / "owner.lock").exists():
            _close_to_others(home)
        for folder in (settings.datasets_dir, settings.trials_dir, settings.reports_dir, settings.trainers_dir):
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise HomeError(f"{home} cannot be made: {error.strerror}; name another home with --home.") from None
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise HomeError(f"{home} cannot be written to; name another home with --home.")


def _close_to_others(folder: Path) -> None:
    """Makes a folder its user's alone, unless it belongs to another user or serves other purposes, too."""
    if sys.platform == "win32":
        return
    status = folder.stat()
    shared = status.st_mode & stat.S_ISVTX or folder.parent == folder or (folder / ".profile").exists()
    if status.st_uid == os.geteuid() and not shared:
        folder.chmod(0o700)


def find_owner(settings: Settings) -> Owner | None:
    """The owner that owner.json names, if its process is alive. Raises HomeError where the file cannot be read."""
    _started[:] = [process for process in _started if process.poll() is None]
    try:
        owner = read_owner(settings.owner_file)
    except OSError as error:
        raise HomeError(f"{settings.owner_file} cannot be read: {error.strerror}; remove it.") from None
    return owner if owner is not None and is_running(owner.pid, owner.create_time) else None


async def find_or_start(settings: Settings) -> Owner:
    """The home's owner; if none runs, starts one and waits for it. Raises HomeError."""
    make_home(settings)
    deadline = time.monotonic() + START_SECONDS
    process: subprocess.Popen[bytes] | None = None
    log_start = 0
    while True:
        if owner := find_owner(settings):
            return _require_same_version(settings, owner)
        if process is not None and (code := process.poll()) is not None:
            if code != 0:
                raise HomeError(f"The owner did not start: {_last_line(settings, log_start, code)}")
            process = None  # it was told to end before it was found here
        if process is None and (lock := take_lock(settings)) is not None:
            with lock:
                process, log_start = _start(settings, lock)
        if time.monotonic() > deadline:
            raise HomeError(
                f"{settings.home} has an owner that does not listen; {_log_path(settings)} may say why, "
                "and `virtualmle stop` ends it."
            )
        await anyio.sleep(_POLL_SECONDS)


def take_lock(settings: Settings) -> BinaryIO | None:
    """The home's lock, or None where it is taken. It is held while its file or a copy of it is open in any process."""
    try:
        import fcntl
    except ImportError:
        raise HomeError(
            "A home needs Linux or macOS. Here, use WSL, or a server elsewhere: `virtualmle bridge --url U`, or ssh."
        ) from None
    try:
        lock = (settings.home / "owner.lock").open("ab")
    except OSError as error:
        raise HomeError(f"{settings.home} cannot be used as a home: {error.strerror}.") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _require_same_version(settings: Settings, owner: Owner) -> Owner:
    ours = installed_version()
    if owner.version != ours:
        raise HomeError(
            f"The owner of {settings.home} is version {owner.version} and this is {ours}; "
            "end it with `virtualmle stop`, and the next call starts one of this version."
        )
    return owner


def _log_path(settings: Settings) -> Path:
    return settings.home / "owner.log"


def _start(settings: Settings, lock: BinaryIO) -> tuple[subprocess.Popen[bytes], int]:
    """Starts an owner in its own session, which inherits the lock; returns it and the size of its log before that."""
    path = _log_path(settings)
    try:
        with path.open("ab") as log:
            if log.tell() > _MAX_LOG_BYTES:
                log.truncate(0)
            log_start = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "server", "--owner", str(lock.fileno()), "--home", str(settings.home)],
                cwd=settings.home,
                env=_prefer_our_packages(dict(os.environ)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
            )
    except OSError as error:
        raise HomeError(f"{settings.home} cannot be used as a home: {error.strerror}.") from None
    _started.append(process)
    return process, log_start


def _prefer_our_packages(environment: dict[str, str]) -> dict[str, str]:
    """Makes our packages win over others of the same name in the current folder, for the owner and its children."""
    environment["PYTHONSAFEPATH"] = "1"
    root = Path(__file__).parents[2]
    if (root / "pyproject.toml").exists():  # a clone; an installed package is on the path already
        path = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{path}" if path else str(root)
    return environment


def _last_line(settings: Settings, log_start: int, code: int) -> str:
    try:
        with _log_path(settings).open("rb") as log:
            log.seek(log_start)
            lines = log.read().decode("utf-8", "replace").split("\n")
    except OSError:
        lines = []
    texts = [line.strip() for line in lines if line.strip()]
    return texts[-1].removeprefix("virtualmle: ") if texts else f"it ended with exit code {code}."


def open_http(owner: Owner) -> httpx2.AsyncClient:
    """An HTTP client of an owner on this machine: no proxy, no certificates, no limit on the time of an answer."""
    return httpx2.AsyncClient(
        base_url=owner.url,
        headers=owner.headers,
        timeout=httpx2.Timeout(10.0, read=None),
        limits=httpx2.Limits(max_connections=None),
        trust_env=False,
        verify=False,
    )


@asynccontextmanager
async def attach(settings: Settings) -> AsyncGenerator[tuple[httpx2.AsyncClient, httpx2.Response]]:
    """An HTTP client of the home's owner, counted among its clients while this is open.

    The second value is the response to the presence request: its body ends when the owner does. Raises HomeError.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        owner = await find_or_start(settings)
        http = open_http(owner)
        try:
            with anyio.fail_after(_ANSWER_SECONDS):
                presence = await http.send(http.build_request("GET", PRESENCE_PATH), stream=True)
        except (httpx2.TransportError, TimeoutError) as error:
            problem = type(error).__name__
        else:
            if presence.status_code == 200:
                break
            problem = f"HTTP {presence.status_code}"
            await presence.aclose()
        await http.aclose()
        if time.monotonic() > deadline:  # not at the first failure: the owner may just be ending
            raise HomeError(f"The owner (pid {owner.pid}) does not answer ({problem}); end it with `virtualmle stop`.")
        await anyio.sleep(_POLL_SECONDS)
    try:
        yield http, presence
    finally:
        with anyio.CancelScope(shield=True):
            await presence.aclose()
            await http.aclose()


class OwnerRefused(RuntimeError):
    """The owner understood the request and refused it; the message is the owner's."""


async def request_owner(home: Path | None, method: str, path: str, content: str | None = None) -> bytes:
    """Sends a request to a private route of the home's owner; returns the body of the answer.

    Raises OwnerRefused with the owner's message, or HomeError.
    """
    async with attach(load_settings(home)) as (http, _):
        try:
            response = await http.request(method, path, content=content)
        except httpx2.TransportError:
            raise HomeError(OWNER_ENDED) from None
    if response.status_code in (400, 409):
        raise OwnerRefused(response.json()["error"])
    if response.status_code != 200:
        raise HomeError(OWNER_ENDED)
    return response.content


@asynccontextmanager
async def connect(home: Path | None = None) -> AsyncGenerator[Client]:
    """An MCP client of the home's owner, which is started if none runs and stays after the client has left."""
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async with attach(load_settings(home)) as (http, _):
        url = str(http.base_url.join(MCP_PATH))
        try:
            async with Client(streamable_http_client(url, http_client=http)) as client:
                yield client
        except BaseExceptionGroup as group:
            if group.split(httpx2.TransportError)[1] is None:
                raise HomeError(OWNER_ENDED) from group
            raise
