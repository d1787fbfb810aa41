"""The first step of an owner: it brings memory up to date with the run directories of an earlier owner."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from memory.errors import MemoryFault
from memory.records import Trial
from memory.store import Memory
from server.scheduler.run_directory import (
    forget_state,
    increasing,
    kept_states,
    mark_unrecovered,
    read_epochs,
    read_process,
    read_result,
)
from trainers.contract.wire import TrialResult

log = logging.getLogger(__name__)

OWNER_ENDED = "interrupted: the owner ended"


def recover(memory: Memory, trials: Path, finish: Callable[[TrialResult], None]) -> list[Trial]:
    """Finishes trials that left a result and ends every open attempt; returns the trials that never started.

    Those stay `queued`, since they were accepted, and the caller puts them back into the queue. A trial that had
    started is `interrupted` and is not restarted here. No process of the earlier owner may be alive at this call.
    """
    unfinished = memory.unfinished_trials()
    for trial in unfinished:
        directory = trials / trial.trial_id
        try:
            _complete_records(memory, trial, directory)
            result = read_result(directory, trial.trial_id)
            if result is not None and result.status != "cancelled":  # a child writes `cancelled` when its owner ends
                finish(result)
        except Exception as error:  # whatever a trainer left: one trial must not keep its home from opening
            _give_up(trial, directory, error, finish)
    for directory in kept_states(trials):  # the owner was killed just before it removed the state
        with suppress(MemoryFault):
            if memory.trial(directory.name).finished:
                forget_state(directory)
    for attempt in memory.open_attempts():
        trial = memory.trial(attempt.trial_id)
        memory.end_attempt(attempt.attempt_id, trial.status if trial.finished else OWNER_ENDED)
    return [trial for trial in unfinished if memory.trial(trial.trial_id).status == "queued"]


def _give_up(trial: Trial, directory: Path, error: Exception, finish: Callable[[TrialResult], None]) -> None:
    """Ends a trial as `crashed`, because what it left cannot be stored."""
    reason = f"What the trial left cannot be stored: {' '.join(str(error).split())[:500] or type(error).__name__}"
    log.warning("trial %s: %s", trial.trial_id, reason, exc_info=error)
    mark_unrecovered(directory, reason)
    try:
        finish(TrialResult(trial_id=trial.trial_id, status="crashed", message=reason))
    except MemoryFault as fault:
        log.warning("trial %s stays %s: %s", trial.trial_id, trial.status, fault)


def _complete_records(memory: Memory, trial: Trial, directory: Path) -> None:
    """Stores the child's process and last epochs, in case the owner was killed before it did."""
    process = read_process(directory)
    if process is None:
        return
    if all(
        (attempt.pid, attempt.create_time) != (process.pid, process.create_time)
        for attempt in memory.attempts(trial.trial_id)
    ):
        memory.start_attempt(trial.trial_id, process.pid, process.create_time)
    memory.add_epochs(trial.trial_id, increasing(read_epochs(directory).epochs))
