"""The engineer's desk: typed calls of the MCP tools, and the trials that have come back so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.types import CallToolResult, TextContent, TextResourceContents
from pydantic import ValidationError

from memory.elsewhere import ELSEWHERE, Elsewhere
from memory.records import Study
from server import answers
from server.answers import (
    Answer,
    FinishAnswer,
    MemoryAnswer,
    MemoryItem,
    NoteAnswer,
    StartedStudy,
    StudyAnswer,
    TrialAnswer,
    TrialStatusAnswer,
)
from server.policies.base import Brief, Observation, Proposal
from server.sight import observe, seen
from trainers.space import Config, Space

AnswerType = TypeVar("AnswerType", bound=Answer)
GONE = (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream, httpx2.HTTPError, OSError)
UNFINISHED = ("queued", "running")


class Refused(RuntimeError):
    """The server understood the call and said no; the message is the server's."""


class ServerGone(RuntimeError):
    """The server does not answer any more, or answers what this client cannot read."""


class Desk:
    """One study seen from the client. `on_progress` hears of the trial that is waited on."""

    def __init__(self, client: Client, on_progress: Callable[[float, float | None], None], wait_seconds: float) -> None:
        self.client = client
        self.trials: dict[str, TrialAnswer] = {}
        """Finished trials in the order they came back."""
        self.configs: dict[str, Config] = {}
        self.running: set[str] = set()
        self.finish: FinishAnswer | None = None
        self.calibration: str | None = None
        """How well the predictions under this policy's label came true, once `notes` has read it."""
        self._study: StudyAnswer | None = None
        self._space: Space | None = None
        self._elsewhere: tuple[Elsewhere, ...] = ()
        self._on_progress = on_progress
        self.wait_seconds = wait_seconds

    @property
    def opened(self) -> bool:
        """Whether a study was started."""
        return self._study is not None

    @property
    def study(self) -> StudyAnswer:
        if self._study is None:
            raise ServerGone("No study was started.")
        return self._study

    @property
    def space(self) -> Space:
        if self._space is None:
            raise ServerGone("The study's space was never read.")
        return self._space

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """One tool call as it is; raises ServerGone where no answer comes."""
        try:
            return await self.client.call_tool(tool, arguments, progress_callback=self._progress)
        except MCPError as error:
            raise ServerGone(f"The server failed at {tool}: {error}") from error
        except GONE as error:
            raise ServerGone(f"The server went away during {tool} ({type(error).__name__}).") from error

    async def _progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._on_progress(progress, total)

    async def ask(self, tool: str, arguments: dict[str, Any], kind: type[AnswerType]) -> AnswerType:
        """One tool call with a typed answer; raises Refused with the server's words."""
        result = await self.call(tool, arguments)
        if result.is_error:
            raise Refused(text_of(result).removeprefix(f"Error executing tool {tool}: "))
        try:
            return kind.model_validate(result.structured_content)
        except ValidationError as error:
            raise ServerGone(
                f"The server's answer to {tool} is not that of this version: {error.errors()[0]['msg']}."
            ) from error

    async def start(self, arguments: dict[str, Any]) -> StudyAnswer:
        """Open the study and read its whole brief and its space."""
        opened = await self.ask("start_study", arguments, StudyAnswer)
        self._study = opened
        try:
            brief = answers.Brief.model_validate_json(await self._read(f"{opened.study_id}/brief"))
            self._study = opened.model_copy(update={"brief": brief})
            self._space = Space.model_validate_json(await self._read(f"{opened.study_id}/space"))
        except (MCPError, *GONE) as error:
            raise ServerGone(f"The server does not tell the study's brief and space: {error}") from error
        except ValidationError as error:
            raise ServerGone(f"The study's brief or space cannot be read: {error.errors()[0]['msg']}.") from error
        await self._learn_of_elsewhere()
        return self._study

    async def _read(self, path: str) -> str:
        """The text of a resource below the studies."""
        read = await self.client.read_resource(f"virtualmle://studies/{path}")
        return next((part.text for part in read.contents if isinstance(part, TextResourceContents)), "")

    async def _learn_of_elsewhere(self) -> None:
        """What was trained on other datasets; a server of an older version has nothing to say of it."""
        try:
            self._elsewhere = tuple(ELSEWHERE.validate_json(await self._read(f"{self.study.study_id}/elsewhere")))
        except MCPError:
            self._elsewhere = ()
        except GONE as error:
            raise ServerGone(f"The server went away ({type(error).__name__}).") from error
        except ValidationError as error:
            raise ServerGone(f"What was trained elsewhere cannot be read: {error.errors()[0]['msg']}.") from error

    async def reopen(self, study_id: str) -> Study:
        """Take up a study that was started elsewhere, with every trial that ended and, if it is finished, its test."""
        try:
            found = StartedStudy.model_validate_json(await self._read(study_id))
        except MCPError as error:
            raise Refused(str(error)) from error
        self._study = StudyAnswer(study_id=study_id, brief=found.brief, next="")
        self._space = found.study.space
        await self._learn_of_elsewhere()
        await self.catch_up()
        if found.study.finished:
            await self.end()
        return found.study

    async def catch_up(self) -> None:
        """Take in the trials of the study that ended and are not here yet: others may train in it, too."""
        for item in await self._items("trial", detail="full"):
            facts = item.facts or {}
            if item.id not in self.trials and facts.get("status") not in (*UNFINISHED, "interrupted"):
                self.configs[item.id] = self.space.check(facts["config"])
                self.trials[item.id] = await self.ask("get_trial", {"trial_id": item.id}, TrialAnswer)

    async def _items(self, level: str, detail: str = "summary") -> list[MemoryItem]:
        """All that memory holds of the study on one level."""
        arguments: dict[str, Any] = {"study_id": self.study.study_id, "level": level, "limit": 200, "detail": detail}
        found: list[MemoryItem] = []
        while True:
            answer = await self.ask("read_memory", arguments, MemoryAnswer)
            found += answer.items
            if answer.cursor is None:
                return found
            arguments["cursor"] = answer.cursor

    async def run(self, proposal: Proposal) -> TrialAnswer:
        """Train what a policy proposed and wait for its end."""
        arguments: dict[str, Any] = {"study_id": self.study.study_id, "changes": proposal.changes}
        arguments["snapshot_id"] = self.study.brief.snapshot_id
        for name in ("parent", "replicate_of", "hypothesis"):
            if (value := getattr(proposal, name)) is not None:
                arguments[name] = value
        if proposal.cites:
            arguments["cites"] = list(proposal.cites)
        if proposal.expected is not None:
            arguments["expected"] = proposal.expected.model_dump(exclude_none=True)
        return await self.run_trial(arguments)

    async def run_trial(self, arguments: dict[str, Any]) -> TrialAnswer:
        """run_trial to its end; a trial whose attempt was interrupted gets one more."""
        answer = await self._to_the_end(await self._ask_trial("run_trial", arguments, 0))
        if answer.status == "interrupted":
            answer = await self._to_the_end(await self._ask_trial("run_trial", arguments, 0))
        self._keep(answer)
        return answer

    async def _ask_trial(self, tool: str, arguments: dict[str, Any], wait_seconds: float) -> TrialAnswer:
        """Asked first without waiting, so that the trial's id is known should this client be interrupted."""
        answer = await self.ask(tool, {**arguments, "wait_seconds": wait_seconds}, TrialAnswer)
        if answer.status in UNFINISHED:
            self.running.add(answer.trial_id)
        else:
            self.running.discard(answer.trial_id)
        return answer

    async def _to_the_end(self, answer: TrialAnswer) -> TrialAnswer:
        while answer.status in UNFINISHED:
            answer = await self._ask_trial("get_trial", {"trial_id": answer.trial_id}, self.wait_seconds)
        return answer

    def config_of(self, proposal: Proposal) -> Config:
        """The whole configuration that a proposal would train."""
        if proposal.replicate_of is not None:
            return self.configs[proposal.replicate_of]
        return self.space.check({**self.configs.get(proposal.parent or "", self.space.default()), **proposal.changes})

    def _keep(self, answer: TrialAnswer) -> None:
        base = self.configs.get(answer.replicate_of or "") or answer.config
        if base is None:
            parent = self.configs.get(answer.parent or "", self.space.default())
            base = self.space.check({**parent, **answer.changes})
        self.configs[answer.trial_id] = base
        self.trials[answer.trial_id] = answer

    async def cancel_running(self) -> None:
        """End what is under way in this study, also a trial whose id never came here; keep what it came to."""
        found = await self._items("trial")
        started = [item.id for item in found if (item.facts or {}).get("status") in UNFINISHED]
        for trial_id in dict.fromkeys([*self.running, *started]):
            await self.ask("cancel_trial", {"trial_id": trial_id}, TrialStatusAnswer)
            self._keep(await self._to_the_end(await self._ask_trial("get_trial", {"trial_id": trial_id}, 1.0)))

    async def note(self, kind: str, text: str, evidence: list[str]) -> NoteAnswer:
        """Write down a reflection, a heuristic or a summary."""
        arguments = {"study_id": self.study.study_id, "kind": kind, "text": text, "evidence": evidence}
        return await self.ask("write_heuristic", arguments, NoteAnswer)

    async def learn(self, text: str, evidence: list[str], claim: dict[str, Any] | None) -> NoteAnswer:
        """Write down a heuristic. Where its claim cannot be kept, as when the data refute it, the text stands alone."""
        arguments: dict[str, Any] = {
            "study_id": self.study.study_id, "kind": "heuristic", "text": text, "evidence": evidence,
        }  # fmt: skip
        if claim is not None:
            try:
                return await self.ask("write_heuristic", {**arguments, "claim": claim}, NoteAnswer)
            except Refused:
                pass
        return await self.ask("write_heuristic", arguments, NoteAnswer)

    async def notes(self) -> list[MemoryItem]:
        """What was written down in this study; reads how well its predictions came true, too."""
        whole = await self.ask("read_memory", {"study_id": self.study.study_id, "limit": 1}, MemoryAnswer)
        self.calibration = whole.digest.calibration if whole.digest else None
        found: list[MemoryItem] = []
        for level in ("reflection", "heuristic", "summary"):
            found += await self._items(level)
        return [item for item in found if item.study_id == self.study.study_id]

    async def end(self, summary: str | None = None) -> FinishAnswer:
        """Finish the study and wait for the sealed test."""
        arguments: dict[str, Any] = {"study_id": self.study.study_id, "wait_seconds": self.wait_seconds}
        told = {"summary": summary} if summary else {}
        answer = await self.ask("finish_study", {**arguments, **told}, FinishAnswer)
        while answer.status == "running":
            answer = await self.ask("finish_study", arguments, FinishAnswer)
        self.finish = answer
        return answer

    def observations(self) -> list[Observation]:
        """The trainings so far as policies see them."""
        metric = self.study.brief.metric
        return [observe(answer, self.configs[answer.trial_id], metric) for answer in self.trials.values()]

    def brief(self) -> Brief:
        """What policies are told beside the trials."""
        latest = next(reversed(self.trials.values()), None)
        left, seconds = (latest.trials_left, latest.seconds_left) if latest else (None, None)
        return seen(self.study.brief, self._elsewhere, left, seconds)


def text_of(result: CallToolResult) -> str:
    """The text of a tool's result."""
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))
