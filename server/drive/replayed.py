"""A transcript as a model: it says what was said then, so that a drive can be played again without an endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from server.drive.dialogue import Dialogue, ModelFailed, ToolCall, ToolOutcome, ToolSpec, Turn
from server.drive.plan import ModelPlan

IDS = ("study_id", "trial_id", "heuristic_id", "snapshot_id")


class ReplayedDialogue(Dialogue):
    """Ids differ from run to run: those of then are matched with those of now as answers come, and replaced."""

    def __init__(self, plan: ModelPlan, key: str | None) -> None:
        assert plan.replay is not None
        self._lines = _read(plan.replay)
        self._place = 0
        self._ids: dict[str, str] = {}

    def begin(self, system: str, tools: Sequence[ToolSpec]) -> None:
        """The transcript says what it says."""

    async def turn(self, said: str | None, outcomes: Sequence[ToolOutcome]) -> Turn:
        waiting = list(outcomes)
        while self._place < len(self._lines):
            line = self._lines[self._place]
            self._place += 1
            if line["role"] == "user" and said is not None:
                self._match(str(line["text"]), said)
            elif line["role"] == "tool" and waiting:
                self._match(str(line["text"]), waiting.pop(0).text)
            elif line["role"] == "assistant":
                return Turn(str(line["text"]), tuple(map(self._call, line["calls"])), int(line["tokens"]))
        return Turn("", (), 0)

    def _match(self, then: str, now: str) -> None:
        """Ids stand in the same order in what was said then and now."""
        for name in IDS:
            pairs = zip(_ids(then, name), _ids(now, name), strict=False)
            self._ids |= dict(pairs)

    def _call(self, call: dict[str, Any]) -> ToolCall:
        text = json.dumps(call["arguments"], ensure_ascii=False)
        for then, now in self._ids.items():
            text = text.replace(f'"{then}"', f'"{now}"')
        return ToolCall(call["id"], call["name"], json.loads(text), call.get("problem"))

    async def aclose(self) -> None:
        """Nothing is open."""


def _ids(text: str, name: str) -> Iterator[str]:
    """The values of a key in JSON that stands anywhere in a text, in their order."""
    compact = text.replace('": "', '":"')
    for part in compact.split(f'"{name}":"')[1:]:
        yield part.split('"', 1)[0]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise ModelFailed(f"--replay {path} is no transcript.jsonl of a drive: {said}.") from None
    if not any(isinstance(line, dict) and cast("dict[str, Any]", line).get("role") == "assistant" for line in lines):
        raise ModelFailed(f"--replay {path} is no transcript.jsonl of a drive: no model says anything in it.")
    return cast("list[dict[str, Any]]", lines)
