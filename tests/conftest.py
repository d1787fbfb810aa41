"""Fixtures that hold for every test."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.owners import end_owners
from tests.ray_nodes import RayNodes, ray_nodes
from trainers.data import Dataset, add


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors gain nothing from a second thread, and threads that wait for a busy core cost seconds."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


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
