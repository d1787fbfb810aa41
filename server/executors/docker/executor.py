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

from memory.off_loop import uninterrupted
from server.executors.base import ENDING, ExecutorError, Exit, Slot, cannot_start, write_whole
from server.executors.docker.confinement import HOME_LABEL, Confinement, home_on_host, refusal
from server.executors.log import check_disk, last_line, log_size
from server.settings import Settings
from trainers.contract.regular_files import append_regular
from trainers.contract.wire import ATTEMPT_FILE, LOG_FILE, RESULT_FILES, ChildTask

TRAINERS = ("python3", "-P", "-m", "trainers")
_GONE = (requests.exceptions.ConnectionError, requests.exceptions.ReadTimeout)

Answer = TypeVar("Answer")
EndedBy = Literal["itself", "deadline", "closing"]


@dataclass(eq=False)
class _Run:
    container: Container
    directory: Path
    slot: Slot
    task: ChildTask
    since: float
    log_start: int
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class DockerExecutor:
    """Runs `command TASK DIR --datasets D [--deadline-seconds S]` in a container; tests pass another command.

    `host_home` is the home's path on the engine's host, where the owner itself runs in a container. It is detected
    where it is not given.
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
        self._docker: docker.DockerClient | None = None
        self._runs: list[_Run] = []
        self._closing = False
        self._confined = Confinement(
            datasets.absolute(), home.absolute(), host_home, tuple(command), dict(mounts or {})
        )

    @classmethod
    def of(cls, settings: Settings) -> DockerExecutor:
        """The executor that the settings describe."""
        return cls(settings.datasets_dir, settings.home, settings.docker_image, settings.host_home)

    async def __aenter__(self) -> Self:
        if self._confined.host_home is None:
            host_home = await self._call_engine(lambda: home_on_host(self._client, self._confined.home))
            self._confined = replace(self._confined, host_home=host_home)
        await self._call_engine(self._sweep)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await uninterrupted(self._close())

    async def _close(self) -> None:
        self._closing = True
        await asyncio.gather(*(run.ended.wait() for run in self._runs))
        if self._docker is not None:
            self._docker.close()

    async def run(self, directories: Sequence[Path], slot: Slot, task: ChildTask = "run") -> list[Exit]:
        return [await self._run_one(directory.absolute(), slot, task) for directory in directories]

    async def _run_one(self, directory: Path, slot: Slot, task: ChildTask) -> Exit:
        if self._closing:
            raise ExecutorError(ENDING)
        run = await self._start_uninterrupted(directory, slot, task)
        self._runs.append(run)
        ended_by: EndedBy = "itself"
        try:
            ended_by = await self._watch(run)
        finally:
            state = await uninterrupted(self._end(run))
        return _exit(run, ended_by, state)

    async def _start_uninterrupted(self, directory: Path, slot: Slot, task: ChildTask) -> _Run:
        """Starts a container; if the call is cancelled meanwhile, no container is left."""
        since = asyncio.get_running_loop().time()
        started: list[_Run] = []
        try:
            await uninterrupted(self._call_engine(lambda: started.append(self._start(directory, slot, task, since))))
        except asyncio.CancelledError:
            with suppress(ExecutorError):
                for run in started:  # the training may still leave a result, as in any other cancellation
                    await uninterrupted(self._call_engine(lambda run=run: self._stop_and_remove(run)))
            raise
        return started[0]

    def _start(self, directory: Path, slot: Slot, task: ChildTask, since: float) -> _Run:
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
            began = _timestamp(container.attrs["State"]["StartedAt"])
            attempt = {"pid": container.attrs["State"]["Pid"], "create_time": began}
            write_whole(directory / ATTEMPT_FILE, json.dumps(attempt))
        except BaseException as error:  # a container that was created but not started would stay for good
            with suppress(DockerException, *_GONE):
                container.remove(force=True)
            if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
                raise cannot_start(directory, error) from None
            raise
        return _Run(container, directory, slot, task, since, log_start)

    async def _watch(self, run: _Run) -> EndedBy:
        loop, allowed = asyncio.get_running_loop(), run.slot.allowed_seconds
        while await self._call_engine(lambda: _is_running(run.container)):
            if self._closing:
                return "closing"
            if allowed is not None and loop.time() - run.since > allowed:
                return "deadline"
            await asyncio.sleep(self._poll_seconds)
        return "itself"

    async def _end(self, run: _Run) -> dict[str, Any]:
        """Ends the container, appends its output to the log, and removes it; returns its final state."""
        try:
            return await self._call_engine(lambda: self._stop_and_remove(run))
        finally:
            self._runs.remove(run)
            run.ended.set()

    def _stop_and_remove(self, run: _Run) -> dict[str, Any]:
        try:
            run.container.stop(timeout=self._obey_seconds)
            state = _state(run.container)
            with suppress(OSError), append_regular(run.directory / LOG_FILE) as log:
                log.write(run.container.logs())
        except NotFound:
            return {"Removed": True}
        return state | {"Removed": not _remove(run.container)}

    def _sweep(self) -> None:
        """Removes what an earlier owner of this home left."""
        for container in self._client.containers.list(
            all=True, filters={"label": f"{HOME_LABEL}={self._confined.label}"}
        ):
            _remove(container)

    @property
    def _client(self) -> docker.DockerClient:
        if self._docker is None:
            self._docker = docker.from_env()
        return self._docker

    async def _call_engine(self, ask: Callable[[], Answer]) -> Answer:
        """Returns what the engine answers; raises ExecutorError with a message that says what to do."""
        try:
            return await asyncio.to_thread(ask)
        except ImageNotFound:
            message = (
                f"There is no image {self._image!r} here: `docker build -t {self._image} .` in a clone makes it, or "
                "name another one with docker_image in virtualmle.yaml."
            )
        except APIError as error:
            message = refusal(error)
        except (DockerException, *_GONE) as error:
            message = _unreachable(error)
        raise ExecutorError(message)  # outside the except blocks, so that it keeps no connection alive


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


def _remove(container: Container) -> bool:
    """Removes the container; False where somebody else has removed it or is doing so."""
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


def _timestamp(text: str) -> float:
    """Seconds since 1970. The engine gives nanoseconds, which datetime cannot parse."""
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
    log_line = last_line(run.directory, run.log_start)
    check_disk(run.directory, log_line)
    if code > 128:
        return Exit(cause="crashed", message=f"killed by signal {code - 128}")
    return Exit(cause="crashed", message=log_line or f"ended with exit code {code}, without a word")
