"""The routes of the study page: one page without data, and the data that it requests with a token."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import cache
from importlib import resources
from typing import Any

from mcp.server import MCPServer
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from memory.errors import UnknownStudy
from memory.off_loop import off_loop
from server.auth import CHALLENGE, Tokens, bearer
from server.charts.numbers import StudyNumbers, numbers
from server.runtime import Runtime
from server.study.history import read_history
from server.study.replayed import replay_of
from server.views.finish import finish_answer
from server.views.items import note_item, study_line
from server.views.progress import progress, table

NEWEST_STUDIES = 200
"""How many of the newest studies the page offers."""
DATA_PATH = "/page/studies"
APP = "ui://virtualmle/study"
"""URI of the same page for clients that show MCP Apps; there it reads its data from a resource."""

Answer = Callable[[Request], Awaitable[Response]]


def add_page(server: MCPServer[Any], runtime: Runtime, tokens: Tokens) -> None:
    """Adds / and /page. Where tokens are required, data needs one. The owner's gate has checked Host and Origin."""

    def route(path: str, answer: Answer) -> None:
        async def guarded(request: Request) -> Response:
            if tokens.required and await tokens.verify_token(bearer(request.headers)) is None:
                return JSONResponse({"error": "a bearer token is needed"}, status_code=401, headers=CHALLENGE)
            return await answer(request)

        server.custom_route(path, methods=["GET"])(guarded)

    async def page(request: Request) -> Response:
        return HTMLResponse(page_html(), headers=_HEADERS | {"content-security-policy": content_security_policy()})

    async def studies(request: Request) -> Response:
        lines = await off_loop(_study_lines, runtime)
        return JSONResponse(lines, headers=_HEADERS)

    async def study(request: Request) -> Response:
        try:
            data = await off_loop(study_data, runtime, request.path_params["study_id"])
        except UnknownStudy as fault:
            return JSONResponse({"error": str(fault)}, status_code=404)
        return JSONResponse(data, headers=_HEADERS)

    server.custom_route("/", methods=["GET"])(page)
    route(DATA_PATH, studies)
    route(f"{DATA_PATH}/{{study_id}}", study)


def _study_lines(runtime: Runtime) -> list[dict[str, Any]]:
    studies = runtime.memory.studies()[:NEWEST_STUDIES]
    trials = runtime.memory.trials_of([study.study_id for study in studies])
    lines = [study_line(study, trials[study.study_id]) for study in studies]
    return [line.model_dump(mode="json", exclude_none=True) for line in lines]


def study_data(runtime: Runtime, study_id: str) -> dict[str, Any]:
    """Everything that the page shows about one study. Raises UnknownStudy."""
    memory = runtime.memory
    history = read_history(memory, study_id)
    study = history.study
    drawn: StudyNumbers = numbers(memory, study)
    notes = [note_item(note) for note in memory.notes(study_id=study.study_id)]
    facts = progress(memory, study, limit=1).model_dump(mode="json", exclude_none=True, exclude={"table", "next"})
    return {
        **facts,
        "table": [line.model_dump(mode="json", exclude_none=True) for line in table(history)],
        "numbers": asdict(drawn),
        "trials": [
            trial.model_dump(mode="json", include={"trial_id", "number", "seed", "status", "verdict", "hypothesis"})
            | {"score": trial.validation.get(study.metric), "seconds": trial.seconds}
            for trial in history.trials
        ],
        "notes": [note.model_dump(mode="json", exclude_none=True) for note in notes],
        "replay": replay.words if (replay := replay_of(study)) else None,
        "ending": finish_answer(memory, runtime.settings, study).words if study.finished else None,
    }


_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


@cache
def page_html() -> str:
    """The content of study.html."""
    return (resources.files("server.dashboard") / "study.html").read_text(encoding="utf-8")


@cache
def content_security_policy() -> str:
    """Lets the page use only the script and the style in it, and connect only to its own host."""

    def hash_of(tag: str) -> str:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page_html(), re.DOTALL)
        return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; script-src {hash_of('script')}; style-src {hash_of('style')}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
