"""A study as its client sees it: typed calls of the MCP tools, and the trials that have finished so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.types import CallToolResult, TextContent, TextResourceContents
from pydantic import ValidationError

from memory.records import Study
from memory.statistics.elsewhere import ELSEWHERE, Elsewhere
from server import answers
from server.answers import (
    Answer,
    FinishAnswer,
    MemoryItem,
    NoteAnswer,
    StartedStudy,
    StudyAnswer,
    StudyNotes,
    StudyTrials,
    TrialAnswer,
    TrialLine,
    TrialStatusAnswer,
)
from server.policies.base import Observation, PolicyContext, Proposal
from server.policies.inputs import default_first, observe, policy_context
from trainers.contract.space import Config, Space

AnswerType = TypeVar("AnswerType", bound=Answer)
GONE = (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream, httpx2.HTTPError, OSError)
Page = TypeVar("Page", StudyTrials, StudyNotes)
STUDIES = "virtualmle://studies/"
UNFINISHED = ("queued", "running")
KINDS = ("reflection", "heuristic", "summary")


class Refused(RuntimeError):
    """The server understood the call and refused it; the message is the server's."""


class ServerGone(RuntimeError):
    """The server does not answer any more, or answers what this client cannot read."""


class StudyClient:
    """One study seen from the client. `on_progress` gets the epochs, and their limit, of the trial waited for."""

    def __init__(self, client: Client, on_progress: Callable[[float, float | None], None], wait_seconds: float) -> None:
        self.client = client
        self.trials: dict[str, TrialAnswer] = {}
        """Finished trials by id, in the order in which they came back."""
        self.configs: dict[str, Config] = {}
        self.running: set[str] = set()
        self.finish: FinishAnswer | None = None
        self.calibration: str | None = None
        """How well this policy's predictions came true, once `notes` has read it."""
        self._study: StudyAnswer | None = None
        self._space: Space | None = None
        self._elsewhere: tuple[Elsewhere, ...] = ()
        self.request_key: Callable[[], str] | None = None
        """Makes the request_key of each trial; None sends none."""
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
        """One tool call with its raw result. Raises ServerGone where no answer comes."""
        try:
            return await self.client.call_tool(tool, arguments, progress_callback=self._progress)
        except MCPError as error:
            raise ServerGone(f"The server failed at {tool}: {error}") from error
        except GONE as error:
            raise ServerGone(f"The server went away during {tool} ({type(error).__name__}).") from error

    async def _progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._on_progress(progress, total)

    async def ask(self, tool: str, arguments: dict[str, Any], kind: type[AnswerType]) -> AnswerType:
        """One tool call with a typed answer. Raises Refused with the server's message."""
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
        try:
            brief = answers.Brief.model_validate_json(await self._read_resource(f"{opened.study_id}/brief"))
            self._space = Space.model_validate_json(await self._read_resource(f"{opened.study_id}/space"))
            self._study = opened.model_copy(update={"brief": brief})
        except (MCPError, *GONE) as error:
            raise ServerGone(f"The server does not tell brief and space of study {opened.study_id}: {error}") from error
        except ValidationError as error:
            raise ServerGone(f"The study's brief or space cannot be read: {error.errors()[0]['msg']}.") from error
        await self._read_elsewhere()
        return self._study

    async def _read_resource(self, path: str) -> str:
        """The text of the resource virtualmle://studies/PATH."""
        read = await self.client.read_resource(f"{STUDIES}{path}")
        return next((part.text for part in read.contents if isinstance(part, TextResourceContents)), "")

    async def _read_elsewhere(self) -> None:
        """Read what was trained on other datasets; a server of an older version does not offer it."""
        try:
            self._elsewhere = tuple(
                ELSEWHERE.validate_json(await self._read_resource(f"{self.study.study_id}/elsewhere"))
            )
        except MCPError:
            self._elsewhere = ()
        except GONE as error:
            raise ServerGone(f"The server went away ({type(error).__name__}).") from error
        except ValidationError as error:
            raise ServerGone(f"What was trained elsewhere cannot be read: {error.errors()[0]['msg']}.") from error

    async def reopen(self, study_id: str) -> Study:
        """Open an existing study, with every trial that ended and, if the study is finished, its test."""
        try:
            started = StartedStudy.model_validate_json(await self._read_resource(study_id))
        except MCPError as error:
            raise Refused(str(error)) from error
        self._study = StudyAnswer(study_id=study_id, brief=started.brief, next="")
        self._space = started.study.space
        await self._read_elsewhere()
        await self.catch_up()
        if started.study.finished:
            await self.end()
        return started.study

    async def catch_up(self) -> None:
        """Read the study's finished trials that are not here yet: others may train in it, too."""
        for line in await self.stored_trials():
            if line.trial_id not in self.trials and line.status not in (*UNFINISHED, "interrupted"):
                self.configs[line.trial_id] = self.space.check(line.config)
                self.trials[line.trial_id] = await self.ask("get_trial", {"trial_id": line.trial_id}, TrialAnswer)

    async def _read_pages(self, what: str, kind: type[Page]) -> list[Page]:
        """A list of the study from its resource, page by page; reading it leaves no snapshot of memory."""
        pages: list[Page] = []
        path: str | None = f"{self.study.study_id}/{what}"
        try:
            while path is not None:
                pages.append(kind.model_validate_json(await self._read_resource(path)))
                following = pages[-1].next
                path = None if following is None else following.removeprefix(STUDIES)
            return pages
        except (MCPError, *GONE) as error:
            raise ServerGone(f"The server does not tell the study's {what}: {error}") from error
        except ValidationError as error:
            raise ServerGone(f"The study's {what} cannot be read: {error.errors()[0]['msg']}.") from error

    async def run(self, proposal: Proposal) -> TrialAnswer:
        """Train a proposal and wait for its end."""
        arguments: dict[str, Any] = {"study_id": self.study.study_id, "changes": proposal.changes}
        arguments["snapshot_id"] = self.study.brief.snapshot_id
        for name in ("parent", "replicate_of", "hypothesis"):
            if (value := getattr(proposal, name)) is not None:
                arguments[name] = value
        if proposal.cites:
            arguments["cites"] = list(proposal.cites)
        if proposal.expected is not None:
            arguments["expected"] = proposal.expected.model_dump(exclude_none=True)
        if self.request_key is not None:
            arguments["request_key"] = self.request_key()
        return await self.run_trial(arguments)

    async def run_trial(self, arguments: dict[str, Any]) -> TrialAnswer:
        """Call run_trial and wait for the end. A trial whose attempt was interrupted gets one more."""
        answer = await self._wait_for_end(await self._call_trial_tool("run_trial", arguments, 0))
        if answer.status == "interrupted":
            answer = await self._wait_for_end(await self._call_trial_tool("run_trial", arguments, 0))
        self._keep(answer)
        return answer

    async def _call_trial_tool(self, tool: str, arguments: dict[str, Any], wait_seconds: float) -> TrialAnswer:
        """One call about a trial. The first does not wait, so that an interrupted client knows the trial's id."""
        answer = await self.ask(tool, {**arguments, "wait_seconds": wait_seconds}, TrialAnswer)
        if answer.status in UNFINISHED:
            self.running.add(answer.trial_id)
        else:
            self.running.discard(answer.trial_id)
        return answer

    async def _wait_for_end(self, answer: TrialAnswer) -> TrialAnswer:
        while answer.status in UNFINISHED:
            answer = await self._call_trial_tool("get_trial", {"trial_id": answer.trial_id}, self.wait_seconds)
        return answer

    async def stored_trials(self) -> list[TrialLine]:
        """Every trial of the study, oldest first, also those that have not finished."""
        return [line for page in await self._read_pages("trials", StudyTrials) for line in page.trials]

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
        """Cancel the study's unfinished trials, even those whose id never came here, and keep their answers."""
        started = [line.trial_id for line in await self.stored_trials() if line.status in UNFINISHED]
        for trial_id in dict.fromkeys([*self.running, *started]):
            await self.ask("cancel_trial", {"trial_id": trial_id}, TrialStatusAnswer)
            self._keep(await self._wait_for_end(await self._call_trial_tool("get_trial", {"trial_id": trial_id}, 1.0)))

    async def note(self, kind: str, text: str, evidence: list[str]) -> NoteAnswer:
        """Write down a reflection, a heuristic or a summary."""
        arguments = {"study_id": self.study.study_id, "kind": kind, "text": text, "evidence": evidence}
        return await self.ask("write_heuristic", arguments, NoteAnswer)

    async def write_heuristic(self, text: str, evidence: list[str], claim: dict[str, Any] | None) -> NoteAnswer:
        """Write a heuristic. If the server refuses its claim, as when the data refute it, writes the text alone."""
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
        """The study's notes, sorted by kind. Sets `calibration`, too."""
        pages = await self._read_pages("notes", StudyNotes)
        self.calibration = pages[-1].calibration
        return sorted((note for page in pages for note in page.notes), key=lambda note: KINDS.index(note.level))

    async def end(self, summary: str | None = None) -> FinishAnswer:
        """Finish the study and wait for the sealed test."""
        arguments: dict[str, Any] = {"study_id": self.study.study_id, "wait_seconds": self.wait_seconds}
        optional = {"summary": summary} if summary else {}
        answer = await self.ask("finish_study", {**arguments, **optional}, FinishAnswer)
        while answer.status == "running":
            answer = await self.ask("finish_study", arguments, FinishAnswer)
        self.finish = answer
        return answer

    async def forget(self) -> bool:
        """Takes back a study in which nothing was done; False where the server cannot do so, as an older one."""
        result = await self.call("cancel_study", {"study_id": self.study.study_id, "forget": True})
        return not result.is_error

    def observations(self) -> list[Observation]:
        """The trainings so far as policies see them, one of the default first."""
        return default_first(self.space, [self.observation(answer) for answer in self.trials.values()])

    def observation(self, answer: TrialAnswer) -> Observation:
        """One training as policies see it."""
        return observe(answer, self.configs[answer.trial_id], self.study.brief.metric)

    def context(self) -> PolicyContext:
        """What policies know besides the trials."""
        latest = next(reversed(self.trials.values()), None)
        left, seconds = (latest.trials_left, latest.seconds_left) if latest else (None, None)
        return policy_context(self.study.brief, self._elsewhere, left, seconds, latest.noise if latest else None)


def text_of(result: CallToolResult) -> str:
    """The text of a tool's result."""
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))
