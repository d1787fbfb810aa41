"""How long a policy plays: until it has trained as many configurations of its own as were asked for."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from memory.records import PolicyRun, Trial


def request_key(run_id: str) -> str:
    """A fresh request_key that marks a trial as one of this run."""
    return f"{run_id}/{secrets.token_hex(4)}"


def trained_by_others(run: PolicyRun, trials: Sequence[Trial]) -> int:
    """How many configurations others have begun in the study since the run started. `trials` are oldest first."""
    first: dict[int, Trial] = {}
    for trial in trials:
        first.setdefault(trial.number, trial)
    return sum(
        trial.created_at >= run.started_at and not (trial.request_key or "").startswith(f"{run.run_id}/")
        for trial in first.values()
    )


def limit(run: PolicyRun, trials: Sequence[Trial]) -> int:
    """The number of configurations in the study at which the run ends."""
    return run.until_trials + trained_by_others(run, trials)
