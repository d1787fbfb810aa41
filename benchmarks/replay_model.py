"""A language model as an arm of a replay: told the space, the trainings and what memory knows, it proposes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import anyio

from server.drive.dialogue import ToolCall, ToolOutcome, ToolSpec, open_dialogue
from server.drive.plan import ModelPlan, provider_of
from server.policies.base import Brief, Observation, Proposal, first_trial
from server.policies.sampling import changes_between, values_of
from trainers.space import Config, Space, SpaceError

ATTEMPTS = 3
"""At one proposal; then the arm has nothing left to try."""
TOLD_ELSEWHERE = 3
"""Configurations of each other dataset, the best first."""
TASK = """You tune a {backbone} sequential recommender for the best {metric} on validation, in as few trainings as you
can. Every training has seed noise of a few percent: a fresh seed of a leader (`replicate_of`) tells luck from effect,
and what counts in the end is the best mean over seeds. Answer with one call of run_trial, and nothing else."""
TOOL = ToolSpec(
    "run_trial",
    "Trains one configuration: `changes` to the default, or a fresh seed of the trial `replicate_of`.",
    {
        "type": "object",
        "properties": {
            "changes": {"type": "object", "description": "field: value, relative to the default"},
            "replicate_of": {"type": "string", "description": "a trial_id; leave changes out then"},
            "hypothesis": {"type": "string"},
        },
    },
)


class Model:
    """Any endpoint that `drive --policy llm` speaks with: the keys and the address come from the environment."""

    reflects = False

    def __init__(self, name: str) -> None:
        self._plan = ModelPlan(name, provider_of(name, None))

    def propose(self, space: Space, history: Sequence[Observation], brief: Brief, rng: Random) -> Proposal | None:
        if not history:
            return Proposal({})
        return anyio.run(self._asked, space, history, brief)

    async def _asked(self, space: Space, history: Sequence[Observation], brief: Brief) -> Proposal | None:
        said: str | None = told(space, history, brief)
        outcomes: list[ToolOutcome] = []
        async with open_dialogue(self._plan) as dialogue:
            dialogue.begin(TASK.format(backbone=brief.backbone, metric=brief.metric), [TOOL])
            for _ in range(ATTEMPTS):
                turn = await dialogue.turn(said, outcomes)
                for call in turn.calls[:1]:
                    read = proposal_of(space, history, call)
                    if isinstance(read, Proposal):
                        return read
                    outcomes = [ToolOutcome(one.id, read, failed=True) for one in turn.calls]
                said = None if turn.calls else "Answer with one call of run_trial."
                outcomes = outcomes if turn.calls else []
        return None


def told(space: Space, history: Sequence[Observation], brief: Brief) -> str:
    """All that a proposal may rest on, as JSON."""
    default = space.default()
    facts: dict[str, Any] = {
        "dataset": dict(brief.facts),
        "space": {field.name: values_of(field) for field in space.free()},
        "default": {field.name: default[field.name] for field in space.free()},
        "trainings": [
            {"trial_id": one.trial_id, "changes": changes_between(space, default, one.config), "score": one.score,
             "status": one.status, "verdict": one.verdict}
            for one in history
        ],
    }  # fmt: skip
    if brief.starts:
        facts["best on similar datasets"] = [{"changes": one.changes, "gain": one.gain} for one in brief.starts]
    if brief.beliefs:
        facts["claims expect"] = [
            {"field": one.field, "value": one.value, "gain": one.gain} for one in brief.beliefs
        ]  # fmt: skip
    if brief.elsewhere:
        facts["trained on other datasets"] = [
            [{"config": point.config, "score": point.mean} for point in one.points[:TOLD_ELSEWHERE]]
            for one in brief.elsewhere
        ]
    return json.dumps(facts)


def proposal_of(space: Space, history: Sequence[Observation], call: ToolCall) -> Proposal | str:
    """What the model called for, or what is wrong with it."""
    if call.problem is not None:
        return call.problem
    replicated = call.arguments.get("replicate_of")
    if replicated:
        if not any(one.trial_id == replicated for one in history):
            return f"There is no trial {replicated!r}; there are {', '.join(one.trial_id for one in history)}."
        return Proposal({}, replicate_of=str(replicated))
    changes: Mapping[str, Any] | Any = call.arguments.get("changes") or {}
    if not isinstance(changes, Mapping):
        return "changes must be an object of field: value."
    try:
        config: Config = space.check({**space.default(), **changes})
    except SpaceError as error:
        return str(error)
    if any(one.config == config for one in history):
        return "That configuration is trained; give it as replicate_of for a fresh seed, or change something."
    return Proposal(changes_between(space, history[0].config, config), parent=first_trial(history))
