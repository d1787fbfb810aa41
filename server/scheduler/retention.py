"""Decides which checkpoints to keep, since checkpoints are what fills a disk."""

from __future__ import annotations

from pathlib import Path

from memory.records import Trial
from server.scheduler import run_directory
from server.study.history import StudyHistory


def prune(history: StudyHistory, trials_dir: Path, keep: int) -> None:
    """Removes weights of an open study that nothing will need; see `superfluous`."""
    if not (history.study.finished or history.study.closing):
        trial_ids = [trial.trial_id for trial in superfluous(history, keep)]
        run_directory.remove_checkpoints(trials_dir, trial_ids)


def superfluous(history: StudyHistory, keep: int) -> list[Trial]:
    """Trials not of the default, not of the `keep` best configurations, and not among the `keep` newest trials.

    What may still be chosen is among the best. A trial that could have reused the removed weights trains again.
    """
    trials, default = history.trials, history.default
    if len(trials) <= keep:
        return []
    kept = {trial_id for standing in history.ranked[:keep] for trial_id in standing.trial_ids}
    kept |= set(default.trial_ids) if default else set()
    kept |= {trial.trial_id for trial in trials[-keep:]} | {trial.trial_id for trial in trials if not trial.finished}
    return [trial for trial in trials if trial.trial_id not in kept]
