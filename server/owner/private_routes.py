"""The owner's private HTTP routes: status, stop, presence, backup, export, recommend, packs, credit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import asdict
from typing import Any

from mcp.server import MCPServer
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from memory.errors import MemoryFault
from memory.exchange.pack_format import Imported, read_pack
from memory.off_loop import off_loop
from server.auth import Tokens
from server.client.home import (
    BACKUP_PATH,
    CREDIT_PATH,
    EXPORT_PATH,
    PACK_PATH,
    PACKS_PATH,
    PRESENCE_PATH,
    RECOMMEND_PATH,
    STATUS_PATH,
    STOP_PATH,
)
from server.client.status import QueueLine, Status
from server.executors.base import ExecutorError
from server.owner.activity import Activity
from server.portability import export as exports
from server.portability.backup import COPY
from server.portability.export import ExportRequest, ModelUnavailable, RecommendRequest
from server.runtime import Runtime
from server.scheduler.active_trial import ActiveTrial
from server.version import installed_version
from trainers.external import registry


def _queue_line(active: ActiveTrial) -> QueueLine:
    return QueueLine(
        trial_id=active.trial.trial_id, study_id=active.study.study_id, dataset=active.study.dataset,
        backbone=active.study.backbone, running=active.attempt is not None, epochs=len(active.epochs),
        memory_mb=round(active.wanted_mb), gpu=active.lease.place.gpu if active.lease else None,
    )  # fmt: skip


def add_private_routes(server: MCPServer[Runtime], runtime: Runtime, tokens: Tokens, activity: Activity) -> None:
    def private(path: str, method: str, answer: Callable[[Request], Awaitable[Response]]) -> None:
        async def guarded(request: Request) -> Response:
            if not tokens.is_private(request.headers):
                return JSONResponse({"error": "not found"}, status_code=404)
            try:
                return await answer(request)
            except (ValueError, RecursionError) as error:  # what a caller sent cannot be read
                reason = next(iter(str(error).splitlines()), "") or type(error).__name__
                return JSONResponse({"error": f"The request cannot be read: {reason[:300]}"}, status_code=400)

        server.custom_route(path, methods=[method])(guarded)

    def is_busy() -> bool:
        return bool(runtime.supervisor.busy or runtime.autopilot.studies)

    async def status(request: Request) -> Response:
        queue = [_queue_line(active) for active in runtime.supervisor.active_trials]
        facts = Status(
            version=installed_version(),
            clients=activity.clients,
            busy=is_busy(),
            running=[line.trial_id for line in queue if line.running],
            queued=[line.trial_id for line in queue if not line.running],
            playing=runtime.autopilot.studies,
            slots=runtime.supervisor.slots.places,
            queue=queue,
            replay=None if runtime.tables is None else str(runtime.tables.folder),
        )
        return JSONResponse(facts.model_dump())

    async def stop(request: Request) -> Response:
        by = request.query_params.get("by")
        if by == "successor" and (activity.kind != "detached" or activity.clients or is_busy()):
            return JSONResponse({"error": "only an idle detached owner makes way"}, status_code=409)
        if not activity.stopping.is_set():
            activity.ended_by_other = by != "user"
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
            await off_loop(runtime.memory.copy_to, runtime.settings.home / COPY)
        except MemoryFault as error:
            return JSONResponse({"error": str(error)}, status_code=409)
        return JSONResponse({})

    async def export(request: Request) -> Response:
        export_request = ExportRequest.model_validate_json(await request.body())
        return await _answer_or_cancel(request, exports.export(runtime, export_request))

    async def recommend(request: Request) -> Response:
        recommend_request = RecommendRequest.model_validate_json(await request.body())
        return await _answer_or_cancel(request, exports.recommend(runtime, recommend_request))

    async def export_pack(request: Request) -> Response:
        if runtime.tables is not None:
            message = (
                f"{runtime.settings.home} is a replay home: what it learned comes from recorded trainings, and is not "
                "exported, so that it never counts as evidence elsewhere."
            )
            return JSONResponse({"error": message}, status_code=409)
        pack = await off_loop(runtime.memory.packs.export, request.query_params.get("name", "memory"))
        return Response(pack.model_dump_json(), media_type="application/json")

    async def list_packs(request: Request) -> Response:
        packs = await off_loop(runtime.memory.packs.all)
        return JSONResponse([line.model_dump(mode="json") for line in packs])

    async def import_pack(request: Request) -> Response:
        content = await request.body()
        return await _answer_or_cancel(request, off_loop(_import_pack, runtime, content))

    async def credit(request: Request) -> Response:
        credits = await off_loop(runtime.memory.exposures.credits)
        return JSONResponse([{**asdict(entry), "credit": entry.words} for entry in credits])

    private(CREDIT_PATH, "GET", credit)
    private(PACK_PATH, "GET", export_pack)
    private(PACK_PATH, "POST", import_pack)
    private(PACKS_PATH, "GET", list_packs)
    private(BACKUP_PATH, "POST", backup)
    private(EXPORT_PATH, "POST", export)
    private(RECOMMEND_PATH, "POST", recommend)
    private(STATUS_PATH, "GET", status)
    private(STOP_PATH, "POST", stop)
    private(PRESENCE_PATH, "GET", presence)


def _import_pack(runtime: Runtime, content: bytes) -> Imported:
    pack = read_pack(json.loads(content))
    return runtime.memory.packs.take_in(pack, registry.spaces(runtime.settings.trainers_dir))


async def _answer_or_cancel(request: Request, work: Coroutine[Any, Any, BaseModel]) -> Response:
    """The result of the work, or one line that says why it failed. The work is cancelled when its client has gone."""
    working = asyncio.create_task(work)
    gone: asyncio.Future[Any] = asyncio.ensure_future(
        request.receive()
    )  # the body was read: only a disconnect can follow
    both: set[asyncio.Future[Any]] = {working, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return Response(status_code=499)
        return Response(working.result().model_dump_json(), media_type="application/json")
    except (ModelUnavailable, ExecutorError, MemoryFault) as error:
        return JSONResponse({"error": str(error)}, status_code=409)
    finally:
        for task in both:
            task.cancel()
        await asyncio.wait(both)
