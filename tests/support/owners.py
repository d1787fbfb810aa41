"""Owners, bridges and clients as real processes, for tests of what happens between processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
from mcp import Client, StdioServerParameters

from server.client.home import Owner, find_owner
from server.settings import Settings
from tests.support.texts import text

CLONE = Path(__file__).parents[2]


def command(*arguments: str | Path) -> list[str]:
    """The virtualmle command line, whatever is installed."""
    return [sys.executable, "-P", "-m", "server.cli", *(str(argument) for argument in arguments)]


def environment(**added: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CLONE), **added}


def run(*arguments: str | Path, stdin: str = "", **added: str) -> subprocess.CompletedProcess[str]:
    """Run a virtualmle command to its end."""
    return subprocess.run(
        command(*arguments), input=stdin, capture_output=True, text=True, env=environment(**added), timeout=120
    )


def bridge(home: Path, cwd: Path | None = None, **added: str) -> StdioServerParameters:
    """How an MCP client starts a bridge."""
    program, *arguments = command("serve", "--home", home)
    return StdioServerParameters(command=program, args=arguments, env=environment(**added), cwd=cwd)


def owner_of(home: Path) -> Owner:
    owner = find_owner(Settings(home=home))
    assert owner is not None, "no owner runs"
    return owner


def kill(pid: int) -> None:
    """End a process the hard way, and wait until it is gone, or a zombie that another process will reap."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.kill()
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            pass


def wait_gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=20)


def bridges(home: Path) -> list[psutil.Process]:
    """The bridge processes of a home."""
    return [process for process in _processes(home) if "--owner" not in process.cmdline()]


def owners(home: Path) -> list[psutil.Process]:
    return [process for process in _processes(home) if "--owner" in process.cmdline()]


def end_owners(home: Path) -> None:
    for process in _processes(home):
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(timeout=5)


def _processes(home: Path) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(home) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


async def run_trial(client: Client, study_id: str, answers: list[Any], told: anyio.Event | None = None) -> None:
    """Call run_trial and keep its answer; `told` is set at the first sign of progress."""

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        if told is not None:
            told.set()

    asked = {"study_id": study_id, "wait_seconds": 200}
    answers.append(await client.call_tool("run_trial", asked, progress_callback=on_progress))


async def train(home: str) -> None:
    """What a client process does until it is killed."""
    async with Client(bridge(Path(home))) as client:
        await run_trial(client, await new_study(client), [])


async def new_study(client: Client, dataset: str = "demo", **asked: Any) -> str:
    started = await client.call_tool("start_study", {"dataset": dataset, **asked})
    assert not started.is_error, text(started)
    assert started.structured_content is not None
    return started.structured_content["study_id"]


def json_lines(output: str) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@contextmanager
def foreground(home: Path, *more: str | Path) -> Iterator[subprocess.Popen[str]]:
    """`serve --http` on a port of the system's choice, from when it listens."""
    arguments = command("serve", "--home", home, "--http", "127.0.0.1:0", *more)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline().startswith(f"VirtualMLE serves {home} at http://127.0.0.1:")
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
            yield process
        finally:
            process.kill()
