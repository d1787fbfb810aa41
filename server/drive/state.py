"""The state of one drive, and the view that shows it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio

from server.answers import MemoryItem, StudyAnswer, TrialAnswer
from server.drive.plan import Plan
from server.drive.study_client import StudyClient
from server.policies.base import Observation, Proposal


class View(Protocol):
    """Where a drive shows what it does."""

    def opened(self, study: StudyAnswer, plan: Plan) -> None: ...

    def started(self, proposal: Proposal, number: int) -> None: ...

    def progress(self, epochs: float, most: float | None) -> None: ...

    def finished(self, answer: TrialAnswer, metric: str) -> None: ...

    def say(self, text: str) -> None: ...


@dataclass
class Drive:
    """The state of one drive. However the drive ends, the report is made from it."""

    plan: Plan
    view: View
    folder: Path | None = None
    """Folder of the report, once it is known: HOME/reports/STUDY_ID or the one of --report."""
    study_client: StudyClient | None = None
    written: list[MemoryItem] = field(default_factory=list[MemoryItem])
    remarks: list[str] = field(default_factory=list[str])
    """What the reader of the report has to know besides the numbers."""
    interrupted: bool = False
    failure: str | None = None
    prompt: str | None = None
    """The first prompt of a model, if a dry run made it."""
    leaves: str = ""
    """What a dry run leaves behind, as the end of a sentence."""
    dollars: float | None = None
    """Cost of the model in US dollars, if its price is known."""
    ended: bool = False
    """Whether `play` has ended, in whatever way. A later failure concerns only the closing of the connection."""
    began: float = field(default_factory=time.monotonic)
    shared: bool = False
    """Whether others may train in the study at the same time. If so, their trials are read before each proposal."""
    count_others: Callable[[], Awaitable[int]] | None = None
    """How many configurations others have begun since the drive did; they do not use up the drive's trials."""
    under_way: list[tuple[Proposal, Observation]] = field(default_factory=list[tuple[Proposal, Observation]])
    """Proposals that have not come back yet, each with the observation that policies see."""
    settled: anyio.Event = field(default_factory=anyio.Event)
    """Set, and replaced, whenever a proposal under way has come back."""
    proposing: anyio.Lock = field(default_factory=anyio.Lock)

    def remark(self, text: str) -> None:
        """Show a remark now and in the report."""
        self.remarks.append(text)
        self.view.say(text)

    @property
    def open_study(self) -> StudyClient:
        assert self.study_client is not None
        return self.study_client

    def elapsed(self) -> float:
        """Seconds since the drive began."""
        return time.monotonic() - self.began

    def seconds_left(self) -> float | None:
        """What is left of the wall-clock budget; None without one."""
        budget = self.plan.budget_seconds
        return None if budget is None else max(0.0, budget - self.elapsed())

    def spent(self) -> bool:
        """Whether the wall-clock budget is gone."""
        return self.seconds_left() == 0
