"""The owner's HTTP app: /mcp behind tokens and Host checks, the private routes, and who is using it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import import_module
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memory.errors import MemoryFault
from memory.pack import Imported, read_pack
from server import takehome
from server.app import create_app
from server.auth import CHALLENGE, Tokens, bearer
from server.backup import COPY
from server.dashboard.routes import add_page
from server.executors.base import ExecutorError
from server.home import (
    BACKUP_PATH,
    CREDIT_PATH,
    EXPORT_PATH,
    MCP_PATH,
    PACK_PATH,
    PRESENCE_PATH,
    RECOMMEND_PATH,
    STATUS_PATH,
    STOP_PATH,
)
from server.httplog import Logged
from server.job import Job
from server.metering import CONTENT_TYPE, Meter
from server.owner_status import QueueLine, Status
from server.runtime import Runtime
from server.settings import Settings
from server.takehome import ExportRequest, RecommendRequest, TakeHomeRefused
from server.version import installed_version

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_CALL_GRACE_SECONDS = 2.5
"""A call in flight may still finish so long after the owner was told to end."""


class Activity:
    """Who uses the owner now, when the last one left, and whether it is to end."""

    def __init__(self) -> None:
        self.clients = 0
        self.stopping = anyio.Event()
        self._left_at = time.monotonic()

    @contextmanager
    def client(self) -> Generator[None]:
        self.clients += 1
        try:
            yield
        finally:
            self.clients -= 1
            self.touch()

    def touch(self) -> None:
        self._left_at = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        return 0.0 if self.clients else time.monotonic() - self._left_at


def build_web(
    runtime: Runtime, tokens: Tokens, activity: Activity, hosts: tuple[str, ...], fixtures: str | None = None
) -> ASGIApp:
    """The ASGI app of an owner that listens under `hosts` beside the loopback names, with a module of `fixtures`."""
    server = create_app(runtime, tokens)
    if fixtures is not None:
        import_module(fixtures).register(server)
    meter = Meter(partial(_gauges, runtime, activity))
    server.on_call = meter.called
    _add_metrics(server, meter, tokens)
    admitted = allowed(runtime.settings, hosts)
    add_page(server, runtime, tokens, admitted)
    _add_private_routes(server, runtime, tokens, activity)
    app = server.streamable_http_app(
        streamable_http_path=MCP_PATH,
        json_response=False,
        stateless_http=False,
        transport_security=admitted,
    )
    most = int(runtime.settings.max_request_mb * 2**20)
    return Logged(_Watched(app, tokens, activity), MCP_PATH, most, meter.requested)


def _gauges(runtime: Runtime, activity: Activity) -> dict[str, tuple[str, float]]:
    jobs = runtime.supervisor.jobs
    running = sum(job.attempt is not None for job in jobs)
    database = runtime.settings.database
    return {
        "clients": ("Clients that are connected.", activity.clients),
        "trials_running": ("Trainings under way.", running),
        "trials_queued": ("Trials that wait for a slot.", len(jobs) - running),
        "slots": ("Trainings that go on at a time, at most.", runtime.supervisor.slots.places),
        "policies_playing": ("Studies that a policy plays.", len(runtime.autopilot.studies)),
        "memory_bytes": ("Size of the memory file.", database.stat().st_size if database.exists() else 0),
    }


def _add_metrics(server: MCPServer[Runtime], meter: Meter, tokens: Tokens) -> None:
    async def metrics(request: Request) -> Response:
        if tokens.required and await tokens.verify_token(bearer(request.headers)) is None:
            return JSONResponse({"error": "a bearer token is needed"}, status_code=401, headers=CHALLENGE)
        return Response(meter.text(), media_type=CONTENT_TYPE)

    server.custom_route("/metrics", methods=["GET"])(metrics)


def allowed(settings: Settings, hosts: tuple[str, ...]) -> TransportSecuritySettings:
    """Host and Origin headers admitted: loopback, what is listened on, and what the settings add."""
    names = (*_LOOPBACK_NAMES, *hosts, *settings.allowed_hosts)
    own = [f"{scheme}://{name}" for scheme in ("http", "https") for name in names]
    return TransportSecuritySettings(
        allowed_hosts=[form for name in names for form in (name, f"{name}:*")],
        allowed_origins=[form for origin in (*own, *settings.allowed_origins) for form in (origin, f"{origin}:*")],
    )


def _queue_line(job: Job) -> QueueLine:
    return QueueLine(
        trial_id=job.trial.trial_id, study_id=job.study.study_id, dataset=job.study.dataset,
        backbone=job.study.backbone, running=job.attempt is not None, epochs=len(job.epochs),
        memory_mb=round(job.wanted_mb), gpu=job.lease.place.gpu if job.lease else None,
    )  # fmt: skip


def _add_private_routes(server: MCPServer[Runtime], runtime: Runtime, tokens: Tokens, activity: Activity) -> None:
    def private(path: str, method: str, answer: Callable[[Request], Awaitable[Response]]) -> None:
        async def guarded(request: Request) -> Response:
            if not tokens.is_private(request.headers):
                return JSONResponse({"error": "not found"}, status_code=404)
            return await answer(request)

        server.custom_route(path, methods=[method])(guarded)

    async def status(request: Request) -> Response:
        queue = [_queue_line(job) for job in runtime.supervisor.jobs]
        facts = Status(
            version=installed_version(),
            clients=activity.clients,
            busy=bool(runtime.supervisor.active or runtime.autopilot.studies),
            running=[line.trial_id for line in queue if line.running],
            queued=[line.trial_id for line in queue if not line.running],
            playing=runtime.autopilot.studies,
            slots=runtime.supervisor.slots.places,
            queue=queue,
        )
        return JSONResponse(facts.model_dump())

    async def stop(request: Request) -> Response:
        activity.stopping.set()
        return await status(request)

    async def presence(request: Request) -> Response:
        async def until_stopped() -> AsyncIterator[bytes]:
            with activity.client():
                await activity.stopping.wait()
                yield b""

        if activity.stopping.is_set():
            return Response("The owner is ending.", status_code=503)
        return StreamingResponse(until_stopped(), media_type="application/octet-stream")

    async def backup(request: Request) -> Response:
        try:
            await asyncio.to_thread(runtime.memory.copy_to, runtime.settings.home / COPY)
        except MemoryFault as error:
            return JSONResponse({"error": str(error)}, status_code=409)
        return JSONResponse({})

    async def export(request: Request) -> Response:
        asked = ExportRequest.model_validate_json(await request.body())
        return await _answered(request, takehome.export(runtime, asked))

    async def recommend(request: Request) -> Response:
        asked = RecommendRequest.model_validate_json(await request.body())
        return await _answered(request, takehome.recommend(runtime, asked))

    async def written_pack(request: Request) -> Response:
        pack = await asyncio.to_thread(runtime.memory.packs.export, request.query_params.get("name", "memory"))
        return Response(pack.model_dump_json(), media_type="application/json")

    async def taken_pack(request: Request) -> Response:
        given = await request.body()
        return await _answered(request, asyncio.to_thread(_take_in, runtime, given))

    async def credit(request: Request) -> Response:
        found = await asyncio.to_thread(runtime.memory.ledger.credits)
        return JSONResponse([{**asdict(one), "credit": one.words} for one in found])

    private(CREDIT_PATH, "GET", credit)
    private(PACK_PATH, "GET", written_pack)
    private(PACK_PATH, "POST", taken_pack)
    private(BACKUP_PATH, "POST", backup)
    private(EXPORT_PATH, "POST", export)
    private(RECOMMEND_PATH, "POST", recommend)
    private(STATUS_PATH, "GET", status)
    private(STOP_PATH, "POST", stop)
    private(PRESENCE_PATH, "GET", presence)


def _take_in(runtime: Runtime, given: bytes) -> Imported:
    return runtime.memory.packs.take_in(read_pack(json.loads(given)))


async def _answered(request: Request, work: Coroutine[Any, Any, BaseModel]) -> Response:
    """What the work comes to, or one line that says why it does not. It ends when nobody waits for it any more."""
    working = asyncio.create_task(work)
    gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())  # the body is read: only the end can come
    both: set[asyncio.Future[Any]] = {working, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return Response(status_code=499)
        return Response(working.result().model_dump_json(), media_type="application/json")
    except (TakeHomeRefused, ExecutorError, MemoryFault) as error:
        return JSONResponse({"error": str(error)}, status_code=409)
    finally:
        for task in both:
            task.cancel()
        await asyncio.wait(both)


class _Watched:
    """Counts the calls of clients that announce no presence, and ends every call when the owner ends."""

    def __init__(self, app: ASGIApp, tokens: Tokens, activity: Activity) -> None:
        self._app = app
        self._tokens = tokens
        self._activity = activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != MCP_PATH:
            await self._app(scope, receive, send)
            return
        if self._tokens.is_private(Request(scope).headers):
            self._activity.touch()
            await self._until_stopped(scope, receive, send)
            return
        with self._activity.client():
            await self._until_stopped(scope, receive, send)

    async def _until_stopped(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = finished = False

        async def watch(message: Message) -> None:
            nonlocal started, finished
            started = started or message["type"] == "http.response.start"
            finished = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        async def cancel_when_stopped() -> None:
            await self._activity.stopping.wait()
            if scope["method"] == "POST":
                await anyio.sleep(_CALL_GRACE_SECONDS)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_when_stopped)
            await self._app(scope, receive, watch)
            tasks.cancel_scope.cancel()
        if not started:
            await Response("The owner is ending.", status_code=503)(scope, receive, send)
        elif not finished:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
