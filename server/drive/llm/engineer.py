"""Lets a language model tune a study: it calls the server's tools until it finishes or a budget ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from prompts import render
from server.answers import DatasetList
from server.drive.llm.anonymous_names import Names
from server.drive.llm.conversation import Conversation, Instructions
from server.drive.llm.dialogue import (
    CHARACTERS_PER_TOKEN,
    Dialogue,
    ModelFailed,
    ToolCall,
    ToolOutcome,
    ToolSpec,
    Turn,
)
from server.drive.llm.prices import price_of
from server.drive.llm.transcript import TRANSCRIPT, TokenUsage, Transcript
from server.drive.state import Drive
from server.drive.study_client import Refused, StudyClient, text_of
from server.drive.together import run_together
from server.errors import nearest
from server.policies.base import Proposal

WITHHELD = ("start_study", "list_datasets", "run_policy", "cancel_study", "plot_study")
"""Tools that the model does not get: it tunes the given study itself, and opens no other and runs no policy."""
ANSWER_CHARACTERS = 24_000
"""Length at which a tool's answer is cut, since contexts are finite."""
NUDGES = 2
CUTS = 3
"""Answers in a row that may be cut at their maximum length."""
NO_CALLS = (
    "The model called no tool. If its text holds calls, the endpoint does not parse them: start it with a tool parser "
    "(vLLM: --enable-auto-tool-choice --tool-call-parser NAME), or take a model that calls tools."
)
CUT = (
    "The model's answers were cut at their maximum length: raise the endpoint's token limit, or take a model that "
    "thinks less before it calls."
)


async def play_model(drive: Drive, dialogue: Dialogue) -> None:
    """Runs turns until the model finishes the study or stops, or a budget is gone; then the caller finishes it.

    Raises ModelFailed where the endpoint fails, and where the model did nothing: then the study stays open.
    """
    plan = drive.plan.model
    assert plan is not None
    assert drive.folder is not None
    transcript = Transcript(drive.folder, goes_on=drive.plan.resume is not None)
    usage = transcript.usage(price_of(plan.model, plan.prices))
    instructions = await _instructions(drive)
    tool_names = [tool.name for tool in instructions.tools]
    transcript.add("system", text=instructions.system, model=plan.model, tools=tool_names)
    work = _Work()
    try:
        conversation = Conversation(drive, plan, dialogue, instructions)
        for _ in range(plan.max_turns):
            if exhausted := _exhausted_budget(drive, usage):
                return work.end(drive, exhausted)
            turn = await conversation.next_turn(transcript, drive.seconds_left())
            if turn is None:
                return work.end(drive, "The time budget ended the model's work.")
            usage.add(turn)
            calls = [vars(call) for call in turn.calls]
            transcript.add("assistant", text=turn.text, calls=calls, tokens=turn.tokens, read=turn.read)
            jobs = [partial(_perform_call, drive, call, turn, instructions) for call in turn.calls]
            outcomes = await run_together(jobs, drive.plan.parallel)
            for call, outcome in zip(turn.calls, outcomes, strict=True):
                transcript.add("tool", name=call.name, id=call.id, text=outcome.text, failed=outcome.failed)
            if drive.open_study.finish is not None:
                return None
            if work.is_over(turn, outcomes):
                return work.end(drive, "The model stopped before it finished the study.")
            if turn.calls:
                conversation.answer(turn, outcomes)
            else:
                conversation.tell("Go on with a tool call: run_trial while trials are left, else finish_study.")
        return work.end(drive, f"The budget of {plan.max_turns} turns ended the model's work.")
    finally:
        drive.dollars = usage.dollars if usage.price else None
        drive.remark(usage.words())


@dataclass
class _Work:
    """What the model has done so far, which decides how the drive ends."""

    calls: int = 0
    carried_out: int = 0
    idle: int = 0
    """Turns in a row without a call."""
    cut: int = 0
    """Turns in a row that were cut at their maximum length."""

    def is_over(self, turn: Turn, outcomes: Sequence[ToolOutcome]) -> bool:
        """Counts a turn; returns whether the model has stopped working."""
        self.calls += len(turn.calls)
        self.carried_out += sum(not outcome.failed for outcome in outcomes)
        self.idle = 0 if turn.calls else self.idle + 1
        self.cut = self.cut + 1 if turn.cut else 0
        return self.idle >= NUDGES or self.cut >= CUTS

    def end(self, drive: Drive, why: str) -> None:
        """Ends the model's work, after which the study is finished. Raises ModelFailed where it did nothing.

        The sealed test is read once, so a model that is only set up wrongly must not spend it.
        """
        where = drive.plan.model.where if drive.plan.model is not None else ""
        if self.cut >= NUDGES or (self.cut and not self.carried_out):
            raise ModelFailed(f"{where}: {CUT}")
        if not self.calls:
            raise ModelFailed(f"{where}: {why} {NO_CALLS}")
        if not self.carried_out:
            calls = "The model's only call was" if self.calls == 1 else f"All {self.calls} calls of the model were"
            raise ModelFailed(f"{where}: {why} {calls} refused; {TRANSCRIPT} says why.")
        drive.remark(why)


async def first_prompt(drive: Drive) -> str:
    """The first prompt of a model, without the trainings that come before it, and roughly its number of tokens."""
    instructions = await _instructions(drive)
    opening = instructions.opening(drive)
    tools = json.dumps([vars(tool) for tool in instructions.tools], ensure_ascii=False)
    parts = {"system": instructions.system, "tools": tools, "user": opening}
    counts = {name: round(len(text) / CHARACTERS_PER_TOKEN) for name, text in parts.items()}
    total = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    shown = [f"--- {name} (about {counts[name]:,} tokens)\n{text}" for name, text in parts.items()]
    return "\n\n".join([*shown, f"--- about {sum(counts.values()):,} tokens: {total}"])


async def _instructions(drive: Drive) -> Instructions:
    withheld = [*WITHHELD, *([] if drive.plan.memory == "on" else ["read_memory"])]
    withheld += [] if drive.plan.reflection else ["write_heuristic"]
    tools = [tool for tool in await _tools(drive.open_study) if tool.name not in withheld]
    names, system = None, _system(drive)
    if drive.plan.model is not None and drive.plan.model.anonymous:
        names = await _names(drive.open_study)
        system = names.hide(system)
        tools = [ToolSpec(tool.name, names.hide(tool.description), tool.schema) for tool in tools]
    return Instructions(system, tools, names, drive.plan.memory == "on")


async def _names(study_client: StudyClient) -> Names:
    listed = await study_client.ask("list_datasets", {}, DatasetList)
    datasets = dict.fromkeys([study_client.study.brief.dataset["name"], *(line.name for line in listed.datasets)])
    return Names(list(datasets), [field.name for field in study_client.space.fields])


def _exhausted_budget(drive: Drive, usage: TokenUsage) -> str | None:
    """A sentence on the budget that is gone; None while every budget lasts."""
    plan = drive.plan.model
    assert plan is not None
    if drive.spent():
        return "The time budget ended the model's work."
    if usage.tokens >= plan.max_tokens:
        return f"The token budget of {plan.max_tokens:,} ended the model's work."
    if plan.max_cost is not None and usage.dollars >= plan.max_cost:
        return f"The budget of ${plan.max_cost:g} ended the model's work."
    return None


async def _tools(study_client: StudyClient) -> list[ToolSpec]:
    """The server's tools as they are described to a model."""
    tools = (await study_client.client.list_tools()).tools
    return [ToolSpec(tool.name, tool.description or "", tool.input_schema) for tool in tools]


def _system(drive: Drive) -> str:
    study = drive.open_study.study
    return render(
        "tune",
        study_id=study.study_id,
        dataset=study.brief.dataset["name"],
        backbone=study.brief.backbone,
        metric=study.brief.metric,
        trials=drive.plan.max_trials,
    )


async def _perform_call(drive: Drive, call: ToolCall, turn: Turn, instructions: Instructions) -> ToolOutcome:
    """Make a call that the model asked for; whatever is wrong with it goes back to the model as an error."""
    if instructions.names is not None:
        call = replace(call, arguments=instructions.names.restore(call.arguments))
    text, failed = await _answer_call(drive, call, turn, [tool.name for tool in instructions.tools])
    text = text if instructions.names is None else instructions.names.hide(text)
    if len(text) > ANSWER_CHARACTERS:
        text = f"{text[:ANSWER_CHARACTERS]}… (cut; ask for less)"
    return ToolOutcome(call.id, text, failed)


async def _answer_call(drive: Drive, call: ToolCall, turn: Turn, tool_names: list[str]) -> tuple[str, bool]:
    study_client = drive.open_study
    if turn.cut:
        return "Your answer was cut off at its maximum length, so this call was not made: repeat it, shorter.", True
    if call.problem is not None:
        return call.problem, True
    if call.name not in tool_names:
        near = nearest(call.name, tool_names)
        return f"Unknown tool {call.name!r}.{near} There are {', '.join(tool_names)}.", True
    if study_client.finish is not None:
        return "The study is finished.", True
    study_id = study_client.study.study_id
    if call.arguments.get("study_id") not in (None, study_id):
        return f"study_id must be {study_id!r}: that is the study you were given.", True
    try:
        if call.name == "run_trial":
            return await _run_trial(drive, call.arguments), False
        if call.name == "finish_study":
            return _json(await study_client.end(call.arguments.get("summary"))), False
    except Refused as refusal:
        return str(refusal), True
    result = await study_client.call(call.name, call.arguments)
    return text_of(result), result.is_error


async def _run_trial(drive: Drive, arguments: dict[str, Any]) -> str:
    study_client = drive.open_study
    changes, again = arguments.get("changes"), arguments.get("replicate_of")
    shown = cast("dict[str, Any]", changes) if isinstance(changes, dict) else {}
    proposal = Proposal(dict(shown), replicate_of=again if isinstance(again, str) else None)
    drive.view.started(proposal, len(study_client.trials))
    answer = await study_client.run_trial(arguments)
    drive.view.finished(answer, study_client.study.brief.metric)
    return _json(answer)


def _json(answer: Any) -> str:
    return answer.model_dump_json(exclude_none=True)
