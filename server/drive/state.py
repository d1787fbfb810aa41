"""One drive's state, and where it shows what it does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio

from server.answers import MemoryItem, StudyAnswer, TrialAnswer
from server.drive.desk import Desk
from server.drive.plan import Plan
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
    """One drive's state; what is in it when it ends, however it ends, becomes the report."""

    plan: Plan
    view: View
    folder: Path | None = None
    """Where the report goes, once that is known: HOME/reports/STUDY_ID or what was asked for."""
    desk: Desk | None = None
    written: list[MemoryItem] = field(default_factory=list[MemoryItem])
    remarks: list[str] = field(default_factory=list[str])
    """What the reader of the report has to know beside the numbers."""
    interrupted: bool = False
    failure: str | None = None
    prompt: str | None = None
    """What a model would have been told first, where that was all that was asked for."""
    dollars: float | None = None
    """What the model cost, where its price is known."""
    ended: bool = False
    """Whether `play` came to its end, however it was; what fails after that is only the closing of the connection."""
    began: float = field(default_factory=time.monotonic)
    shared: bool = False
    """Whether others may train in the study meanwhile: then each proposal first takes in what they found."""
    under_way: list[tuple[Proposal, Observation]] = field(default_factory=list[tuple[Proposal, Observation]])
    """What was proposed and has not come back yet, and how policies see it."""
    settled: anyio.Event = field(default_factory=anyio.Event)
    """Set, and replaced, whenever something under way has come back."""
    proposing: anyio.Lock = field(default_factory=anyio.Lock)

    def remark(self, text: str) -> None:
        """Say it now and in the report."""
        self.remarks.append(text)
        self.view.say(text)

    @property
    def desk_open(self) -> Desk:
        assert self.desk is not None
        return self.desk

    def elapsed(self) -> float:
        """Seconds since the drive began."""
        return time.monotonic() - self.began

    def spent(self) -> bool:
        """Whether the wall-clock budget is gone."""
        if self.plan.budget_seconds is None:
            return False
        return self.elapsed() >= self.plan.budget_seconds
