"""The study page of an owner: one page without data, and the data that it asks for with a token."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import cache
from importlib import resources
from typing import Any

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from memory.errors import UnknownStudy
from memory.records import Study
from server.auth import CHALLENGE, Tokens, bearer
from server.dashboard.numbers import StudyNumbers, numbers
from server.progress import progress, table
from server.reveal import finish_answer
from server.runtime import Runtime
from server.views import note_item, study_line

STUDIES = 200
"""The newest ones, which the page offers."""
DATA_PATH = "/page/studies"
APP = "ui://virtualmle/study"
"""The same page for hosts that show MCP Apps; it reads its data from a resource."""

Answer = Callable[[Request], Awaitable[Response]]


def add_page(server: MCPServer[Any], runtime: Runtime, tokens: Tokens, hosts: TransportSecuritySettings) -> None:
    """Routes / and /page; data only for a token, where there are tokens, and for Host names that are admitted."""
    security = TransportSecurityMiddleware(hosts)

    def route(path: str, answer: Answer) -> None:
        async def guarded(request: Request) -> Response:
            if refusal := await security.validate_request(request, is_post=False):
                return refusal
            if tokens.required and await tokens.verify_token(bearer(request.headers)) is None:
                return JSONResponse({"error": "a bearer token is needed"}, status_code=401, headers=CHALLENGE)
            return await answer(request)

        server.custom_route(path, methods=["GET"])(guarded)

    async def page(request: Request) -> Response:
        return HTMLResponse(html(), headers=_HEADERS | {"content-security-policy": policy()})

    async def studies(request: Request) -> Response:
        found = runtime.memory.studies()[:STUDIES]
        lines = [study_line(runtime.memory, study).model_dump(mode="json", exclude_none=True) for study in found]
        return JSONResponse(lines, headers=_HEADERS)

    async def study(request: Request) -> Response:
        try:
            known = runtime.memory.study(request.path_params["study_id"])
        except UnknownStudy as fault:
            return JSONResponse({"error": str(fault)}, status_code=404)
        found = await anyio.to_thread.run_sync(study_data, runtime, known)
        return JSONResponse(found, headers=_HEADERS)

    server.custom_route("/", methods=["GET"])(page)
    route(DATA_PATH, studies)
    route(f"{DATA_PATH}/{{study_id}}", study)


def study_data(runtime: Runtime, study: Study) -> dict[str, Any]:
    """Everything that the page shows of one study."""
    memory = runtime.memory
    trials = memory.trials(study.study_id)
    drawn: StudyNumbers = numbers(memory, study)
    notes = [note_item(note) for note in memory.notes(study_id=study.study_id)]
    facts = progress(memory, study, limit=1).model_dump(mode="json", exclude_none=True, exclude={"table", "next"})
    return {
        **facts,
        "table": [line.model_dump(mode="json", exclude_none=True) for line in table(study, trials)],
        "numbers": asdict(drawn),
        "trials": [
            trial.model_dump(mode="json", include={"trial_id", "number", "seed", "status", "verdict", "hypothesis"})
            | {"score": trial.validation.get(study.metric), "seconds": trial.seconds}
            for trial in trials
        ],
        "notes": [note.model_dump(mode="json", exclude_none=True) for note in notes],
        "ending": finish_answer(memory, runtime.settings, study).words if study.finished else None,
    }


_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


@cache
def html() -> str:
    """The page itself."""
    return (resources.files("server.dashboard") / "study.html").read_text(encoding="utf-8")


@cache
def policy() -> str:
    """What the page may do: run the script and the style that it came with, and ask its own host."""

    def hashed(tag: str) -> str:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html(), re.DOTALL)
        return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
