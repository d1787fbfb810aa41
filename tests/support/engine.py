"""A real Docker engine for tests, where one answers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import docker
import pytest

from server.executors.docker.executor import DockerExecutor

BASE = "python:3.11-slim"
FAKE = Path(__file__).with_name("fake_trainer.py")


@cache
def missing(image: str) -> str | None:
    """Why tests with this image cannot run here; None where they can. The SDK would leave its socket open."""
    asked = [os.environ.get("DOCKER_CLI", "docker"), "image", "inspect", image]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no Docker engine answers: {type(error).__name__}"
    return None if done.returncode == 0 else " ".join(done.stderr.split()) or f"no image {image}"


def needs(image: str) -> None:
    """Skips the test where there is no engine with this image."""
    if (why := missing(image)) is not None:
        pytest.skip(why)


def docker_executor(home: Path, **values: Any) -> DockerExecutor:
    """The docker executor over the fake trainer, in a bare Python image."""
    needs(BASE)
    inside = "/fake/fake_trainer.py"
    given: dict[str, Any] = {
        "image": BASE, "command": ("python3", "-P", inside), "mounts": {FAKE: inside}, "poll_seconds": 0.05,
        "obey_seconds": 3,
    }  # fmt: skip
    return DockerExecutor(home / "datasets", home, **{**given, **values})


@contextmanager
def containers_of(home: Path) -> Iterator[list[Any]]:
    """A home's containers, running or not, to look at while the block lasts."""
    label = docker_executor(home)._confined.label
    with closing(docker.from_env()) as client:
        yield client.containers.list(all=True, filters={"label": f"virtualmle.home={label}"})


def containers(home: Path) -> list[str]:
    """Their names."""
    with containers_of(home) as found:
        return [container.name for container in found]


def inside(container: Any, *words: str) -> str:
    """What a command prints in a running container, both streams together. The SDK's own way leaves its socket open."""
    cli = os.environ.get("DOCKER_CLI", "docker")
    done = subprocess.run([cli, "exec", container.name, *words], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr
