"""Fixtures that hold for every test."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors gain nothing from a second thread, and threads that wait for a busy core cost seconds."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
