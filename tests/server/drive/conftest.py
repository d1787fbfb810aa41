"""Fixtures of drives with a model."""

from __future__ import annotations

import pytest

from server.drive.llm import dialogue
from server.drive.plan import Provider

KEY = "sk-test-0123456789"


@pytest.fixture(params=["anthropic", "openai"])
def provider(request: pytest.FixtureRequest) -> Provider:
    return request.param


@pytest.fixture(autouse=True)
def _own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in dialogue.KEYS.values():
        monkeypatch.setenv(name, KEY)
