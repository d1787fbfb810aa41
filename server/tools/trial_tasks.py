"""Trials as tasks: for clients that know tasks, run_trial answers at once with a task that follows the trial."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mcp.server.context import CallNext, HandlerResult
from mcp.types import CallToolRequestParams, CallToolResult

from memory.errors import UnknownTrial
from memory.off_loop import off_loop
from server.runtime import Runtime
from server.tools.call import result
from server.tools.tasks_extension import Ctx, State
from server.views.trial import read_trial_answer


class TrialWork:
    name = "trial"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def takes(self, tool: str) -> bool:
        return tool == "run_trial"

    def needs_task(self, tool: str) -> bool:
        return False

    async def begin(self, params: CallToolRequestParams, ctx: Ctx, call_next: CallNext) -> str | HandlerResult:
        params.arguments = {**(params.arguments or {}), "wait_seconds": 0}
        answer = await call_next(ctx)
        facts = answer.structured_content if isinstance(answer, CallToolResult) else None
        unfinished = facts is not None and facts.get("status") in ("queued", "running")
        return facts["trial_id"] if facts is not None and unfinished else answer

    async def state(self, key: str) -> State:
        return await off_loop(self._read_state, key)

    def _read_state(self, key: str) -> State:
        memory, now = self._runtime.memory, datetime.now(UTC)
        try:
            trial = memory.trial(key)
        except UnknownTrial:
            raise KeyError(key) from None
        if trial.status == "cancelled":
            return State("cancelled", now)
        if trial.finished:
            return State("completed", now, result=result(read_trial_answer(memory, trial)))
        if trial.status == "interrupted" and not self._runtime.supervisor.holds(key):
            why = self._runtime.supervisor.failure(key) or "the owner ended"
            text = f"Trial {key} was interrupted ({why}); the same run_trial starts a new attempt."
            return State("failed", now, error={"code": -32603, "message": text})
        epochs = len(memory.epochs(key))
        return State("working", now, message=f"{key}: {epochs} epoch{'' if epochs == 1 else 's'} done")

    async def cancel(self, key: str) -> None:
        await self._runtime.supervisor.cancel(key)

    async def answer(self, key: str, responses: Mapping[str, Any]) -> None:
        """Does nothing: a trial asks for no input."""
