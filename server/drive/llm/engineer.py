"""Lets a language model tune a study: it calls the server's tools until it finishes or a budget ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prompts import render
from server.answers import DatasetList
from server.drive.llm.anonymous_names import Names
from server.drive.llm.context import opening
from server.drive.llm.dialogue import Dialogue, ToolCall, ToolOutcome, ToolSpec, Turn
from server.drive.llm.prices import Price, price_of
from server.drive.state import Drive
from server.drive.study_client import Refused, StudyClient, text_of
from server.drive.together import run_together
from server.policies.base import Proposal

WITHHELD = ("start_study", "list_datasets", "run_policy", "cancel_study", "plot_study")
"""Tools that the model does not get: it tunes the given study itself, and opens no other and runs no policy."""
ANSWER_CHARACTERS = 24_000
"""Length at which a tool's answer is cut, since contexts are finite."""
NUDGES = 2
CHARACTERS_PER_TOKEN = 4
"""Approximate, for English and JSON: no provider's tokenizer is used."""
TRANSCRIPT = "transcript.jsonl"


class Transcript:
    """A file of the dialogue as it happens, one JSON object per line. It holds no key: messages never contain one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / TRANSCRIPT
        self._path.write_text("", encoding="utf-8")

    def add(self, role: str, **facts: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"role": role, **facts}, ensure_ascii=False) + "\n")


async def play_model(drive: Drive, dialogue: Dialogue) -> None:
    """Runs turns until the model finishes the study or stops, or a budget is gone; then the caller finishes it."""
    plan = drive.plan.model
    assert plan is not None
    assert drive.folder is not None
    transcript, usage = Transcript(drive.folder), TokenUsage(price_of(plan.model, plan.prices))
    instructions = await _instructions(drive)
    user_text: str | None = instructions.opening(drive)
    dialogue.begin(instructions.system, instructions.tools)
    tool_names = [tool.name for tool in instructions.tools]
    transcript.add("system", text=instructions.system, model=plan.model, tools=tool_names)
    outcomes: list[ToolOutcome] = []
    nudges = 0
    try:
        for _ in range(plan.max_turns):
            if user_text:
                transcript.add("user", text=user_text)
            turn = await dialogue.turn(user_text, outcomes)
            usage.add(turn)
            calls = [vars(call) for call in turn.calls]
            transcript.add("assistant", text=turn.text, calls=calls, tokens=turn.tokens)
            jobs = [partial(_perform_call, drive, call, turn, instructions) for call in turn.calls]
            outcomes = await run_together(jobs, drive.plan.parallel)
            for call, outcome in zip(turn.calls, outcomes, strict=True):
                transcript.add("tool", name=call.name, id=call.id, text=outcome.text, failed=outcome.failed)
            if drive.open_study.finish is not None:
                return None
            if exhausted := _exhausted_budget(drive, usage):
                return drive.remark(exhausted)
            nudges = 0 if turn.calls else nudges + 1
            if nudges >= NUDGES:
                return drive.remark("The model stopped before it finished the study.")
            user_text = (
                None if turn.calls else "Go on with a tool call: run_trial while trials are left, else finish_study."
            )
            if turn.calls and turn.read > plan.max_context:
                user_text = instructions.opening(drive, [outcome.text for outcome in outcomes])
                outcomes = []
                dialogue.begin(instructions.system, instructions.tools)
        return drive.remark(f"The budget of {plan.max_turns} turns ended the model's work.")
    finally:
        drive.dollars = usage.dollars if usage.price else None
        drive.remark(usage.words())


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


@dataclass
class Instructions:
    """What the model gets at the start of each context: system prompt, tools and the aliases of names."""

    system: str
    tools: list[ToolSpec]
    names: Names | None
    remembers: bool

    def opening(self, drive: Drive, latest: Sequence[str] = ()) -> str:
        """The first message of a context."""
        text = opening(drive.open_study, self.remembers, described=self.names is None)
        text = self.names.hide(text) if self.names else text
        answers = "\nYour last calls were answered with:\n" + "\n".join(latest) if latest else ""
        several = drive.plan.parallel
        side = f" Up to {several} run_trial calls in one turn are trained side by side." if several > 1 else ""
        return f"{text}{answers}\nGo on with step 4.{side}"


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


@dataclass
class TokenUsage:
    """The tokens that the model has used so far, and their price."""

    price: Price | None
    read: int = 0
    written: int = 0

    @property
    def tokens(self) -> int:
        return self.read + self.written

    @property
    def dollars(self) -> float:
        return self.price.of(self.read, self.written) if self.price else 0.0

    def add(self, turn: Turn) -> None:
        self.read += turn.read
        self.written += turn.tokens - turn.read

    def words(self) -> str:
        """One sentence on the usage, with dollars if there is a price."""
        cost = f", about ${self.dollars:.2f}" if self.price else ""
        return f"The model read {self.read:,} tokens and wrote {self.written:,}{cost}."


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
        return f"Unknown tool {call.name!r}; there are {', '.join(tool_names)}.", True
    if study_client.finish is not None:
        return "The study is finished.", True
    study_id = study_client.study.study_id
    if call.arguments.get("study_id", study_id) != study_id:
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
    changes: Any = arguments.get("changes")
    proposal = Proposal(dict(changes) if isinstance(changes, dict) else {}, replicate_of=arguments.get("replicate_of"))  # pyright: ignore[reportUnknownArgumentType]
    drive.view.started(proposal, len(study_client.trials))
    answer = await study_client.run_trial(arguments)
    drive.view.finished(answer, study_client.study.brief.metric)
    return _json(answer)


def _json(answer: Any) -> str:
    return answer.model_dump_json(exclude_none=True)
