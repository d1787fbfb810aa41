"""What search policies and memory would try next in a study, side by side; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from random import Random

from memory.records import Study
from memory.store import Memory
from server import admission
from server.answers import Answer
from server.brief import write_brief
from server.policies import load
from server.policies.advice import advised, heeded
from server.policies.base import Brief, MissingExtra, Observation, Proposal
from server.sight import observe, seen
from server.views import trial_answer
from trainers.space import Config

POLICIES = ("playbook", "tpe", "gp")


class Suggestion(Answer):
    source: str
    """playbook, tpe, gp (which learned from the trainings of similar datasets), or memory: what won there."""
    changes: Config | None = None
    """From `parent`; none for a fresh seed, or where there is nothing left to try."""
    parent: str | None = None
    replicate_of: str | None = None
    why: str | None = None


class SuggestionAnswer(Answer):
    study_id: str
    suggestions: list[Suggestion]
    next: str


def suggestions(memory: Memory, study: Study) -> SuggestionAnswer:
    """Takes up to seconds: call it in a thread."""
    history, brief = _seen(memory, study)
    found = [_suggestion(source, proposal) for source, proposal in _proposals(study, history, brief)]
    if not history:
        following = f"run_trial(study_id={study.study_id!r}) trains the default first: trial 0."
    else:
        following = f"run_trial(study_id={study.study_id!r}, changes=…, parent=…) trains one of them, or your own idea."
    return SuggestionAnswer(study_id=study.study_id, suggestions=found, next=following)


def _seen(memory: Memory, study: Study) -> tuple[list[Observation], Brief]:
    trials = memory.trials(study.study_id)
    history = [observe(trial_answer(memory, one), one.config, study.metric) for one in trials if one.finished]
    own = [one.trial_id for one in trials]
    elsewhere = memory.lore.elsewhere(study.backbone, study.facts, study.metric, own)
    left = admission.trials_left(study, trials), admission.seconds_left(study, datetime.now(UTC))
    return history, seen(write_brief(memory, study, memory.latest_snapshot(study.study_id)), elsewhere, *left)


def _proposals(
    study: Study, history: Sequence[Observation], brief: Brief
) -> Iterator[tuple[str, Proposal | str | None]]:
    """By source the proposal, or in words why there is none."""
    if not history:
        return
    told = heeded(study.space, history, brief)
    if proposal := advised(study.space, history, told):
        yield "memory", proposal
    for name in POLICIES:
        known = brief if name == "gp" else brief.without_memory()
        try:
            yield name, load(name).propose(study.space, history, known, Random(f"{study.seed}:{len(history)}"))
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
