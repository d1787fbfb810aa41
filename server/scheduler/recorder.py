"""What an owner writes about queued and running trials: attempts and results in memory, hints in run directories.

Everything here waits for memory or the disk, so the supervisor calls it off the event loop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import psutil

from memory.errors import MemoryFault
from memory.records import Study, Trial
from memory.store import Memory
from server.scheduler import run_directory
from server.scheduler.active_trial import ActiveTrial
from server.scheduler.memory_estimate import MemoryEstimate
from server.scheduler.outcome import Traces, without_result
from server.scheduler.recovery import recover
from server.study import confirming
from trainers.contract.wire import TrialResult

log = logging.getLogger(__name__)


class Recorder:
    """`on_finished` is called with the id of each trial after its result is stored and before its waiters wake.

    `stop_below` is called as a training starts. It returns how well the training must do by each epoch to continue.
    """

    def __init__(
        self,
        memory: Memory,
        trials_dir: Path,
        stop_below: Callable[[Study, Trial], tuple[float, ...]],
        on_finished: Callable[[str], None] | None = None,
    ) -> None:
        self.on_finished = on_finished
        self.estimate = MemoryEstimate(memory.trials)
        self._memory = memory
        self._trials_dir = trials_dir
        self._stop_below = stop_below
        self._threads_of: dict[str, int] = {}

    def recover(self) -> list[tuple[Trial, Study]]:
        """Makes memory agree with the run directories of an earlier owner; returns the trials still to train."""
        run_directory.sweep(self._trials_dir)
        queued = recover(self._memory, self._trials_dir, self.store_result)
        return [(trial, self._memory.study(trial.study_id)) for trial in queued]

    def threads(self, study: Study, setting: int) -> int:
        """CPU threads of the study's first training, so that all its numbers are comparable; else the setting."""
        if study.study_id not in self._threads_of:
            recorded = (trial.threads for trial in self._memory.trials(study.study_id) if trial.threads)
            self._threads_of[study.study_id] = next(recorded, setting)
        return self._threads_of[study.study_id]

    def kept_seconds(self, study: Study) -> float:
        """Seconds that an open study keeps for the fresh seeds of its end."""
        limited = study.budget_seconds is not None or study.gpu_seconds is not None
        return confirming.kept_seconds(study, self._memory.trials(study.study_id)) if limited else 0.0

    def write_hints(self, active: ActiveTrial) -> None:
        """Writes into the spec what is known only as the child starts: scores to reach, and weights to reuse.

        If a finished trial has trained the same weights, they are only evaluated. The child checks that again.
        """
        try:
            active.stop_below = self._stop_below(active.study, active.trial)
            run_directory.write_spec(active.directory, active.spec(self._weights_for(active.trial)))
        except (MemoryFault, OSError) as fault:  # without hints it trains to its end
            log.warning("trial %s: %s", active.trial.trial_id, fault)

    def _weights_for(self, trial: Trial) -> str | None:
        """The id of a trial whose weights are those that `trial` would train."""
        sources = self._memory.trained(trial.fingerprint) if trial.fingerprint is not None else []
        return next((name for name in sources if run_directory.has_checkpoint(self._trials_dir / name)), None)

    def store_attempt(self, active: ActiveTrial, result: TrialResult | None, cause: str) -> None:
        """Stores how an attempt ended, and the trial's result if there is one."""
        if result is not None:
            self.estimate.observe(active.study, self._memory.finish_trial(result))
        elif active.attempt is None:  # no child started, so the attempt belongs to this process
            owner = psutil.Process()
            active.attempt = self._memory.start_attempt(active.trial.trial_id, os.getpid(), owner.create_time())
        if active.attempt is not None:
            self._memory.end_attempt(active.attempt.attempt_id, result.status if result else cause)
        if result is not None:
            self._announce(result.trial_id)

    def store_result(self, result: TrialResult) -> None:
        """Stores the result of a trial that has no attempt under way."""
        self._memory.finish_trial(result)
        self._announce(result.trial_id)

    def cancel_unfinished(self, trial_id: str, traces: Traces | None = None) -> None:
        """Cancels a trial that is not training, unless it has ended already."""
        if not self._memory.trial(trial_id).finished:
            cancelled = TrialResult(trial_id=trial_id, status="cancelled")
            self.store_result(without_result(traces, "cancelled", "") if traces else cancelled)

    def _announce(self, trial_id: str) -> None:
        """Follows up a stored result: removes the resume state and calls `on_finished`."""
        run_directory.forget_state(self._trials_dir / trial_id)
        if self.on_finished is not None:
            try:
                self.on_finished(trial_id)
            except MemoryFault as fault:  # the result is stored; only the follow-up failed
                log.warning("after trial %s: %s", trial_id, fault)
