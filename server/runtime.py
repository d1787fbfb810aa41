"""All that one owner process holds open: memory, executor, supervisor and the evaluations under way."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import anyio.to_thread
from mcp import Client

from memory.store import Memory
from server.autopilot import Autopilot
from server.executors.base import Executor
from server.executors.evidence import ceiling_mb
from server.gpus import Gpu, GpuError, allowed, found_gpus
from server.hopeless import stop_below
from server.retention import prune
from server.reveal import Reveals
from server.settings import Settings, SettingsError
from server.slots import Place, Slots
from server.supervisor import Supervisor
from server.views import record_verdict

log = logging.getLogger(__name__)

EXECUTORS = {
    "process": "server.executors.process:ProcessExecutor",
    "docker": "server.executors.docker:DockerExecutor",
    "ray": "server.executors.ray:RayExecutor",
}
ROOM = 0.9
"""Of a device's memory: what trainings may hold together."""


@dataclass(frozen=True)
class Runtime:
    settings: Settings
    memory: Memory
    executor: Executor
    supervisor: Supervisor
    reveals: Reveals
    autopilot: Autopilot


@asynccontextmanager
async def open_runtime(settings: Settings, executor: Executor | None = None) -> AsyncGenerator[Runtime]:
    """Opens a home: one at a time, for memory admits one owner. Raises SettingsError, MemoryFault.

    Memory comes first: only who holds it may end the processes that carry the home's mark, as the executor does.
    """
    _make_folders(settings)
    memory = Memory.open(settings.database)
    try:
        async with executor or executor_of(settings) as ready:
            slots = await anyio.to_thread.run_sync(slots_of, settings)
            settings = settings.sharing(slots.places)
            landed, below = partial(_finished, memory, settings), partial(stop_below, memory)
            async with Supervisor(memory, ready, settings, landed, below, slots=slots) as supervisor:
                reveals = Reveals(memory, supervisor)
                autopilot = Autopilot(memory, lambda: _connected(runtime), slots.places)
                runtime = Runtime(settings, memory, ready, supervisor, reveals, autopilot)
                try:
                    async with autopilot:
                        yield runtime
                finally:
                    await reveals.aclose()
    finally:
        memory.close()


def executor_of(settings: Settings) -> Executor:
    """The one that the settings name; its library is loaded only then. Raises SettingsError where that is missing."""
    module, name = EXECUTORS[settings.executor].split(":")
    try:
        kind = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"executor={settings.executor!r} needs {error.name}: pip install 'virtualmle[{settings.executor}]'."
        ) from None
    return kind.of(settings)


def _finished(memory: Memory, settings: Settings, trial_id: str) -> None:
    record_verdict(memory, trial_id)
    prune(memory, settings.trials, trial_id, settings.keep_checkpoints)


def slots_of(settings: Settings) -> Slots:
    """Where trainings go on here, and what fits there. Raises SettingsError for a GPU that is not there.

    On a cluster Ray knows the devices and their memory, and `slots` is only how many go on at a time.
    """
    if settings.executor == "ray":
        return Slots([Place(lane=lane) for lane in range(settings.slots)], {})
    found = _gpus(settings)
    chosen = allowed(found) if settings.gpus is None else list(settings.gpus)
    if missing := [gpu for gpu in chosen if gpu not in found]:
        raise SettingsError(
            f"gpus={list(chosen)}: there is no GPU {missing[0]} here; there are {list(found) or 'none'}. "
            "gpus: [] uses the CPU."
        )
    lanes = range(settings.slots)
    if chosen:
        places = [Place(gpu, lane) for lane in lanes for gpu in chosen]
        free = {gpu: found[gpu].free_mb for gpu in chosen}
        return Slots(places, {gpu: ROOM * mb for gpu, mb in free.items() if mb is not None})
    return Slots([Place(None, lane) for lane in lanes], {None: ROOM * ceiling_mb()})


def _gpus(settings: Settings) -> dict[int, Gpu]:
    if settings.gpus == ():
        return {}
    try:
        return found_gpus()
    except GpuError as error:
        if settings.gpus is not None:
            raise SettingsError(f"gpus={list(settings.gpus)}: {error}. Mend the driver, or set gpus: [].") from None
        log.warning("%s: trainings use the CPU", error)
        return {}


def _connected(runtime: Runtime) -> Client:
    """A client of this very server, in memory."""
    from server.app import create_app

    return Client(create_app(runtime))


def _make_folders(settings: Settings) -> None:
    """The home is its user's alone: notes and run directories tell about their data."""
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (settings.datasets, settings.trials, settings.reports):
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"The home {str(settings.home)!r} cannot be used: {error.strerror or error}. "
            "Choose another with --home or VIRTUALMLE_HOME."
        ) from None
