"""Replays a model's transcript, so that a drive can be repeated without an endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from server.drive.llm.dialogue import Dialogue, ModelFailed, ToolCall, ToolOutcome, ToolSpec, Turn
from server.drive.plan import ModelPlan

IDS = ("study_id", "trial_id", "note_id", "heuristic_id", "snapshot_id")


class ReplayedDialogue(Dialogue):
    """Answers with the recorded turns. Ids differ between runs, so recorded ids are replaced by current ones."""

    def __init__(self, plan: ModelPlan, key: str | None) -> None:
        assert plan.replay is not None
        self._lines = _read(plan.replay)
        self._place = 0
        self._ids: dict[str, str] = {}

    def begin(self, system: str, tools: Sequence[ToolSpec]) -> None:
        """Does nothing: the transcript is fixed."""

    async def turn(self, user_text: str | None, outcomes: Sequence[ToolOutcome]) -> Turn:
        waiting = list(outcomes)
        while self._place < len(self._lines):
            line = self._lines[self._place]
            self._place += 1
            if line["role"] == "user" and user_text is not None:
                self._match_ids(str(line["text"]), user_text)
            elif line["role"] == "tool" and waiting:
                self._match_ids(str(line["text"]), waiting.pop(0).text)
            elif line["role"] == "assistant":
                return Turn(str(line["text"]), tuple(map(self._call, line["calls"])), int(line["tokens"]))
        return Turn("", (), 0)

    def _match_ids(self, recorded: str, current: str) -> None:
        """Pairs the ids of two texts, which hold them in the same order."""
        for name in IDS:
            pairs = zip(_ids(recorded, name), _ids(current, name), strict=False)
            self._ids |= dict(pairs)

    def _call(self, call: dict[str, Any]) -> ToolCall:
        text = json.dumps(call["arguments"], ensure_ascii=False)
        for recorded, current in self._ids.items():
            text = text.replace(f'"{recorded}"', f'"{current}"')
        return ToolCall(call["id"], call["name"], json.loads(text), call.get("problem"))

    async def aclose(self) -> None:
        """Does nothing: nothing is open."""


def _ids(text: str, name: str) -> Iterator[str]:
    """The values of a JSON key anywhere in a text, in their order."""
    compact = text.replace('": "', '":"')
    for part in compact.split(f'"{name}":"')[1:]:
        yield part.split('"', 1)[0]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFailed(f"--replay-transcript {path} is no transcript.jsonl of a drive: {reason}.") from None
    if not any(isinstance(line, dict) and cast("dict[str, Any]", line).get("role") == "assistant" for line in lines):
        raise ModelFailed(
            f"--replay-transcript {path} is no transcript.jsonl of a drive: no model says anything in it."
        )
    return cast("list[dict[str, Any]]", lines)
