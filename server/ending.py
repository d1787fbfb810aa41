"""Ending a home's owner: for `virtualmle stop`, and for a foreground owner that takes an idle one's place."""

from __future__ import annotations

import os
import signal
import time

import httpx2
from pydantic import BaseModel

from server.home import STATUS_PATH, STOP_PATH, HomeError, Owner, find_owner, is_running
from server.owner_status import Status
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
    """End the home's owner and wait until it is gone; None where none runs. HomeError if it does not end."""
    owner = find_owner(settings)
    if owner is None:
        return None
    try:
        status = _ask(owner, "POST", STOP_PATH)
    except httpx2.HTTPError:
        status = None
        _signal(owner)
    if not _ended(owner):
        _signal(owner)
        if not _ended(owner):
            raise HomeError(f"The owner (pid {owner.pid}) does not end; `kill -9 {owner.pid}` ends it.")
    if status is None:
        return Stopped(pid=owner.pid)
    return Stopped(pid=owner.pid, interrupted=status.running, queued=status.queued)


def owner_status(owner: Owner) -> Status:
    """What a living owner says of itself; HomeError where it does not answer."""
    try:
        return _ask(owner, "GET", STATUS_PATH)
    except httpx2.HTTPError as error:
        raise HomeError(
            f"The owner (pid {owner.pid}) does not answer ({type(error).__name__}); end it with `virtualmle stop`."
        ) from None


def make_way(settings: Settings) -> None:
    """End the home's owner if nobody uses it; HomeError where a client or a trial is active."""
    owner = find_owner(settings)
    if owner is None:
        return
    try:
        status = _settled(owner)
    except httpx2.HTTPError as error:
        if not is_running(owner.pid, owner.create_time):
            return
        raise HomeError(
            f"The owner of {settings.home} (pid {owner.pid}) does not answer ({type(error).__name__}); "
            "end it with `virtualmle stop`."
        ) from None
    if status.clients or status.busy:
        users = f"{status.clients} client{'s' if status.clients != 1 else ''}"
        working = ", training" if status.busy else ""
        raise HomeError(
            f"{settings.home} has an owner in use (pid {owner.pid}; {users}{working}); end it with `virtualmle stop`."
        )
    stop_owner(settings)


def _settled(owner: Owner) -> Status:
    """Its status; a client that has just gone is given the time to be missed."""
    ends = time.monotonic() + _SETTLE_SECONDS
    while (status := _ask(owner, "GET", STATUS_PATH)).clients and time.monotonic() < ends:
        time.sleep(_POLL_SECONDS)
    return status


def _ask(owner: Owner, method: str, path: str) -> Status:
    with httpx2.Client(base_url=owner.url, headers=owner.headers, trust_env=False, verify=False) as http:
        response = http.request(method, path, timeout=_ANSWER_SECONDS).raise_for_status()
    return Status.model_validate_json(response.content)


def _signal(owner: Owner) -> None:
    if is_running(owner.pid, owner.create_time):
        try:
            os.kill(owner.pid, signal.SIGTERM)
        except PermissionError:
            raise HomeError(f"The owner (pid {owner.pid}) belongs to another user, who must end it.") from None
        except ProcessLookupError:
            pass


def _ended(owner: Owner) -> bool:
    # Not psutil's wait: to it a zombie, which its parent has not looked after yet, is still there.
    ends = time.monotonic() + _END_SECONDS
    while is_running(owner.pid, owner.create_time):
        if time.monotonic() > ends:
            return False
        time.sleep(_POLL_SECONDS)
    return True
