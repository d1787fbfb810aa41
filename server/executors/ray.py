"""Runs each training on some node of a Ray cluster, which shares no disk with this machine."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from server.executors.base import ENDING, ExecutorError, Exit, Slot
from server.executors.environment import HOME_MARK, RUN_MARK, python_path
from server.executors.ray_cluster import Cluster, gone
from server.executors.talk import Talk
from server.settings import Settings
from server.uninterrupted import uninterrupted
from trainers.spec import Task

DRIVER = (sys.executable, "-P", "-m", "server.executors.ray_driver")
LOG = "ray.log"
CONNECT_SECONDS = 20.0
"""Less than clients wait for an owner that starts, so that they are told why it could not."""
_RECONNECT_SECONDS = "20"
"""A driver whose cluster is gone for so long ends."""
_LEAVE_SECONDS = 8.0
"""For trainings to end in, and then for the driver to leave the cluster in."""


class _Answer(BaseModel):
    ready: bool = False
    refused: str = ""
    id: int = -1
    exit: Exit | None = None
    error: str = ""
    gone: bool = False


class _Driver:
    """The process that is connected with the cluster; see ray_driver.py."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        """Starts it; must be called from the thread that runs the event loop. Raises OSError."""
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """What it was refused for; empty where it is connected."""
        self._address = cluster.address
        self._asked: dict[int, asyncio.Future[_Answer]] = {}
        self._number = 0
        self._leaving = False
        environment = {
            **os.environ,
            "PYTHONPATH": python_path(os.environ.get("PYTHONPATH", "")),
            HOME_MARK: str(home.resolve()),
            RUN_MARK: secrets.token_hex(8),
        }
        environment.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", _RECONNECT_SECONDS)
        command = (*DRIVER, cluster.model_dump_json())
        self._talk = Talk.start(command, home, environment, self._take, home / LOG)
        self._ending = asyncio.ensure_future(self._until_it_ends())

    @property
    def gone(self) -> bool:
        """Whether it takes no runs any more."""
        return self._leaving or self._talk.process.exit_code is not None

    async def run(self, directory: Path, slot: Slot, task: Task) -> _Answer:
        """What became of a run; cancelling returns once it has ended."""
        self._number += 1
        number = self._number
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._talk.ask({"id": number, "directory": str(directory), "slot": slot.model_dump(), "task": task})
        except OSError as error:
            answer.set_result(_Answer(error=f"The driver of Ray takes no request: {error.strerror}; try again."))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            self._ask(id=number, end="cancelled")
            await uninterrupted(asyncio.wait({answer}))
            raise
        finally:
            del self._asked[number]

    async def close(self) -> None:
        """Ends the runs that are under way."""
        self._ask(end="closing")
        if self._asked:
            await asyncio.wait(self._asked.values(), timeout=_LEAVE_SECONDS)

    async def end(self) -> None:
        """Ends it; returns when nothing of it is left here."""
        self._ask(end="leaving")
        await self._talk.process.wait(_LEAVE_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """The same at once."""
        await self._talk.process.end(0.0)
        await asyncio.wait({self._ending})

    def _ask(self, **values: Any) -> None:
        with suppress(OSError):  # it has ended, and whoever waits is told so
            self._talk.ask(values)

    def _take(self, line: bytes) -> None:
        answer = _Answer.model_validate_json(line)
        if answer.id >= 0:
            self._leaving |= answer.gone
            self._asked[answer.id].set_result(answer)
        elif not self.ready.done():
            self.ready.set_result(answer.refused)

    async def _until_it_ends(self) -> None:
        await self._talk.ended()
        if not self.ready.done():
            self.ready.set_result(gone(self._address, f"its driver ended, see {LOG} in the home"))
        for asked in self._asked.values():
            if not asked.done():
                asked.set_result(_Answer(error=gone(self._address, "its driver ended")))


class RayExecutor:
    """See `Cluster` for what is told of it; `home` is that of the owner."""

    def __init__(self, cluster: Cluster, home: Path, connect_seconds: float = CONNECT_SECONDS) -> None:
        self._cluster = cluster
        self._home = home
        self._connect_seconds = connect_seconds
        self._driver: _Driver | None = None
        self._connecting = asyncio.Lock()
        self._closing = asyncio.Event()

    @classmethod
    def of(cls, settings: Settings) -> RayExecutor:
        """As the settings say."""
        label = label_of(settings.home)
        cluster = Cluster(address=settings.ray_address, label=label, datasets=settings.datasets, gpus=settings.ray_gpus)
        return cls(cluster, settings.home)

    async def __aenter__(self) -> Self:
        await self._connected()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await uninterrupted(self._close())

    async def run(self, directories: Sequence[Path], slot: Slot, task: Task = "run") -> list[Exit]:
        return [await self._one(directory.absolute(), slot, task) for directory in directories]

    async def _one(self, directory: Path, slot: Slot, task: Task) -> Exit:
        driver = await self._connected()
        answer = await driver.run(directory, slot, task)
        if answer.exit is None:
            raise ExecutorError(answer.error)
        return answer.exit

    async def _connected(self) -> _Driver:
        """The driver, or a new one where the last has ended. Raises ExecutorError."""
        async with self._connecting:
            if self._closing.is_set():
                raise ExecutorError(ENDING)
            if self._driver is not None:
                if not self._driver.gone:
                    return self._driver
                await uninterrupted(self._driver.kill())
            try:
                driver = _Driver(self._cluster, self._home)
            except OSError as error:
                raise ExecutorError(f"The driver of Ray cannot start: {error.strerror or error}.") from None
            closing = asyncio.ensure_future(self._closing.wait())
            try:
                first = {driver.ready, closing}
                await asyncio.wait(first, timeout=self._connect_seconds, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                await uninterrupted(driver.kill())
                raise
            finally:
                closing.cancel()
            no_answer = (
                f"The Ray cluster at {self._cluster.address} did not answer in {self._connect_seconds:g} s: start it, "
                "or mend ray_address in virtualmle.yaml."
            )
            refused = driver.ready.result() if driver.ready.done() else no_answer
            if refused:
                await uninterrupted(driver.kill())
                raise ExecutorError(ENDING if self._closing.is_set() else refused)
            self._driver = driver
            return driver

    async def _close(self) -> None:
        self._closing.set()
        async with self._connecting:
            if self._driver is not None:
                await self._driver.close()
                await self._driver.end()


def label_of(home: Path) -> str:
    """Tells the actors of a home from those of every other on a cluster."""
    return hashlib.sha256(f"{platform.node()} {home.absolute()}".encode()).hexdigest()[:16]
