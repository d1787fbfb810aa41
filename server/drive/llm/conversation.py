"""One conversation with a model: its messages, begun anew in fewer words where they outgrow the model's context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from server.drive.llm.anonymous_names import Names
from server.drive.llm.context import FULL, LENGTHS, Length, opening
from server.drive.llm.dialogue import ContextTooLong, Dialogue, ModelFailed, ToolOutcome, ToolSpec, Turn
from server.drive.llm.transcript import Transcript
from server.drive.plan import ModelPlan
from server.drive.state import Drive


@dataclass
class Instructions:
    """What the model gets at the start of each context: system prompt, tools and the aliases of names."""

    system: str
    tools: list[ToolSpec]
    names: Names | None
    remembers: bool

    def opening(self, drive: Drive, latest: Sequence[str] = (), length: Length = FULL) -> str:
        """The first message of a context."""
        text = opening(drive.open_study, self.remembers, described=self.names is None, length=length)
        text = self.names.hide(text) if self.names else text
        cut = [answer if len(answer) <= length.answer else f"{answer[: length.answer]}… (cut)" for answer in latest]
        answers = "\nYour last calls were answered with:\n" + "\n".join(cut) if latest else ""
        several = drive.plan.parallel
        side = f" Up to {several} run_trial calls in one turn are trained side by side." if several > 1 else ""
        return f"{text}{answers}\nGo on with step 4.{side}"


class Conversation:
    """Sends the model what it is to be told, and returns its answers."""

    def __init__(self, drive: Drive, plan: ModelPlan, dialogue: Dialogue, instructions: Instructions) -> None:
        self._drive, self._plan, self._dialogue, self._instructions = drive, plan, dialogue, instructions
        self._most_tokens = plan.max_context
        self._length = 0
        self._text: str | None = None
        self._outcomes: list[ToolOutcome] = []
        self._begin([])

    def _begin(self, latest: Sequence[str]) -> None:
        """Drops the messages so far; the next one tells the study as it stands."""
        self._dialogue.begin(self._instructions.system, self._instructions.tools)
        self._text = self._instructions.opening(self._drive, latest, LENGTHS[self._length])
        self._outcomes = []

    def tell(self, text: str) -> None:
        """The next message of the user."""
        self._text, self._outcomes = text, []

    def answer(self, turn: Turn, outcomes: list[ToolOutcome]) -> None:
        """The results of the calls of `turn`. A context that is full is begun anew with them."""
        self._text, self._outcomes = None, outcomes
        if turn.read > self._most_tokens:
            self._begin([outcome.text for outcome in outcomes])

    async def next_turn(self, transcript: Transcript, seconds: float | None) -> Turn | None:
        """The model's next answer; None if none came in time. Raises ModelFailed, which names the endpoint."""
        with anyio.move_on_after(seconds):
            while True:
                if self._text:
                    transcript.add("user", text=self._text)
                try:
                    return await self._dialogue.turn(self._text, self._outcomes)
                except ContextTooLong as refusal:
                    self._shorten(refusal)
                except ModelFailed:
                    raise
                except Exception as error:
                    raise ModelFailed(
                        f"{self._plan.where} answered what cannot be used: {type(error).__name__}."
                    ) from error
        return None

    def _shorten(self, refusal: ContextTooLong) -> None:
        """Begins anew in fewer words, and sooner from now on. Raises ContextTooLong where there are no fewer."""
        if self._length + 1 == len(LENGTHS):
            raise refusal
        self._length += 1
        self._drive.remark(f"{refusal} The dialogue goes on with a shorter context.")
        self._begin([outcome.text for outcome in self._outcomes])
