"""Runs each training in a container of the project's image, locked down, on the Docker engine of this host."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container

from server.executors.base import ATTEMPT_FILE, ENDING, ExecutorError, Exit, Slot, cannot_start, write_whole
from server.executors.confinement import HOME_LABEL, Confinement, home_on_host, refusal
from server.executors.log import LOG_FILE, check_disk, last_line, log_size
from server.settings import Settings
from server.uninterrupted import uninterrupted
from trainers.spec import RESULT_FILES, Task

TRAINERS = ("python3", "-P", "-m", "trainers")
_GONE = (requests.exceptions.ConnectionError, requests.exceptions.ReadTimeout)

Found = TypeVar("Found")
EndedBy = Literal["itself", "deadline", "closing"]


@dataclass(eq=False)
class _Run:
    container: Container
    directory: Path
    slot: Slot
    task: Task
    since: float
    log_start: int
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class DockerExecutor:
    """`command` gets `TASK DIR --datasets D [--deadline-seconds S]` in a container; tests give another one.

    `host_home`: what the home is called on the engine's host, where the owner is itself in a container; found out where
    it is not told.
    """

    def __init__(
        self,
        datasets: Path,
        home: Path,
        image: str,
        host_home: Path | None = None,
        command: Sequence[str] = TRAINERS,
        mounts: Mapping[Path, str] | None = None,
        poll_seconds: float = 0.3,
        obey_seconds: int = 5,
    ) -> None:
        self._image = image
        self._poll_seconds = poll_seconds
        self._obey_seconds = obey_seconds
        self._known: docker.DockerClient | None = None
        self._runs: list[_Run] = []
        self._closing = False
        self._confined = Confinement(
            datasets.absolute(), home.absolute(), host_home, tuple(command), dict(mounts or {})
        )

    @classmethod
    def of(cls, settings: Settings) -> DockerExecutor:
        """As the settings say."""
        return cls(settings.datasets, settings.home, settings.docker_image, settings.host_home)

    async def __aenter__(self) -> Self:
        if self._confined.host_home is None:
            found = await self._asked(lambda: home_on_host(self._client, self._confined.home))
            self._confined = replace(self._confined, host_home=found)
        await self._asked(self._sweep)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await uninterrupted(self._close())

    async def _close(self) -> None:
        self._closing = True
        await asyncio.gather(*(run.ended.wait() for run in self._runs))
        if self._known is not None:
            self._known.close()

    async def run(self, directories: Sequence[Path], slot: Slot, task: Task = "run") -> list[Exit]:
        return [await self._one(directory.absolute(), slot, task) for directory in directories]

    async def _one(self, directory: Path, slot: Slot, task: Task) -> Exit:
        if self._closing:
            raise ExecutorError(ENDING)
        run = await self._started(directory, slot, task)
        self._runs.append(run)
        ended_by: EndedBy = "itself"
        try:
            ended_by = await self._watch(run)
        finally:
            state = await uninterrupted(self._end(run))
        return _exit(run, ended_by, state)

    async def _started(self, directory: Path, slot: Slot, task: Task) -> _Run:
        """A container at work; cancelling on the way leaves none."""
        since = asyncio.get_running_loop().time()
        made: list[_Run] = []
        try:
            await uninterrupted(self._asked(lambda: made.append(self._start(directory, slot, task, since))))
        except asyncio.CancelledError:
            with suppress(ExecutorError):
                for run in made:  # it may leave a result, as at any other time
                    await uninterrupted(self._asked(lambda run=run: self._ended(run)))
            raise
        return made[0]

    def _start(self, directory: Path, slot: Slot, task: Task, since: float) -> _Run:
        try:
            log_start = log_size(directory)
            self._confined.admit(directory, task)
        except OSError as error:
            raise cannot_start(directory, error) from None
        client = self._client
        container = client.containers.create(self._image, **self._confined.arguments(directory, slot, task))
        try:
            container.start()
            container.reload()
            began = _moment(container.attrs["State"]["StartedAt"])
            told = {"pid": container.attrs["State"]["Pid"], "create_time": began}
            write_whole(directory / ATTEMPT_FILE, json.dumps(told))
        except BaseException as error:  # what was created and did not start would stay for good
            with suppress(DockerException, *_GONE):
                container.remove(force=True)
            if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
                raise cannot_start(directory, error) from None
            raise
        return _Run(container, directory, slot, task, since, log_start)

    async def _watch(self, run: _Run) -> EndedBy:
        loop, allowed = asyncio.get_running_loop(), run.slot.allowed_seconds
        while await self._asked(lambda: _is_running(run.container)):
            if self._closing:
                return "closing"
            if allowed is not None and loop.time() - run.since > allowed:
                return "deadline"
            await asyncio.sleep(self._poll_seconds)
        return "itself"

    async def _end(self, run: _Run) -> dict[str, Any]:
        """Ends the container, keeps what it said, and removes it; how it ended."""
        try:
            return await self._asked(lambda: self._ended(run))
        finally:
            self._runs.remove(run)
            run.ended.set()

    def _ended(self, run: _Run) -> dict[str, Any]:
        try:
            run.container.stop(timeout=self._obey_seconds)
            state = _state(run.container)
            with suppress(OSError), (run.directory / LOG_FILE).open("ab") as log:
                log.write(run.container.logs())
        except NotFound:
            return {"Removed": True}
        return state | {"Removed": not _removed(run.container)}

    def _sweep(self) -> None:
        """Removes what an earlier owner of this home left."""
        for container in self._client.containers.list(
            all=True, filters={"label": f"{HOME_LABEL}={self._confined.label}"}
        ):
            _removed(container)

    @property
    def _client(self) -> docker.DockerClient:
        if self._known is None:
            self._known = docker.from_env()
        return self._known

    async def _asked(self, ask: Callable[[], Found]) -> Found:
        """What the engine answers; raises ExecutorError in words that say what to do."""
        try:
            return await asyncio.to_thread(ask)
        except ImageNotFound:
            said = (
                f"There is no image {self._image!r} here: `docker build -t {self._image} .` in a clone makes it, or "
                "name another one with docker_image in virtualmle.yaml."
            )
        except APIError as error:
            said = refusal(error)
        except (DockerException, *_GONE) as error:
            said = _unreachable(error)
        raise ExecutorError(said)  # here, so that it keeps no connection alive


def _unreachable(error: Exception) -> str:
    where = os.environ.get("DOCKER_HOST", "the default socket")
    if "Permission denied" in str(error):
        advice = (
            "join its group (`stat -c %g` names it; compose.yaml takes DOCKER_GROUP), then the same run_trial goes on"
        )
        return f"This user may not use the Docker engine's socket at {where}: {advice}."
    advice = "start it, then the same run_trial goes on"
    return f"The Docker engine at {where} does not answer ({type(error).__name__}): {advice}."


def _state(container: Container) -> dict[str, Any]:
    container.reload()
    return container.attrs["State"]


def _removed(container: Container) -> bool:
    """Removes it; whether nobody else has, or is about to."""
    try:
        container.remove(force=True)
    except APIError as error:
        if error.status_code not in (404, 409):
            raise
        return False
    return True


def _is_running(container: Container) -> bool:
    try:
        return bool(_state(container)["Running"])
    except NotFound:  # removed by somebody
        return False


def _moment(text: str) -> float:
    """Seconds since 1970; the engine tells nanoseconds, which datetime does not read."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text).replace("Z", "+00:00")).timestamp()


def _exit(run: _Run, ended_by: EndedBy, state: dict[str, Any]) -> Exit:
    slot, code = run.slot, int(state.get("ExitCode", 0))
    if ended_by == "closing":
        return Exit(cause="killed", message="the owner ended")
    if ended_by == "deadline":
        return Exit(cause="timed_out", message=slot.overdue)
    if (run.directory / RESULT_FILES[run.task]).exists():
        return Exit(cause="result")
    if state.get("OOMKilled"):
        limit = "" if slot.memory_mb is None else f" at its limit of {slot.memory_mb} MB"
        return Exit(cause="out_of_memory", message=f"killed by the system when memory ran out{limit}")
    if state.get("Removed"):
        raise ExecutorError(
            f"The container of {run.directory.name} was removed by somebody; the same run_trial goes on."
        )
    said = last_line(run.directory, run.log_start)
    check_disk(run.directory, said)
    if code > 128:
        return Exit(cause="crashed", message=f"killed by signal {code - 128}")
    return Exit(cause="crashed", message=said or f"ended with exit code {code}, without a word")
