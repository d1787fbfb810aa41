"""Opens a home: memory, executor, slots, scheduler and autopilot become one Runtime."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module

from mcp import Client

from memory.off_loop import off_loop
from memory.records import Study
from memory.store import Memory
from server.client.home import make_home
from server.drive.autopilot import Autopilot
from server.executors.base import Executor, ExecutorError
from server.executors.host_memory import ceiling_mb
from server.executors.replay.executor import ReplayExecutor
from server.replay.marker import ReplayHomeError, read_replay_home
from server.replay.recorded import TableError
from server.replay.tables import Tables
from server.runtime import Runtime
from server.scheduler.gpus import Gpu, GpuError, list_gpus, visible_gpus
from server.scheduler.retention import prune
from server.scheduler.sealed_test import SealedTests
from server.scheduler.slots import Place, Slots
from server.scheduler.submission import Scheduler
from server.scheduler.supervisor import Supervisor
from server.settings import Settings, SettingsError
from server.study.early_stop_of_study import stop_below
from server.study.history import record_verdict
from server.study.replayed import replay_of

log = logging.getLogger(__name__)


EXECUTORS = {
    "process": "server.executors.process.executor:ProcessExecutor",
    "docker": "server.executors.docker.executor:DockerExecutor",
    "ray": "server.executors.ray.executor:RayExecutor",
}


MEMORY_SHARE = 0.9
"""Share of a device's memory that its trainings may hold together."""


@asynccontextmanager
async def open_runtime(settings: Settings, executor: Executor | None = None) -> AsyncGenerator[Runtime]:
    """Opens a home, which can have only one owner at a time.

    Raises HomeError, SettingsError, MemoryFault, and ReplayHomeError or TableError for a replay home.

    Memory is opened first: only its holder may end the processes that carry the home's mark, as the executor does.
    """
    make_home(settings)
    tables = await off_loop(_tables_of, settings)
    memory = await off_loop(Memory.open, settings.database)
    try:
        await off_loop(_check_mark, settings, memory, tables)
        async with executor or (ReplayExecutor(tables) if tables else executor_of(settings)) as ready:
            slots = await off_loop(slots_of, settings) if tables is None else _unlimited(settings)
            settings = settings.sharing(slots.places)
            on_finished, below = partial(_record_and_prune, memory, settings), partial(stop_below, memory)
            async with Supervisor(memory, ready, settings, on_finished, below, slots=slots) as supervisor:
                scheduler = Scheduler(memory, settings, supervisor, tables)
                sealed_tests = SealedTests(memory, supervisor, partial(_holds_test, tables))
                autopilot = Autopilot(memory, lambda: _client_of(runtime), slots.places)
                runtime = Runtime(settings, memory, ready, supervisor, scheduler, sealed_tests, autopilot, tables)
                try:
                    await sealed_tests.resume()
                    async with autopilot:
                        yield runtime
                finally:
                    await sealed_tests.aclose()
    finally:
        await off_loop(memory.close)


def _tables_of(settings: Settings) -> Tables | None:
    """The tables of a replay home; None for a home that trains."""
    replay = read_replay_home(settings)
    return None if replay is None else Tables.open(replay)


def _check_mark(settings: Settings, memory: Memory, tables: Tables | None) -> None:
    """Raises ReplayHomeError where replayed studies would go on with real trainings."""
    if tables is None and any(replay_of(study) for study in memory.studies()):
        raise ReplayHomeError(
            f"{settings.home} holds studies of recorded trainings, and its replay.json is gone: put that file back, or "
            "name another home with --home."
        )


def _holds_test(tables: Tables | None, study: Study) -> bool:
    try:
        return tables is None or tables.holds_test(tables.name_of(study.dataset_hash), study.backbone)
    except TableError as error:
        raise ExecutorError(str(error)) from None


def _unlimited(settings: Settings) -> Slots:
    """Places for trials that need no device and no memory."""
    return Slots([Place(None, lane) for lane in range(settings.slots)], {})


def executor_of(settings: Settings) -> Executor:
    """The executor that the settings name. Loads its library; raises SettingsError where that is missing."""
    module, name = EXECUTORS[settings.executor].split(":")
    try:
        kind = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"executor={settings.executor!r} needs {error.name}: pip install 'virtualmle[{settings.executor}]'."
        ) from None
    return kind.of(settings)


def _record_and_prune(memory: Memory, settings: Settings, trial_id: str) -> None:
    prune(record_verdict(memory, trial_id), settings.trials_dir, settings.keep_checkpoints)


def slots_of(settings: Settings) -> Slots:
    """The places for trainings on this machine, and their memory. Raises SettingsError for a GPU that is not there.

    On a cluster, Ray knows the devices and their memory; `slots` only limits how many trainings run at a time.
    """
    if settings.executor == "ray":
        return Slots([Place(lane=lane) for lane in range(settings.slots)], {})
    gpus = _detect_gpus(settings)
    chosen = visible_gpus(gpus) if settings.gpus is None else list(settings.gpus)
    if missing := [gpu for gpu in chosen if gpu not in gpus]:
        raise SettingsError(
            f"gpus={list(chosen)}: there is no GPU {missing[0]} here; there are {list(gpus) or 'none'}. "
            "gpus: [] uses the CPU."
        )
    lanes = range(settings.slots)
    if chosen:
        places = [Place(gpu, lane) for lane in lanes for gpu in chosen]
        free = {gpu: gpus[gpu].free_mb for gpu in chosen}
        return Slots(places, {gpu: MEMORY_SHARE * mb for gpu, mb in free.items() if mb is not None})
    return Slots([Place(None, lane) for lane in lanes], {None: MEMORY_SHARE * ceiling_mb()})


def _detect_gpus(settings: Settings) -> dict[int, Gpu]:
    if settings.gpus == ():
        return {}
    try:
        return list_gpus()
    except GpuError as error:
        if settings.gpus is not None:
            raise SettingsError(f"gpus={list(settings.gpus)}: {error}. Mend the driver, or set gpus: [].") from None
        log.warning("%s: trainings use the CPU", error)
        return {}


def _client_of(runtime: Runtime) -> Client:
    """An in-memory client of this owner's own MCP server."""
    from server.tools.app import create_app

    return Client(create_app(runtime))
