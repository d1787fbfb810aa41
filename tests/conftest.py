"""Fixtures that hold for every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.owners import end_owners


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors gain nothing from a second thread, and threads that wait for a busy core cost seconds."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of its own; whatever process a test leaves behind on it is ended."""
    folder = tmp_path / "home"
    yield folder
    end_owners(folder)
