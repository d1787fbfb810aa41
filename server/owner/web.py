"""The owner's HTTP app: /mcp behind tokens and Host checks, the study page, the private routes and the metrics."""

from __future__ import annotations

from functools import partial
from importlib import import_module

from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from server.auth import CHALLENGE, Tokens, bearer
from server.client.home import MCP_PATH
from server.dashboard.routes import add_page
from server.owner.access_log import RequestLog
from server.owner.activity import Activity, ActivityWatch
from server.owner.connections import Limits
from server.owner.gate import BodyLimit, Gate
from server.owner.metrics import CONTENT_TYPE, Meter
from server.owner.private_routes import add_private_routes
from server.runtime import Runtime
from server.settings import Settings
from server.tools.app import create_app

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


def build_web(
    runtime: Runtime, tokens: Tokens, activity: Activity, hosts: tuple[str, ...], fixtures: str | None = None
) -> ASGIApp:
    """The owner's ASGI app. `hosts` are its names besides those of loopback; `fixtures` is a module to register."""
    server = create_app(runtime, tokens)
    if fixtures is not None:
        import_module(fixtures).register(server)
    meter = Meter(partial(_gauges, runtime, activity))
    server.on_call = meter.count_call
    _add_metrics(server, meter, tokens)
    security = transport_security(runtime.settings, hosts)
    add_page(server, runtime, tokens)
    add_private_routes(server, runtime, tokens, activity)
    max_bytes = int(runtime.settings.max_request_mb * 2**20)
    app = server.streamable_http_app(
        streamable_http_path=MCP_PATH,
        json_response=False,
        stateless_http=False,
        max_request_body_size=max_bytes,
        transport_security=security,
    )
    watched = ActivityWatch(BodyLimit(app, max_bytes), tokens, activity)
    return RequestLog(Gate(watched, tokens, security, Limits().header_bytes), meter.count_request)


def _gauges(runtime: Runtime, activity: Activity) -> dict[str, tuple[str, float]]:
    trials = runtime.supervisor.active_trials
    running = sum(active.attempt is not None for active in trials)
    database = runtime.settings.database
    return {
        "clients": ("Clients that are connected.", activity.clients),
        "trials_running": ("Trainings under way.", running),
        "trials_queued": ("Trials that wait for a slot.", len(trials) - running),
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


def transport_security(settings: Settings, hosts: tuple[str, ...]) -> TransportSecuritySettings:
    """The Host and Origin headers admitted: loopback, the address listened on, and those in the settings."""
    names = (*_LOOPBACK_NAMES, *hosts, *settings.allowed_hosts)
    origins = [f"{scheme}://{name}" for scheme in ("http", "https") for name in names]
    return TransportSecuritySettings(
        allowed_hosts=[form for name in names for form in (name, f"{name}:*")],
        allowed_origins=[form for origin in (*origins, *settings.allowed_origins) for form in (origin, f"{origin}:*")],
    )
