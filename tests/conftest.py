"""Fixtures that hold for every test."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import pytest

from memory.tables.connection import Connection, Cursor
from server.settings import Settings
from tests.support.owners import end_owners
from tests.support.ray_nodes import RayNodes, ray_nodes
from trainers.data import Dataset, add

pytest_plugins = ["tests.support.claims", "tests.support.landscapes"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors gain nothing from a second thread, and threads that wait for a busy core cost seconds."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _memory_stays_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """An async function of the server that waits for the database holds up every client."""
    opened = Connection._open_cursor

    def checked(connection: Connection, first: str) -> AbstractContextManager[Cursor]:
        with suppress(RuntimeError):  # no loop runs in this thread
            asyncio.get_running_loop()
            assert not called_by_the_server(), "memory is called on the event loop: use memory.off_loop"
        return opened(connection, first)

    monkeypatch.setattr(Connection, "_open_cursor", checked)


def called_by_the_server() -> bool:
    """Whether the server runs on this thread's loop, rather than a test that calls its functions directly."""
    frame, of_the_server = sys._getframe(1), False
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        of_the_server = of_the_server or name.startswith("server.")
        if frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            return of_the_server and not name.startswith("tests.")
        frame = frame.f_back
    return False


@pytest.fixture(autouse=True)
def _no_socket_of_the_engine_s_sdk(request: pytest.FixtureRequest) -> Iterator[None]:
    """A connection that fails leaves a socket open until it is collected: a later test would be blamed for it."""
    yield
    if request.node.get_closest_marker("docker"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="session")
def walkers(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """500 users who walk a circle of 60 items, stored as the dataset `walkers`."""
    folder = tmp_path_factory.mktemp("walkers")
    rng = np.random.default_rng(0)
    lines = []
    for user in range(500):
        steps = np.cumsum(rng.integers(1, 3, size=3 + user % 12))
        lines.append(" ".join(map(str, [user, *((rng.integers(60) + steps) % 60)])))
    (folder / "walkers.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return add(folder / "datasets", "walkers", folder / "walkers.txt")


@pytest.fixture(scope="session")
def nodes() -> Iterator[RayNodes]:
    """A Ray cluster; skips where Ray is not installed."""
    with ray_nodes() as started:
        yield started


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of its own; whatever process a test leaves behind on it is ended."""
    folder = tmp_path / "home"
    yield folder
    end_owners(folder)


@pytest.fixture
def log(home: Path, tmp_path: Path) -> Path:
    """A home with the dataset `log`."""
    lines = "\n".join(f"{user} " + " ".join(str((user + step) % 9) for step in range(6)) for user in range(30))
    (tmp_path / "log.txt").write_text(lines)
    add(Settings(home=home).datasets_dir, "log", tmp_path / "log.txt")
    return home
