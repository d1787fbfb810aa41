"""A home with studies, trials and notes, served to hostile clients. Trainings are invented."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from mcp import Client

from benchmarks.hostile.clients import SECONDS, TOKEN, HostileClients, Tracebacks
from server.auth import Token, Tokens
from server.executors.testing.stub import StubExecutor
from server.owner.activity import Activity
from server.owner.assembly import open_runtime
from server.owner.connections import LimitedConnection
from server.owner.web import build_web
from server.settings import Settings
from server.tools.app import create_app


@asynccontextmanager
async def hostile_clients(home: Path) -> AsyncGenerator[HostileClients]:
    """Opens a home with studies, trials and notes, and serves it on a port of this machine."""
    settings = Settings(home=home, max_wait_seconds=0.05, slots=2)
    log = Tracebacks()
    activity, tokens = Activity(), Tokens(Token(TOKEN, "owner"), (), False)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with open_runtime(settings, StubExecutor()) as runtime:
            ids = await _filled_home(create_app(runtime))
            app: Any = build_web(runtime, tokens, activity, ())
            config = uvicorn.Config(app, http=LimitedConnection, log_config=None, access_log=False, ws="none")
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve([listener]))
            logging.getLogger().addHandler(log)
            try:
                async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=SECONDS) as http:
                    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                        await asyncio.sleep(0.01)
                    clients = HostileClients(http, url, ids, log)
                    await clients.open()
                    yield clients
            finally:
                logging.getLogger().removeHandler(log)
                activity.stopping.set()
                server.should_exit = True
                await serving


async def schemas(home: Path) -> tuple[dict[str, Any], list[str]]:
    """The schemas of the tools' arguments by tool, and the templates of the resources."""
    async with open_runtime(Settings(home=home), StubExecutor()) as runtime, Client(create_app(runtime)) as client:
        tools = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
        templates = [one.uri_template for one in (await client.list_resource_templates()).resource_templates]
        return tools, templates


async def _filled_home(app: Any) -> dict[str, str]:
    """Two open studies with trials and a note, and a finished one; returns what the names of `KNOWN` stand for."""
    ids = dict[str, str]()
    async with Client(app) as client:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            answer = await client.call_tool(tool, arguments)
            assert answer.structured_content is not None, answer.content
            return answer.structured_content

        for place, name in enumerate(("$study0", "$study1", "$finished")):
            ids[name] = (await call("start_study", dataset="demo"))["study_id"]
            trial = await call("run_trial", study_id=ids[name])
            while trial["status"] in ("queued", "running"):
                trial = await call("get_trial", trial_id=trial["trial_id"], wait_seconds=1)
            ids[f"$trial{min(place, 1)}"] = trial["trial_id"]
        note = await call("write_heuristic", study_id=ids["$study0"], kind="heuristic", text="Less dropout.")
        ids["$note"] = note["note_id"]
        ids["$snapshot"] = (await call("read_memory", study_id=ids["$study0"]))["snapshot_id"]
        while (await call("finish_study", study_id=ids["$finished"]))["status"] == "running":
            pass
    return {**ids, "$dataset": "demo"}
