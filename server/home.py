"""connect(home): a client of the home's owner, which is found by owner.json or started detached."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import anyio
import httpx2
import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

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
CREDIT_PATH = "/owner/credit"

OWNER_ENDED = "The owner ended during this call; repeat it — a trial that had finished is kept."

START_SECONDS = 30.0
_ANSWER_SECONDS = 10.0
_POLL_SECONDS = 0.02
_MAX_LOG_BYTES = 1_000_000

_started: list[subprocess.Popen[bytes]] = []
"""Owners that this process started; kept so that an ended one is reaped and not left a zombie."""


class HomeError(RuntimeError):
    """No owner can be had for a home; the message says why and what to do."""


class Owner(BaseModel):
    """owner.json: where the owner of a home listens, and the private token that it admits."""

    model_config = ConfigDict(frozen=True)

    pid: int
    create_time: float
    host: str
    port: int
    token: str
    version: str
    started: str
    page_token: str = ""
    """Of the study page: it may look, and no more."""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def __repr__(self) -> str:
        return f"Owner(pid={self.pid}, url={self.url!r})"

    __str__ = __repr__


def prepare_home(settings: Settings) -> None:
    """Make the home's folder; HomeError where it cannot hold one."""
    home = settings.home
    if home.exists() and not home.is_dir():
        raise HomeError(f"{home} is a file, not a folder; name another home with --home.")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HomeError(f"{home} cannot be made: {error.strerror}; name another home with --home.") from None
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise HomeError(f"{home} cannot be written to; name another home with --home.")


def is_running(pid: int, create_time: float) -> bool:
    """Whether that very process lives: ids are reused, start times are not."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - create_time) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def find_owner(settings: Settings) -> Owner | None:
    """The owner that owner.json names, if it lives."""
    _started[:] = [process for process in _started if process.poll() is None]
    try:
        owner = Owner.model_validate_json(settings.owner_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValidationError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise HomeError(f"{settings.owner_file} cannot be read: {error.strerror}.") from None
    return owner if is_running(owner.pid, owner.create_time) else None


async def find_or_start(settings: Settings) -> Owner:
    """The home's owner; where there is none, one is started and waited for."""
    prepare_home(settings)
    ends = time.monotonic() + START_SECONDS
    process: subprocess.Popen[bytes] | None = None
    logged = 0
    while True:
        if owner := find_owner(settings):
            return _same_version(settings, owner)
        if process is not None and (code := process.poll()) is not None:
            if code != 0:
                raise HomeError(f"The owner did not start: {_last_line(settings, logged, code)}")
            process = None  # it was told to end before it was seen here
        if process is None and (lock := take_lock(settings)) is not None:
            with lock:
                process, logged = _start(settings, lock)
        if time.monotonic() > ends:
            raise HomeError(
                f"{settings.home} has an owner that does not listen; {_log_path(settings)} may say why, "
                "and `virtualmle stop` ends it."
            )
        await anyio.sleep(_POLL_SECONDS)


def take_lock(settings: Settings) -> BinaryIO | None:
    """The home's lock, held as long as the file or a copy of it is open in any process; None where it is taken."""
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


def _same_version(settings: Settings, owner: Owner) -> Owner:
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
    """Start an owner in a session of its own, which inherits the lock; returns it and the length of its log before."""
    path = _log_path(settings)
    try:
        with path.open("ab") as log:
            if log.tell() > _MAX_LOG_BYTES:
                log.truncate(0)
            before = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "server", "--owner", str(lock.fileno()), "--home", str(settings.home)],
                cwd=settings.home,
                env=_own_packages(dict(os.environ)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
            )
    except OSError as error:
        raise HomeError(f"{settings.home} cannot be used as a home: {error.strerror}.") from None
    _started.append(process)
    return process, before


def _own_packages(environment: dict[str, str]) -> dict[str, str]:
    """Our packages win over namesakes in any current folder, in the owner and in what it starts."""
    environment["PYTHONSAFEPATH"] = "1"
    root = Path(__file__).parents[1]
    if (root / "pyproject.toml").exists():  # a clone; an installed package needs no help, and site-packages no second
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{known}" if known else str(root)
    return environment


def _last_line(settings: Settings, logged: int, code: int) -> str:
    try:
        with _log_path(settings).open("rb") as log:
            log.seek(logged)
            lines = log.read().decode("utf-8", "replace").split("\n")
    except OSError:
        lines = []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("virtualmle: ") if said else f"it ended with exit code {code}."


def open_http(owner: Owner) -> httpx2.AsyncClient:
    """An HTTP client of one owner: its own machine, so no proxy and no certificates; answers may take their time."""
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
    """An HTTP client of the home's owner, counted as one of its clients as long as this is open.

    The second value is the response that says so: its body ends when the owner does.
    """
    ends = time.monotonic() + START_SECONDS
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
        if time.monotonic() > ends:  # it may just be ending, so not at the first failure
            raise HomeError(f"The owner (pid {owner.pid}) does not answer ({problem}); end it with `virtualmle stop`.")
        await anyio.sleep(_POLL_SECONDS)
    try:
        yield http, presence
    finally:
        with anyio.CancelScope(shield=True):
            await presence.aclose()
            await http.aclose()


class OwnerRefused(RuntimeError):
    """The owner understood and said no; the message is its own."""


async def asked(home: Path | None, method: str, path: str, content: str | None = None) -> bytes:
    """What the home's owner answers on one of its private routes; raises OwnerRefused with its words."""
    async with attach(load_settings(home)) as (http, _):
        try:
            response = await http.request(method, path, content=content)
        except httpx2.TransportError:
            raise HomeError(OWNER_ENDED) from None
    if response.status_code == 409:
        raise OwnerRefused(response.json()["error"])
    if response.status_code != 200:
        raise HomeError(OWNER_ENDED)
    return response.content


@asynccontextmanager
async def connect(home: Path | None = None) -> AsyncGenerator[Client]:
    """An MCP client of the home's owner, which is started where there is none and stays when the client goes."""
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
