"""How fast the server answers a client, beside one of an empty tool on the same SDK; and the tokens of its answers.

python -m benchmarks.serving [--trials 1000] [--calls 300] [--runs 3]

Cold start: from the start of the client's command to the first tools/list. Calls: read_memory of a study of a home
that holds --trials finished trials, through the stdio bridge and over HTTP; the empty tool by the same ways. Medians
over the runs of each run's median and 99th percentile. Tokens: characters / 4 of what a client is sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import TextContent

from benchmarks.machine import commit, hardware, versions
from benchmarks.memory_scale import fill
from benchmarks.tables import table
from server.app import create_app
from server.executors.stub import StubExecutor
from server.runtime import open_runtime
from server.settings import Settings

EMPTY = """
import sys
from mcp.server import MCPServer
app = MCPServer("empty", log_level="WARNING")
@app.tool()
def nothing() -> str:
    return ""
if len(sys.argv) > 1:
    app.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
else:
    app.run("stdio")
"""
CHARACTERS_A_TOKEN = 4


def stdio(command: Sequence[str]) -> Client:
    """A client that starts `command`."""
    return Client(stdio_client(StdioServerParameters(command=command[0], args=list(command[1:]), env=dict(os.environ))))


async def seconds_to_tools(opened: AbstractAsyncContextManager[Client]) -> float:
    """From before the command is started to its first tools/list."""
    began = time.perf_counter()
    async with opened as client:
        await client.list_tools()
        return time.perf_counter() - began


async def milliseconds(client: Client, tool: str, arguments: dict[str, Any], calls: int) -> tuple[float, float]:
    """Median and 99th percentile of `calls` calls, after a few that are not counted."""
    found: list[float] = []
    for place in range(calls + 5):
        began = time.perf_counter()
        answer = await client.call_tool(tool, arguments)
        if answer.is_error:
            raise RuntimeError(f"{tool} failed: {answer.content}")
        if place >= 5:
            found.append(1000 * (time.perf_counter() - began))
    return median(found), quantiles(found, n=100)[98]


async def reached(url: str, seconds: float = 60.0) -> None:
    """Returns once something answers there."""
    host, port = url.split("/")[2].split(":")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise TimeoutError(url)


async def one_run(home: Path, study: str, empty: Path, calls: int, port: int) -> dict[str, tuple[float, ...]]:
    """Every figure once."""
    ours = [sys.executable, "-P", "-m", "server", "--home", str(home)]
    found: dict[str, tuple[float, ...]] = {}
    asked = ("read_memory", {"study_id": study})
    for name, tool, arguments, command in (
        ("stdio bridge", *asked, ours), ("empty tool, stdio", "nothing", {}, [sys.executable, str(empty)]),
    ):  # fmt: skip
        cold = await seconds_to_tools(stdio(command))
        warm = await seconds_to_tools(stdio(command))
        async with stdio(command) as client:
            found[name] = (cold, warm, *await milliseconds(client, tool, arguments, calls))
    await (await _started([str(Path(sys.executable).with_name("virtualmle")), "stop", "--home", str(home)])).wait()
    for name, tool, arguments, command in (
        ("HTTP", *asked, [*ours, "--http", f"127.0.0.1:{port}"]),
        ("empty tool, HTTP", "nothing", {}, [sys.executable, str(empty), str(port + 1)]),
    ):
        url = f"http://127.0.0.1:{port if name == 'HTTP' else port + 1}/mcp"
        process = await _started(command)
        await reached(url)
        async with Client(url) as client:
            found[name] = await milliseconds(client, tool, arguments, calls)
        process.terminate()
        await process.wait()
    return found


async def _started(command: Sequence[str]) -> asyncio.subprocess.Process:
    quiet = asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)


async def answers_cost() -> list[tuple[str, int]]:
    """Tokens of the list and of each tool's answer to its default call, in a small study."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            open_runtime(Settings(home=Path(folder)), StubExecutor()) as runtime,
            Client(create_app(runtime)) as client,
        ):
            listed = [
                tool.model_dump(mode="json", by_alias=True, exclude_none=True)
                for tool in (await client.list_tools()).tools
            ]
            found = [("tools/list", len(json.dumps(listed, separators=(",", ":"), ensure_ascii=False)))]

            async def call(tool: str, **arguments: Any) -> dict[str, Any]:
                answer = await client.call_tool(tool, arguments)
                found.append((tool, sum(len(part.text) for part in answer.content if isinstance(part, TextContent))))
                return answer.structured_content or {}

            await call("list_datasets")
            study = {"study_id": (await call("start_study", dataset="demo", max_trials=8))["study_id"]}
            trial = (await call("run_trial", **study))["trial_id"]
            await call("run_trial", **study, changes={"dropout": 0.2}, hypothesis="less dropout")
            await call("get_trial", trial_id=trial)
            await call("suggest_trial", **study)
            await call("write_heuristic", **study, kind="heuristic", text="Less dropout.", evidence=[trial])
            await call("run_policy", **study, policy="random", max_trials=4)
            await call("get_study", **study, wait_seconds=30)
            await call("plot_study", **study)
            await call("read_memory", **study)
            await call("finish_study", **study)
    return [(name, round(characters / CHARACTERS_A_TOKEN)) for name, characters in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--port", type=int, default=8931)
    asked = parser.parse_args(arguments)
    runs: list[dict[str, tuple[float, ...]]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        study = fill(Settings(home=home).database, asked.trials, 50, 5)
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY)
        runs = [asyncio.run(one_run(home, study, empty, asked.calls, asked.port)) for _ in range(asked.runs)]
    lines: list[list[str]] = []
    for name in runs[0]:
        figures = [median(values) for values in zip(*(run[name] for run in runs), strict=True)]
        start = [f"{value:.2f}" for value in figures[:-2]] or ["", ""]
        lines.append([name, *start, *(f"{value:.1f}" for value in figures[-2:])])
    machine = f"{hardware('cpu', 1)}; {commit()}; {versions('mcp')}"
    answers = [[name, f"{cost:,}"] for name, cost in asyncio.run(answers_cost())]
    out = [
        f"{asked.trials:,} trials in memory; {asked.calls} calls a run, {asked.runs} runs; {machine}",
        table(["way", "cold start s", "next start s", "p50 ms", "p99 ms"], lines),
        table(["answer", "tokens"], answers),
    ]
    sys.stdout.write("\n\n".join(out) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
