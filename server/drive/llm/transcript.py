"""The file of a dialogue, and the tokens that it took."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from server.drive.llm.dialogue import Turn
from server.drive.llm.prices import Price

TRANSCRIPT = "transcript.jsonl"


@dataclass
class TokenUsage:
    """The tokens that the model has used so far, and their price."""

    price: Price | None
    read: int = 0
    written: int = 0

    @property
    def tokens(self) -> int:
        return self.read + self.written

    @property
    def dollars(self) -> float:
        return self.price.of(self.read, self.written) if self.price else 0.0

    def add(self, turn: Turn) -> None:
        self.read += turn.read
        self.written += turn.tokens - turn.read

    def words(self) -> str:
        """One sentence on the usage, with dollars if there is a price."""
        cost = f", about ${self.dollars:.2f}" if self.price else ""
        return f"The model read {self.read:,} tokens and wrote {self.written:,}{cost}."


class Transcript:
    """A file of the dialogue as it happens, one JSON object per line. It holds no key: messages never contain one.

    With `goes_on`, it follows what the file holds; a last line that was cut short is dropped.
    """

    def __init__(self, folder: Path, goes_on: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / TRANSCRIPT
        before = self._path.read_bytes() if goes_on and self._path.exists() else b""
        self._path.write_bytes(before[: before.rfind(b"\n") + 1])

    def add(self, role: str, **facts: Any) -> None:
        with self._path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(json.dumps({"role": role, **facts}, ensure_ascii=False) + "\n")

    def usage(self, price: Price | None) -> TokenUsage:
        """The tokens of the turns in the file."""
        usage = TokenUsage(price)
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                turn: Any = json.loads(line)
                if turn["role"] == "assistant":
                    total = int(turn["tokens"])
                    usage.add(Turn("", (), total, read=int(cast("dict[str, Any]", turn).get("read", total))))
            except (ValueError, KeyError, TypeError):
                continue  # a line that somebody else wrote
        return usage
