"""Drives of a model whose endpoint answers from a script, against a fake server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from server.drive.plan import ModelPlan, Provider
from server.drive.run import DriveFailed, run_drive
from tests.support.fake_endpoint import Endpoint, Script, serving
from tests.support.fake_server import FakeServer
from tests.support.plans import plan_for

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}


class Played:
    """What a drive against a script of replies left behind."""

    def __init__(self, server: FakeServer, endpoint: Endpoint, folder: Path, failure: str | None = None) -> None:
        self.server, self.endpoint, self.folder, self.failure = server, endpoint, folder, failure

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "report.json").read_text())

    @property
    def page(self) -> str:
        return (self.folder / "report.md").read_text()

    @property
    def transcript(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "transcript.jsonl").read_text().splitlines()]

    def told(self, request: int) -> list[str]:
        """The tool results of a request's last message or messages, whichever the format."""
        messages = self.endpoint.requests[request]["messages"]
        if PATHS["anthropic"] == self.endpoint.paths[request]:
            return [part["content"] for part in messages[-1]["content"] if part["type"] == "tool_result"]
        last = max(n for n, message in enumerate(messages) if message["role"] == "assistant")
        return [message["content"] for message in messages[last + 1 :] if message["role"] == "tool"]


def play(provider: Provider, replies: Script, folder: Path, server: FakeServer | None = None, **more: Any) -> Played:
    """Drives the model; `more` are options of the plan and of the model. Raises DriveFailed."""
    given: dict[str, Any] = {
        "max_trials": 3, "budget_seconds": None, "memory": "on", "reflection": True, "parallel": 1, "resume": None,
    }  # fmt: skip
    plan_values = {name: more.pop(name) for name in list(more) if name in given}
    server = server or FakeServer()
    with serving(replies) as endpoint:
        url = f"{endpoint.url}/v1" if provider == "openai" else endpoint.url
        model = ModelPlan("m", provider, url, retries=more.pop("retries", 1), **more)
        plan = plan_for(policy="llm", model=model, **{**given, **plan_values})
        try:
            code, failure = run_drive(plan, server.connect, folder, folder, False), None
        except DriveFailed as error:
            code, failure = 1, str(error)
    assert code == (0 if failure is None else 1)
    return Played(server, endpoint, folder, failure)
