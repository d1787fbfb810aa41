"""A language model as an arm of a replay: it proposes from the space, the trainings and the advice of memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import anyio

from server.drive.llm.dialogue import ToolCall, ToolOutcome, ToolSpec, open_dialogue
from server.drive.plan import ModelPlan, provider_of
from server.policies.base import Observation, PolicyContext, Proposal, first_trial
from server.policies.sampling import changes_between, values_of
from trainers.contract.space import Config, Space, SpaceError

ATTEMPTS = 3
"""The attempts at one proposal. After them the arm gives up."""
SHOWN_ELSEWHERE = 3
"""The model is shown at most this many configurations of each other dataset, the best first."""
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
    """A policy behind any endpoint that `drive --policy llm` supports. Keys and address come from the environment."""

    reflects = False

    def __init__(self, name: str) -> None:
        self._plan = ModelPlan(name, provider_of(name, None))

    def propose(
        self, space: Space, history: Sequence[Observation], context: PolicyContext, rng: Random
    ) -> Proposal | None:
        if not history:
            return Proposal({})
        return anyio.run(self._ask, space, history, context)

    async def _ask(self, space: Space, history: Sequence[Observation], context: PolicyContext) -> Proposal | None:
        message: str | None = facts_for(space, history, context)
        outcomes: list[ToolOutcome] = []
        async with open_dialogue(self._plan) as dialogue:
            dialogue.begin(TASK.format(backbone=context.backbone, metric=context.metric), [TOOL])
            for _ in range(ATTEMPTS):
                turn = await dialogue.turn(message, outcomes)
                for call in turn.calls[:1]:
                    answer = proposal_of(space, history, call)
                    if isinstance(answer, Proposal):
                        return answer
                    outcomes = [ToolOutcome(failed.id, answer, failed=True) for failed in turn.calls]
                message = None if turn.calls else "Answer with one call of run_trial."
                outcomes = outcomes if turn.calls else []
        return None


def facts_for(space: Space, history: Sequence[Observation], context: PolicyContext) -> str:
    """Everything that the model may base a proposal on, as JSON."""
    default = space.default()
    facts: dict[str, Any] = {
        "dataset": dict(context.facts),
        "space": {field.name: values_of(field) for field in space.free()},
        "default": {field.name: default[field.name] for field in space.free()},
        "trainings": [
            {"trial_id": training.trial_id, "changes": changes_between(space, default, training.config),
             "score": training.score, "status": training.status, "verdict": training.verdict}
            for training in history
        ],
    }  # fmt: skip
    if context.starts:
        facts["best on similar datasets"] = [{"changes": start.changes, "gain": start.gain} for start in context.starts]
    if context.beliefs:
        facts["claims expect"] = [
            {"field": belief.field, "value": belief.value, "gain": belief.gain} for belief in context.beliefs
        ]  # fmt: skip
    if context.elsewhere:
        facts["trained on other datasets"] = [
            [{"config": point.config, "score": point.mean} for point in dataset.points[:SHOWN_ELSEWHERE]]
            for dataset in context.elsewhere
        ]
    return json.dumps(facts)


def proposal_of(space: Space, history: Sequence[Observation], call: ToolCall) -> Proposal | str:
    """The proposal of a tool call, or a sentence on what is wrong with the call."""
    if call.problem is not None:
        return call.problem
    replicated = call.arguments.get("replicate_of")
    if replicated:
        if not any(trial.trial_id == replicated for trial in history):
            return f"There is no trial {replicated!r}; there are {', '.join(trial.trial_id for trial in history)}."
        return Proposal({}, replicate_of=str(replicated))
    changes: Mapping[str, Any] | Any = call.arguments.get("changes") or {}
    if not isinstance(changes, Mapping):
        return "changes must be an object of field: value."
    try:
        config: Config = space.check({**space.default(), **changes})
    except SpaceError as error:
        return str(error)
    if any(trial.config == config for trial in history):
        return "That configuration is trained; give it as replicate_of for a fresh seed, or change something."
    return Proposal(changes_between(space, history[0].config, config), parent=first_trial(history))
