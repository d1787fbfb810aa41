"""Which weights stay: checkpoints are what fills a disk."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from memory.records import Study, Trial
from memory.store import Memory
from server import run_directory, studies


def prune(memory: Memory, trials_dir: Path, trial_id: str, keep: int) -> None:
    """Removes weights of the trial's study that nothing will ask for: see `superfluous`."""
    trial = memory.trial(trial_id)
    study = memory.study(trial.study_id)
    if study.finished or trial.number < keep:
        return
    for one in superfluous(study, memory.trials(study.study_id), keep):
        with suppress(OSError):
            run_directory.remove_checkpoint(trials_dir / one.trial_id)


def superfluous(study: Study, trials: list[Trial], keep: int) -> list[Trial]:
    """Those that are neither of the default, nor of the `keep` best configurations, nor among the `keep` newest trials.

    What may still be chosen is among the best; a trial that trains the same as one whose weights are gone trains again.
    """
    if len(trials) <= keep:
        return []
    best = studies.standings(study, trials)[:keep]
    default = studies.default_standing(study, trials)
    kept = {trial_id for standing in best for trial_id in standing.trial_ids}
    kept |= set(default.trial_ids) if default else set()
    kept |= {trial.trial_id for trial in trials[-keep:]} | {trial.trial_id for trial in trials if not trial.finished}
    return [trial for trial in trials if trial.trial_id not in kept]
