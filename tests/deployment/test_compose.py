"""compose.yaml: what it promises of the server's containers on a GPU host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

TEXT = (Path(__file__).parents[2] / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
SOCKET = "/var/run/docker.sock"


def test_every_variable_has_a_default() -> None:
    """A variable of one service is asked for whichever service is started."""
    assert re.findall(r"\$\{\w+(?!:-|\w)[^}]*\}", TEXT) == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_locked_down_and_sees_the_gpus(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ports"] == ["127.0.0.1:8765:8765"]
    assert service["secrets"] == ["token"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", "all", ["gpu"])


def test_only_the_service_that_one_asks_for_reaches_the_engine() -> None:
    reaching = {name for name, service in SERVICES.items() if any(SOCKET in mount for mount in service["volumes"])}
    assert reaching == {name for name, service in SERVICES.items() if "profiles" in service} == {"docker-executor"}
