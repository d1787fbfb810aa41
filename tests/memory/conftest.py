"""What the tests of memory share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from memory.store import Memory
from tests.support.examples import study


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    """A fresh memory that holds study s-1."""
    opened = Memory.open(tmp_path / "memory.duckdb")
    opened.add_study(study())
    yield opened
    opened.close()
