"""Two trainings compared user by user, by the ranks that their run directories keep."""

from __future__ import annotations

from memory.bootstrap import over_users
from memory.records import Study, Trial
from memory.store import Memory
from server.admission import ProtocolError
from server.answers import UserComparison
from server.brief import rounded
from server.run_directory import read_ranks
from server.settings import Settings
from trainers.metrics import values_of


def compared_with(memory: Memory, settings: Settings, trial: Trial, other_id: str) -> UserComparison:
    """A paired bootstrap over users; raises ProtocolError where the two cannot be compared so, with the reason."""
    other = memory.trial(other_id)
    studies = [memory.study(one.study_id) for one in (trial, other)]
    _refuse_other_users(studies[0], studies[1])
    found = [read_ranks(settings.trials / one.trial_id) for one in (trial, other)]
    for one, ranks in zip((trial, other), found, strict=True):
        if ranks is None:
            raise ProtocolError(
                f"Trial {one.trial_id!r} ({one.status}) left no validation ranks, so its users cannot be compared; "
                "take a trial that ended ok."
            )
    own, its = (ranks for ranks in found if ranks is not None)
    if len(own) != len(its):
        raise ProtocolError(f"{trial.trial_id!r} ranked {len(own):,} users and {other_id!r} {len(its):,}.")
    metric = studies[0].metric
    over = over_users(values_of(own, metric), values_of(its, metric))
    numbers = {name: rounded(getattr(over, name)) for name in ("delta", "low", "high", "gained", "lost")}
    return UserComparison(against=other_id, words=f"{metric}: {over.words}", **numbers)


def _refuse_other_users(one: Study, other: Study) -> None:
    if one.dataset_hash != other.dataset_hash:
        raise ProtocolError(
            f"The trials are of different data ({one.dataset!r} and {other.dataset!r}): only trainings on the same "
            "content have the same users."
        )
