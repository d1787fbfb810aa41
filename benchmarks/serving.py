"""Measures how fast the server answers, compared with an empty tool on the same SDK, and the tokens of its answers.

python -m benchmarks.serving [--trials 1000] [--calls 300] [--runs 3]

Cold start is the time from the start of the client's command to its first tools/list. The timed call is read_memory of
a study, in a home with --trials finished trials, through the stdio bridge and over HTTP. The empty tool is called the
same two ways. The table shows medians over the runs of each run's median and 99th percentile. Tokens are a quarter of
the characters that a client receives.
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

from benchmarks.harness.machine import commit, hardware, versions
from benchmarks.harness.markdown import table
from benchmarks.memory_scale import fill
from server.executors.testing.stub import StubExecutor
from server.owner.assembly import open_runtime
from server.settings import Settings
from server.tools.app import create_app

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


async def seconds_to_tools(connection: AbstractAsyncContextManager[Client]) -> float:
    """Seconds from the start of the client's command to its first tools/list."""
    began = time.perf_counter()
    async with connection as client:
        await client.list_tools()
        return time.perf_counter() - began


async def milliseconds(client: Client, tool: str, arguments: dict[str, Any], calls: int) -> tuple[float, float]:
    """The median and the 99th percentile of `calls` calls, after five calls that are not counted."""
    times: list[float] = []
    for place in range(calls + 5):
        began = time.perf_counter()
        answer = await client.call_tool(tool, arguments)
        if answer.is_error:
            raise RuntimeError(f"{tool} failed: {answer.content}")
        if place >= 5:
            times.append(1000 * (time.perf_counter() - began))
    return median(times), quantiles(times, n=100)[98]


async def wait_for_server(url: str, seconds: float = 60.0) -> None:
    """Waits until the server at `url` accepts connections. Raises TimeoutError after `seconds`."""
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
    """Measures every way once. Returns, by way, the start times in seconds and the call times in milliseconds."""
    ours = [sys.executable, "-P", "-m", "server", "--home", str(home)]
    figures: dict[str, tuple[float, ...]] = {}
    read_memory = ("read_memory", {"study_id": study})
    for name, tool, arguments, command in (
        ("stdio bridge", *read_memory, ours), ("empty tool, stdio", "nothing", {}, [sys.executable, str(empty)]),
    ):  # fmt: skip
        cold = await seconds_to_tools(stdio(command))
        warm = await seconds_to_tools(stdio(command))
        async with stdio(command) as client:
            figures[name] = (cold, warm, *await milliseconds(client, tool, arguments, calls))
    await (await _start([str(Path(sys.executable).with_name("virtualmle")), "stop", "--home", str(home)])).wait()
    for name, tool, arguments, command in (
        ("HTTP", *read_memory, [*ours, "--http", f"127.0.0.1:{port}"]),
        ("empty tool, HTTP", "nothing", {}, [sys.executable, str(empty), str(port + 1)]),
    ):
        url = f"http://127.0.0.1:{port if name == 'HTTP' else port + 1}/mcp"
        process = await _start(command)
        await wait_for_server(url)
        async with Client(url) as client:
            figures[name] = await milliseconds(client, tool, arguments, calls)
        process.terminate()
        await process.wait()
    return figures


async def _start(command: Sequence[str]) -> asyncio.subprocess.Process:
    quiet = asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)


async def answer_tokens() -> list[tuple[str, int]]:
    """Tokens of tools/list and of each tool's default answer, in a small study."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            open_runtime(Settings(home=Path(folder)), StubExecutor()) as runtime,
            Client(create_app(runtime)) as client,
        ):
            tools = [
                tool.model_dump(mode="json", by_alias=True, exclude_none=True)
                for tool in (await client.list_tools()).tools
            ]
            lengths = [("tools/list", len(json.dumps(tools, separators=(",", ":"), ensure_ascii=False)))]

            async def call(tool: str, **arguments: Any) -> dict[str, Any]:
                answer = await client.call_tool(tool, arguments)
                lengths.append((tool, sum(len(part.text) for part in answer.content if isinstance(part, TextContent))))
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
    return [(name, round(characters / CHARACTERS_A_TOKEN)) for name, characters in lengths]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--port", type=int, default=8931)
    options = parser.parse_args(arguments)
    runs: list[dict[str, tuple[float, ...]]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        study = fill(Settings(home=home).database, options.trials, 50, 5)
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY)
        runs = [asyncio.run(one_run(home, study, empty, options.calls, options.port)) for _ in range(options.runs)]
    lines: list[list[str]] = []
    for name in runs[0]:
        figures = [median(values) for values in zip(*(run[name] for run in runs), strict=True)]
        start = [f"{value:.2f}" for value in figures[:-2]] or ["", ""]
        lines.append([name, *start, *(f"{value:.1f}" for value in figures[-2:])])
    machine = f"{hardware('cpu', 1)}; {commit()}; {versions('mcp')}"
    answers = [[name, f"{cost:,}"] for name, cost in asyncio.run(answer_tokens())]
    sections = [
        f"{options.trials:,} trials in memory; {options.calls} calls a run, {options.runs} runs; {machine}",
        table(["way", "cold start s", "next start s", "p50 ms", "p99 ms"], lines),
        table(["answer", "tokens"], answers),
    ]
    sys.stdout.write("\n\n".join(sections) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
