"""The image for real: locked down, over stdio and over HTTP, and as a server that starts trials in containers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import docker
import httpx2
import pytest
from docker.errors import NotFound
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from server.settings import Settings
from tests.support.engine import needs
from tests.support.trials import tuned, until, whole_loop

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
IMAGE = os.environ.get("VIRTUALMLE_TEST_IMAGE", "virtualmle:test")
USER = 10001
LOCKED = [
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--init",
    "--pids-limit", "256", "--memory", "2g",
]  # fmt: skip
TOKEN = "token-of-the-test-0123456789"


@pytest.fixture(autouse=True)
def _image() -> None:
    needs(IMAGE)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    if os.getuid() == 0:
        os.chown(folder, USER, USER)
    tmp_path.chmod(0o755)
    return folder


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[list[str]]:
    """Names of containers that a test starts; they are removed after it."""
    names: list[str] = []
    yield names
    client = docker.from_env()
    for name in names:
        with suppress(NotFound):
            client.containers.get(name).remove(force=True)
    client.close()


def docker_cli(*words: str) -> list[str]:
    return [os.environ.get("DOCKER_CLI", "docker"), *words]


async def test_the_locked_down_image_tunes_over_stdio(data: Path) -> None:
    run = docker_cli("run", "--rm", "-i", *LOCKED, "--network", "none", "-v", f"{data}:/data", IMAGE, "stdio")
    environment = {name: value for name, value in os.environ.items() if name.startswith(("DOCKER", "PATH", "HOME"))}
    server = StdioServerParameters(command=run[0], args=run[1:], env=environment)
    async with Client(stdio_client(server)) as client:
        ended = await tuned(client)
    assert ended["test_reveal"] == 1
    assert (data / "memory.duckdb").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A client with the token."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=120) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


def docker_says(*words: str) -> str:
    """What a command of the engine's client prints, both streams together."""
    done = subprocess.run(docker_cli(*words), check=True, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


async def served(port: int, seconds: float = 60.0) -> None:
    """Returns once the server answers."""
    async with httpx2.AsyncClient() as http:
        with anyio.fail_after(seconds):
            while True:
                try:
                    if (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200:
                        return
                except httpx2.TransportError:
                    await anyio.sleep(0.1)


def http_server(containers: list[str], data: Path, port: int, *more: str) -> str:
    """A server container with a token, on the host's network; its name."""
    name = f"virtualmle-test-{port}"
    containers.append(name)
    secret = data.parent / "token"
    secret.write_text(TOKEN + "\n")
    words = ["run", "-d", "--name", name, *LOCKED, "--network", "host", "-v", f"{data}:/data"]
    words += ["-v", f"{secret}:/run/token:ro", "-e", "VIRTUALMLE_TOKEN_FILE=/run/token", *more, IMAGE]
    words += ["serve", "--http", f"127.0.0.1:{port}"]
    docker_says(*words)
    return name


async def test_it_tunes_over_http_with_a_token_stops_fast_with_a_trial_running_and_goes_on(
    data: Path, containers: list[str]
) -> None:
    port = free_port()
    name = http_server(containers, data, port)
    await served(port)
    url = f"http://127.0.0.1:{port}/mcp"
    async with httpx2.AsyncClient() as http:
        assert (await http.post(url, json={})).status_code == 401
    async with connected(url) as client:
        assert (await tuned(client))["test_reveal"] == 1
        started = await client.call_tool("start_study", {"dataset": "demo", "space": {"max_epochs": 400}})
        study = (started.structured_content or {})["study_id"]
        asked = {"study_id": study, "changes": {"patience": 50}, "wait_seconds": 0}
        trial = ((await client.call_tool("run_trial", asked)).structured_content or {})["trial_id"]
        await until((data / "trials" / trial / "epochs.jsonl").exists)
    docker_says("stop", "-t", "10", name)
    assert json.loads(docker_says("inspect", name))[0]["State"]["ExitCode"] == 0  # a killed one: 137
    docker_says("start", name)
    await served(port)
    async with connected(url) as client:
        facts = (await client.call_tool("get_trial", {"trial_id": trial})).structured_content or {}
        assert facts["status"] == "interrupted"
        again = (await client.call_tool("run_trial", asked)).structured_content or {}
        assert again["trial_id"] == trial
        assert again["status"] in ("queued", "running")
        await client.call_tool("cancel_trial", {"trial_id": trial})


async def test_a_server_in_a_container_starts_its_trials_in_containers(data: Path, containers: list[str]) -> None:
    engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not engine.startswith("unix://"):
        pytest.skip(f"the engine at {engine} has no socket file to mount")
    path = Path(engine.removeprefix("unix://"))
    port = free_port()
    more = ["-v", f"{path}:/var/run/docker.sock", "--group-add", str(os.stat(path).st_gid)]  # noqa: PTH116
    more += ["-e", "DOCKER_HOST=unix:///var/run/docker.sock"]
    more += ["-e", "VIRTUALMLE_EXECUTOR=docker", "-e", f"VIRTUALMLE_DOCKER_IMAGE={IMAGE}"]
    name = http_server(containers, data, port, *more)
    await served(port)
    url = f"http://127.0.0.1:{port}/mcp"
    async with connected(url) as client:
        assert (await tuned(client))["test_reveal"] == 1
    assert "Traceback" not in docker_says("logs", name)
    client = docker.from_env()
    left = client.containers.list(all=True, filters={"label": "virtualmle.run"})
    client.close()
    assert left == []


async def test_an_owner_on_the_host_trains_in_containers_and_takes_the_model_home(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", executor="docker", docker_image=IMAGE, threads=1)
    assert await whole_loop(settings) == 3
