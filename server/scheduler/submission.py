"""Where trials enter: checks a request against its study, then stores and queues the trial."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from memory.off_loop import off_loop, uninterrupted
from memory.records import NewTrial, Study, Trial
from memory.store import Memory
from server.replay.tables import Tables
from server.scheduler.run_directory import check_room
from server.scheduler.supervisor import Supervisor
from server.settings import Settings
from server.study import admission
from server.study.admission import ProtocolError
from server.study.confirming import kept_seconds
from server.study.history import read_history
from server.study.replayed import check_recorded
from server.study.requests import TrialRequest
from trainers.contract.space import SpaceError
from trainers.data import check_content, find_by_hash


@dataclass(frozen=True)
class Submission:
    """The trial that answers a request. `duplicate`: it already existed, for an equal request in the same study."""

    trial: Trial
    duplicate: bool


class Scheduler:
    """One per owner. Requests are admitted one at a time, so that two of them never pass the same limit together.

    With `tables`, those of a replay home, only recorded configurations are admitted.
    """

    def __init__(
        self, memory: Memory, settings: Settings, supervisor: Supervisor, tables: Tables | None = None
    ) -> None:
        self._memory = memory
        self._settings = settings
        self._supervisor = supervisor
        self._tables = tables
        self._admitting = asyncio.Lock()

    async def submit(self, request: TrialRequest) -> Submission:
        """Starts the requested training, unless there is an equal one; returns at once.

        The trial continues whatever becomes of the caller. Raises ProtocolError or SpaceError if the study does not
        admit it, MemoryFault for ids that do not exist, ExecutorError if there is no room for it, and DataError
        if its dataset is gone or was changed.
        """
        return await uninterrupted(self._submit(request))  # a stored trial must reach the queue

    async def _submit(self, request: TrialRequest) -> Submission:
        async with self._admitting:
            study, trial, existing = await off_loop(self._admit, request)
            if existing is None or existing.status in ("interrupted", "queued"):  # `enqueue` skips one that waits
                await self._supervisor.enqueue(trial, study)
        retried = request.request_key is not None and trial.request_key == request.request_key
        return Submission(trial, existing is not None and existing.status != "interrupted" and not retried)

    def _admit(self, request: TrialRequest) -> tuple[Study, Trial, Trial | None]:
        """The study, the trial to answer with, and that trial again if it already existed; stores a new trial."""
        study, trials = self._memory.study(request.study_id), self._memory.trials(request.study_id)
        key = request.request_key
        existing = next((trial for trial in trials if key and trial.request_key == key), None)
        if existing is not None:
            admission.check_same_request(study, trials, request, existing)
            if existing.status == "interrupted":
                self._check_open(study, trials, existing)
            return study, existing, existing
        self._check_references(request)
        new = self._plan(study, request)
        existing = admission.equal_trial(trials, new)
        if existing is None or existing.status == "interrupted":
            self._check_open(study, trials, new)
        return study, existing or self._memory.start_trial(new), existing

    def _plan(self, study: Study, request: TrialRequest) -> NewTrial:
        history = read_history(self._memory, study.study_id)
        if self._tables is None:
            return admission.plan_trial(history, request)
        try:
            new = admission.plan_trial(history, request)
        except SpaceError as error:
            raise SpaceError(f"{error} A replay home answers recorded configurations only.") from None
        check_recorded(self._tables, study, new.config)
        return new

    def _check_open(self, study: Study, trials: Sequence[Trial], new: NewTrial) -> None:
        """Raises if the study's budget, its dataset or the disk does not allow another training."""
        held = self._memory.slot_seconds(study.study_id) if study.gpu_seconds is not None else 0.0
        kept = kept_seconds(study, trials)
        admission.check_open(study, trials, new.config_hash, datetime.now(UTC), held, kept)
        check_content(find_by_hash(self._settings.datasets_dir, study.dataset_hash))
        check_room(self._settings.trials_dir, self._settings.least_free_gb)

    def _check_references(self, request: TrialRequest) -> None:
        """Raises UnknownNote or ProtocolError for a note or a snapshot that does not exist."""
        for note_id in request.cites or ():
            self._memory.note(note_id)
        if request.snapshot_id is not None and self._memory.snapshots.shown(request.snapshot_id) is None:
            raise ProtocolError(
                f"Unknown snapshot {request.snapshot_id!r}; pass the snapshot_id that start_study or read_memory "
                "returned, or leave it out."
            )
