"""Ends a home's owner: for `virtualmle stop`, and for a foreground owner that replaces an idle one."""

from __future__ import annotations

import os
import signal
import time

import httpx2
from pydantic import BaseModel

from server.client.home import MCP_PATH, STATUS_PATH, STOP_PATH, HomeError, find_owner
from server.client.owner_record import Owner, is_running
from server.client.status import Status, StopBy
from server.settings import Settings

_ANSWER_SECONDS = 5.0
_END_SECONDS = 10.0
_SETTLE_SECONDS = 1.0
_POLL_SECONDS = 0.02


class Stopped(BaseModel):
    """An owner that was ended, the trials that it left interrupted, and those that the next owner starts."""

    pid: int
    interrupted: list[str] = []
    queued: list[str] = []


def stop_owner(settings: Settings) -> Stopped | None:
    """Ends the home's owner and waits until it is gone; None where none runs. Raises HomeError if it does not end."""
    owner = find_owner(settings)
    if owner is None:
        return None
    try:
        status = _request_stop(owner, "user")
    except httpx2.HTTPError:
        status = None
        _terminate(owner)
    if not _wait_for_end(owner):
        _terminate(owner)
        if not _wait_for_end(owner):
            raise HomeError(f"The owner (pid {owner.pid}) does not end; `kill -9 {owner.pid}` ends it.")
    if status is None:
        return Stopped(pid=owner.pid)
    return Stopped(pid=owner.pid, interrupted=status.running, queued=status.queued)


def owner_status(owner: Owner) -> Status:
    """What a running owner reports about itself. Raises HomeError where it does not answer."""
    try:
        return _request_status(owner, "GET", STATUS_PATH)
    except httpx2.HTTPError as error:
        raise HomeError(
            f"The owner (pid {owner.pid}) does not answer ({type(error).__name__}); end it with `virtualmle stop`."
        ) from None


def stop_idle_owner(settings: Settings) -> None:
    """Ends the home's owner if it is a detached one that nobody uses. Raises HomeError where it stays."""
    owner = check_makes_way(settings)
    if owner is None:
        return
    try:
        _request_stop(owner, "successor")
    except httpx2.HTTPStatusError:
        raise HomeError(_stays(settings, owner, f"in use (pid {owner.pid})")) from None  # since a moment ago
    except httpx2.HTTPError:
        pass  # it is ending already; if not, its lock says so
    _wait_for_end(owner)


def check_makes_way(settings: Settings) -> Owner | None:
    """The home's owner, which is detached and idle; None where none runs. Raises HomeError where it would stay."""
    owner = find_owner(settings)
    if owner is None:
        return None
    if owner.kind != "detached":
        kind = "in the foreground" if owner.kind else f"of version {owner.version}, perhaps in the foreground"
        raise HomeError(_stays(settings, owner, f"{kind} (pid {owner.pid})"))
    try:
        status = _settled_status(owner)
    except httpx2.HTTPError as error:
        if not is_running(owner.pid, owner.create_time):
            return None
        raise HomeError(
            _stays(settings, owner, f"that does not answer (pid {owner.pid}; {type(error).__name__})")
        ) from None
    if status.clients or status.busy:
        users = f"{status.clients} client{'s' if status.clients != 1 else ''}"
        working = ", training" if status.busy else ""
        raise HomeError(_stays(settings, owner, f"in use (pid {owner.pid}; {users}{working})"))
    return owner


def _stays(settings: Settings, owner: Owner, state: str) -> str:
    return f"{settings.home} has an owner at {owner.url}{MCP_PATH} {state}; end it with `virtualmle stop`."


def _settled_status(owner: Owner) -> Status:
    """The owner's status, after it has had time to notice that a client has just left."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (status := _request_status(owner, "GET", STATUS_PATH)).clients and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return status


def _request_status(owner: Owner, method: str, path: str) -> Status:
    with httpx2.Client(base_url=owner.url, headers=owner.headers, trust_env=False, verify=False) as http:
        response = http.request(method, path, timeout=_ANSWER_SECONDS).raise_for_status()
    return Status.model_validate_json(response.content)


def _request_stop(owner: Owner, by: StopBy) -> Status:
    return _request_status(owner, "POST", f"{STOP_PATH}?by={by}")


def _terminate(owner: Owner) -> None:
    if is_running(owner.pid, owner.create_time):
        try:
            os.kill(owner.pid, signal.SIGTERM)
        except PermissionError:
            raise HomeError(f"The owner (pid {owner.pid}) belongs to another user, who must end it.") from None
        except ProcessLookupError:
            pass


def _wait_for_end(owner: Owner) -> bool:
    # Not psutil's wait, which takes a zombie that its parent has not reaped yet for a running process.
    deadline = time.monotonic() + _END_SECONDS
    while is_running(owner.pid, owner.create_time):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
