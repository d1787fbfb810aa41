"""What an owner does first: bring the books to what the run directories of an earlier owner say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from memory.errors import MemoryFault
from memory.records import Trial
from memory.store import Memory
from server.run_directory import forget_state, kept_states, read_epochs, read_process, read_result
from trainers.spec import TrialResult

OWNER_ENDED = "interrupted: the owner ended"


def recover(memory: Memory, trials: Path, finish: Callable[[TrialResult], None]) -> list[Trial]:
    """Finishes trials whose result is there and ends every open attempt; answers the trials that never started.

    Those were accepted and are owed a training, so their caller queues them again; that they are still `queued` is
    true meanwhile. A trial that was begun is not begun again unasked: it is `interrupted`. No process of the earlier
    owner may be alive when this is called.
    """
    unfinished = memory.unfinished_trials()
    for trial in unfinished:
        directory = trials / trial.trial_id
        _complete_books(memory, trial, directory)
        result = read_result(directory, trial.trial_id)
        if result is not None and result.status != "cancelled":  # that is what an owner's own end leaves
            finish(result)
    for directory in kept_states(trials):  # its owner was killed just before it was removed
        with suppress(MemoryFault):
            if memory.trial(directory.name).finished:
                forget_state(directory)
    for attempt in memory.open_attempts():
        trial = memory.trial(attempt.trial_id)
        memory.end_attempt(attempt.attempt_id, trial.status if trial.finished else OWNER_ENDED)
    return [trial for trial in unfinished if memory.trial(trial.trial_id).status == "queued"]


def _complete_books(memory: Memory, trial: Trial, directory: Path) -> None:
    """The owner may have been killed before it noted the child's process or its last epochs."""
    process = read_process(directory)
    if process is None:
        return
    if all(
        (known.pid, known.create_time) != (process.pid, process.create_time)
        for known in memory.attempts(trial.trial_id)
    ):
        memory.start_attempt(trial.trial_id, process.pid, process.create_time)
    memory.add_epochs(trial.trial_id, read_epochs(directory).epochs)
