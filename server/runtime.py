"""Runtime: everything that one owner process holds open."""

from __future__ import annotations

from dataclasses import dataclass

from memory.store import Memory
from server.drive.autopilot import Autopilot
from server.executors.base import Executor
from server.replay.tables import Tables
from server.scheduler.sealed_test import SealedTests
from server.scheduler.submission import Scheduler
from server.scheduler.supervisor import Supervisor
from server.settings import Settings


@dataclass(frozen=True)
class Runtime:
    """Passed to whatever serves requests. `scheduler` admits trials; `supervisor` queues and runs them."""

    settings: Settings
    memory: Memory
    executor: Executor
    supervisor: Supervisor
    scheduler: Scheduler
    sealed_tests: SealedTests
    autopilot: Autopilot
    tables: Tables | None = None
    """The recorded trainings of a replay home; None where trainings are real."""
