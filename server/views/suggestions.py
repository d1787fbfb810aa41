"""What search policies and memory would try next in a study, side by side; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from random import Random

from memory.records import Study
from memory.store import Memory
from server.answers import Answer
from server.policies import PolicyName, load
from server.policies.advice import advised, drop_failed_advice
from server.policies.base import MissingExtra, Observation, PolicyContext, Proposal
from server.policies.inputs import default_first, observed, policy_context
from server.policies.sampling import changes_between
from server.study import admission
from server.study.confirming import kept_seconds
from server.study.history import StudyHistory, read_history
from server.views.brief import read_brief
from trainers.contract.space import Config

SUGGESTING: tuple[PolicyName, ...] = ("playbook", "tpe", "gp")
"""The policies that suggest a trial."""


class Suggestion(Answer):
    source: str
    """playbook, tpe, gp (which learned from the trainings of similar datasets), or memory: what won there.

    `default`, alone, where the default configuration has no training yet.
    """
    changes: Config | None = None
    """Changes from `parent`; none for a fresh seed, or if there is nothing left to try."""
    parent: str | None = None
    replicate_of: str | None = None
    why: str | None = None


class SuggestionAnswer(Answer):
    study_id: str
    suggestions: list[Suggestion]
    next: str


def suggestions(memory: Memory, study_id: str) -> SuggestionAnswer:
    """What each source would try next; takes up to seconds. Raises UnknownStudy."""
    study, history, context, missing = _read(memory, study_id)
    proposals = _proposals(study, history, context) if missing is None else [("default", missing)]
    proposed = [_suggestion(source, proposal) for source, proposal in proposals]
    if not history:
        following = f"run_trial(study_id={study.study_id!r}) trains the default first: trial 0."
    elif missing is not None:
        named = f"parent={missing.parent!r}, changes={missing.changes!r}"
        following = f"run_trial(study_id={study.study_id!r}, {named}) trains the default first: it has no training yet."
    else:
        following = f"run_trial(study_id={study.study_id!r}, changes=…, parent=…) trains one of them, or your own idea."
    return SuggestionAnswer(study_id=study.study_id, suggestions=proposed, next=following)


def _read(memory: Memory, study_id: str) -> tuple[Study, list[Observation], PolicyContext, Proposal | None]:
    """Reads what a policy receives about the study, and the default if that has to be trained first.

    It is for the server's own use, so it leaves no snapshot.
    """
    history = read_history(memory, study_id)
    study, brief = history.study, read_brief(memory, history.study)
    observations = default_first(study.space, observed(history, memory.epochs_by_trial(study_id)))
    trial_ids = [trial.trial_id for trial in history.trials]
    elsewhere = memory.advice.elsewhere(study.backbone, study.facts, study.metric, trial_ids)
    seconds = admission.seconds_left(study, datetime.now(UTC), kept_seconds(study, history.trials))
    left = admission.trials_left(study, history.trials), seconds
    return study, observations, policy_context(brief, elsewhere, *left), _missing_default(history)


def _missing_default(history: StudyHistory) -> Proposal | None:
    """The training of the default, if every one was interrupted or cancelled, or others were trained without it."""
    space, default = history.study.space, history.study.space.default()
    same = [trial for trial in history.trials if trial.config_hash == space.hash(default)]
    if not history.trials or any(trial.status not in ("cancelled", "interrupted") for trial in same):
        return None
    parent = (same or history.trials)[0]
    why = "the default configuration, which every other is measured against, has no training yet"
    return Proposal(changes_between(space, parent.config, default), parent=parent.trial_id, hypothesis=why)


def _proposals(
    study: Study, history: Sequence[Observation], context: PolicyContext
) -> Iterator[tuple[str, Proposal | str | None]]:
    """Each source with its proposal, or with the reason why there is none."""
    if not history:
        return
    trusted = drop_failed_advice(study.space, history, context)
    if proposal := advised(study.space, history, trusted):
        yield "memory", proposal
    for name in SUGGESTING:
        visible = context if name == "gp" else context.without_memory()
        try:
            yield name, load(name).propose(study.space, history, visible, Random(f"{study.seed}:{len(history)}"))
        except MissingExtra as missing:
            yield name, str(missing)


def _suggestion(source: str, proposal: Proposal | str | None) -> Suggestion:
    if proposal is None or isinstance(proposal, str):
        return Suggestion(source=source, why=proposal or "nothing left that it would try")
    return Suggestion(
        source=source,
        changes=None if proposal.replicate_of else proposal.changes,
        parent=proposal.parent,
        replicate_of=proposal.replicate_of,
        why=proposal.hypothesis,
    )
