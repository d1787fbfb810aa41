"""The default configuration of a study that goes on: whether it is trained, and the proposal that trains it."""

from __future__ import annotations

from server.drive.study_client import StudyClient
from server.policies.base import Proposal
from server.policies.sampling import changes_between

UNTRAINED = ("cancelled", "interrupted")
"""Statuses of a trial that say nothing about its configuration: it was ended from outside."""


def is_default(study_client: StudyClient, trial_id: str) -> bool:
    """Whether a finished trial trained the study's default configuration."""
    space = study_client.space
    return space.hash(study_client.configs[trial_id]) == space.hash(space.default())


def default_trained(study_client: StudyClient) -> bool:
    """Whether a training of the default came to an end of its own."""
    return any(
        is_default(study_client, trial_id) and trial.status not in UNTRAINED
        for trial_id, trial in study_client.trials.items()
    )


def default_scores(study_client: StudyClient) -> int:
    """How many trainings of the default have a score."""
    metric = study_client.study.brief.metric
    return sum(
        is_default(study_client, trial_id) and trial.status in ("ok", "timed_out") and metric in trial.metrics
        for trial_id, trial in study_client.trials.items()
    )


async def default_proposal(study_client: StudyClient) -> Proposal:
    """The proposal that trains the default, whatever was trained before it; it goes on with an interrupted trial.

    Without a parent the changes of a trial apply to the incumbent, so one is named where the study has trials.
    """
    space, default = study_client.space, study_client.space.default()
    why = "the default configuration: the measure of everything after it"
    configs = {line.trial_id: space.check(line.config) for line in await study_client.stored_trials()}
    same = (trial_id for trial_id, config in configs.items() if space.hash(config) == space.hash(default))
    parent = next(same, next(iter(configs), None))
    changes = changes_between(space, configs[parent], default) if parent is not None else {}
    return Proposal(changes, parent=parent, hypothesis=why)
