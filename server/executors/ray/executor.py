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

from memory.off_loop import uninterrupted
from server.executors.base import ENDING, ExecutorError, Exit, Slot
from server.executors.environment import HOME_MARK, RUN_MARK, python_path
from server.executors.process.pipe import MessagePipe
from server.executors.ray.cluster import Cluster, gone
from server.settings import Settings
from trainers.contract.wire import ChildTask

DRIVER = (sys.executable, "-P", "-m", "server.executors.ray.driver")
LOG = "ray.log"
CONNECT_SECONDS = 20.0
"""Shorter than clients wait for an owner to start, so that they learn why it could not."""
_RECONNECT_SECONDS = "20"
"""A driver ends once its cluster has been gone for this long."""
_LEAVE_SECONDS = 8.0
"""Time for the trainings to end, and again for the driver to leave the cluster."""


class _Answer(BaseModel):
    ready: bool = False
    refused: str = ""
    id: int = -1
    exit: Exit | None = None
    error: str = ""
    gone: bool = False


class _Driver:
    """The process that is connected to the cluster; see driver.py."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        """Starts the process; call it from the thread that runs the event loop. Raises OSError."""
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why the connection was refused; empty once it is connected."""
        self._address = cluster.address
        self._pending: dict[int, asyncio.Future[_Answer]] = {}
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
        self._pipe = MessagePipe.start(command, home, environment, self._take, home / LOG)
        self._ending = asyncio.ensure_future(self._watch_until_end())

    @property
    def gone(self) -> bool:
        """Whether it takes no more runs."""
        return self._leaving or self._pipe.process.exit_code is not None

    async def run(self, directory: Path, slot: Slot, task: ChildTask) -> _Answer:
        """What became of a run; a cancelled call returns once the run has ended."""
        self._number += 1
        number = self._number
        answer = self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            self._pipe.send({"id": number, "directory": str(directory), "slot": slot.model_dump(), "task": task})
        except OSError as error:
            answer.set_result(_Answer(error=f"The driver of Ray takes no request: {error.strerror}; try again."))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            self._send(id=number, end="cancelled")
            await uninterrupted(asyncio.wait({answer}))
            raise
        finally:
            del self._pending[number]

    async def close(self) -> None:
        """Ends the runs that are under way."""
        self._send(end="closing")
        if self._pending:
            await asyncio.wait(self._pending.values(), timeout=_LEAVE_SECONDS)

    async def end(self) -> None:
        """Ends the driver; returns when none of its processes is left here."""
        self._send(end="leaving")
        await self._pipe.process.wait(_LEAVE_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """Ends the driver at once."""
        await self._pipe.process.end(0.0)
        await asyncio.wait({self._ending})

    def _send(self, **values: Any) -> None:
        with suppress(OSError):  # the driver has ended, and every waiter gets an error
            self._pipe.send(values)

    def _take(self, line: bytes) -> None:
        answer = _Answer.model_validate_json(line)
        if answer.id >= 0:
            self._leaving |= answer.gone
            self._pending[answer.id].set_result(answer)
        elif not self.ready.done():
            self.ready.set_result(answer.refused)

    async def _watch_until_end(self) -> None:
        await self._pipe.ended()
        if not self.ready.done():
            self.ready.set_result(gone(self._address, f"its driver ended, see {LOG} in the home"))
        for answer in self._pending.values():
            if not answer.done():
                answer.set_result(_Answer(error=gone(self._address, "its driver ended")))


class RayExecutor:
    """Runs trainings on the cluster that `cluster` describes; `home` is the owner's."""

    def __init__(self, cluster: Cluster, home: Path, connect_seconds: float = CONNECT_SECONDS) -> None:
        self._cluster = cluster
        self._home = home
        self._connect_seconds = connect_seconds
        self._driver: _Driver | None = None
        self._connecting = asyncio.Lock()
        self._closing = asyncio.Event()

    @classmethod
    def of(cls, settings: Settings) -> RayExecutor:
        """The executor that the settings describe."""
        label = label_of(settings.home)
        cluster = Cluster(
            address=settings.ray_address, label=label, datasets=settings.datasets_dir, gpus=settings.ray_gpus
        )
        return cls(cluster, settings.home)

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await uninterrupted(self._close())

    async def run(self, directories: Sequence[Path], slot: Slot, task: ChildTask = "run") -> list[Exit]:
        return [await self._run_one(directory.absolute(), slot, task) for directory in directories]

    async def _run_one(self, directory: Path, slot: Slot, task: ChildTask) -> Exit:
        driver = await self._connect()
        answer = await driver.run(directory, slot, task)
        if answer.exit is None:
            raise ExecutorError(answer.error)
        return answer.exit

    async def _connect(self) -> _Driver:
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
                signals = {driver.ready, closing}
                await asyncio.wait(signals, timeout=self._connect_seconds, return_when=asyncio.FIRST_COMPLETED)
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
    """A hash that distinguishes a home's actors from those of other homes on the same cluster."""
    return hashlib.sha256(f"{platform.node()} {home.absolute()}".encode()).hexdigest()[:16]
