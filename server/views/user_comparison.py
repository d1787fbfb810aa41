"""Compares two trainings user by user, by the ranks in their run directories."""

from __future__ import annotations

from memory.records import Study, Trial
from memory.statistics.bootstrap import over_users
from memory.store import Memory
from server.answers import UserComparison, rounded
from server.scheduler.run_directory import read_ranks
from server.settings import Settings
from server.study.admission import ProtocolError
from trainers.contract.metrics import values_of


def compare_users(memory: Memory, settings: Settings, trial: Trial, other_id: str) -> UserComparison:
    """A paired bootstrap over users. Raises ProtocolError, with the reason, if the two trials cannot be compared."""
    other = memory.trial(other_id)
    studies = [memory.study(ranked.study_id) for ranked in (trial, other)]
    _check_same_users(studies[0], studies[1])
    stored = [read_ranks(settings.trials_dir / ranked.trial_id) for ranked in (trial, other)]
    for ranked, ranks in zip((trial, other), stored, strict=True):
        if ranks is None:
            raise ProtocolError(
                f"Trial {ranked.trial_id!r} ({ranked.status}) left no validation ranks, so its users cannot be "
                "compared; take a trial that ended ok."
            )
    trial_ranks, other_ranks = (ranks for ranks in stored if ranks is not None)
    if len(trial_ranks) != len(other_ranks):
        raise ProtocolError(
            f"{trial.trial_id!r} ranked {len(trial_ranks):,} users and {other_id!r} {len(other_ranks):,}."
        )
    metric = studies[0].metric
    comparison = over_users(values_of(trial_ranks, metric), values_of(other_ranks, metric))
    numbers = {name: rounded(getattr(comparison, name)) for name in ("delta", "low", "high", "gained", "lost")}
    return UserComparison(against=other_id, words=f"{metric}: {comparison.words}", **numbers)


def _check_same_users(study: Study, other: Study) -> None:
    if study.dataset_hash != other.dataset_hash:
        raise ProtocolError(
            f"The trials are of different data ({study.dataset!r} and {other.dataset!r}): only trainings on the same "
            "content have the same users."
        )
