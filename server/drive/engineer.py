"""The engineer that is a language model: it calls the server's tools until it finishes or a budget ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prompts import render
from server.answers import DatasetList
from server.drive.context import opening
from server.drive.desk import Desk, Refused, text_of
from server.drive.dialogue import Dialogue, ToolCall, ToolOutcome, ToolSpec, Turn
from server.drive.names import Names
from server.drive.prices import Price, price_of
from server.drive.state import Drive
from server.drive.together import together
from server.policies.base import Proposal

WITHHELD = ("start_study", "list_datasets", "run_policy", "cancel_study", "plot_study")
"""The study is given, and the model plays it itself: it must not open others, or let a policy play."""
ANSWER_CHARACTERS = 24_000
"""A tool's answer is cut beyond this: contexts are finite."""
NUDGES = 2
CHARACTERS_A_TOKEN = 4
"""Of English and JSON, about: no provider's tokenizer is asked."""
TRANSCRIPT = "transcript.jsonl"


class Transcript:
    """What was said, one JSON object a line, as it happens. Holds no key: keys are never part of what is said."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / TRANSCRIPT
        self._path.write_text("", encoding="utf-8")

    def add(self, role: str, **facts: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"role": role, **facts}, ensure_ascii=False) + "\n")


async def play_model(drive: Drive, dialogue: Dialogue) -> None:
    """Turns until the model finishes the study or stops, or a budget is gone; the caller finishes then."""
    plan = drive.plan.model
    assert plan is not None
    assert drive.folder is not None
    transcript, spent = Transcript(drive.folder), Spent(price_of(plan.model, plan.prices))
    told = await _told(drive)
    said: str | None = told.opening(drive)
    dialogue.begin(told.system, told.tools)
    transcript.add("system", text=told.system, model=plan.model, tools=[tool.name for tool in told.tools])
    outcomes: list[ToolOutcome] = []
    nudges = 0
    try:
        for _ in range(plan.max_turns):
            if said:
                transcript.add("user", text=said)
            turn = await dialogue.turn(said, outcomes)
            spent.add(turn)
            calls = [vars(call) for call in turn.calls]
            transcript.add("assistant", text=turn.text, calls=calls, tokens=turn.tokens)
            jobs = [partial(_performed, drive, call, turn, told) for call in turn.calls]
            outcomes = await together(jobs, drive.plan.parallel)
            for call, outcome in zip(turn.calls, outcomes, strict=True):
                transcript.add("tool", name=call.name, id=call.id, text=outcome.text, failed=outcome.failed)
            if drive.desk_open.finish is not None:
                return None
            if ended := _ended(drive, spent):
                return drive.remark(ended)
            nudges = 0 if turn.calls else nudges + 1
            if nudges >= NUDGES:
                return drive.remark("The model stopped before it finished the study.")
            said = None if turn.calls else "Go on with a tool call: run_trial while trials are left, else finish_study."
            if turn.calls and turn.read > plan.max_context:
                said = told.opening(drive, [outcome.text for outcome in outcomes])
                outcomes = []
                dialogue.begin(told.system, told.tools)
        return drive.remark(f"The budget of {plan.max_turns} turns ended the model's work.")
    finally:
        drive.dollars = spent.dollars if spent.price else None
        drive.remark(spent.words())


async def first_prompt(drive: Drive) -> str:
    """What a model is told first, without the trainings that come before it, and about how many tokens that are."""
    told = await _told(drive)
    opening = told.opening(drive)
    tools = json.dumps([vars(tool) for tool in told.tools], ensure_ascii=False)
    parts = {"system": told.system, "tools": tools, "user": opening}
    counts = {name: round(len(text) / CHARACTERS_A_TOKEN) for name, text in parts.items()}
    total = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    shown = [f"--- {name} (about {counts[name]:,} tokens)\n{text}" for name, text in parts.items()]
    return "\n\n".join([*shown, f"--- about {sum(counts.values()):,} tokens: {total}"])


@dataclass
class Told:
    """What the model is told at the start of each context, and under which names."""

    system: str
    tools: list[ToolSpec]
    names: Names | None
    remembers: bool

    def opening(self, drive: Drive, latest: Sequence[str] = ()) -> str:
        """The first message of a context."""
        text = opening(drive.desk_open, self.remembers, described=self.names is None)
        text = self.names.hide(text) if self.names else text
        answers = "\nYour last calls were answered with:\n" + "\n".join(latest) if latest else ""
        several = drive.plan.parallel
        side = f" Up to {several} run_trial calls in one turn are trained side by side." if several > 1 else ""
        return f"{text}{answers}\nGo on with step 4.{side}"


async def _told(drive: Drive) -> Told:
    withheld = [*WITHHELD, *([] if drive.plan.memory == "on" else ["read_memory"])]
    withheld += [] if drive.plan.reflection else ["write_heuristic"]
    tools = [tool for tool in await _tools(drive.desk_open) if tool.name not in withheld]
    names, system = None, _system(drive)
    if drive.plan.model is not None and drive.plan.model.anonymous:
        names = await _names(drive.desk_open)
        system = names.hide(system)
        tools = [ToolSpec(tool.name, names.hide(tool.description), tool.schema) for tool in tools]
    return Told(system, tools, names, drive.plan.memory == "on")


async def _names(desk: Desk) -> Names:
    known = await desk.ask("list_datasets", {}, DatasetList)
    datasets = dict.fromkeys([desk.study.brief.dataset["name"], *(line.name for line in known.datasets)])
    return Names(list(datasets), [field.name for field in desk.space.fields])


@dataclass
class Spent:
    """What the model cost so far."""

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
        """In one sentence, with dollars where there is a price."""
        cost = f", about ${self.dollars:.2f}" if self.price else ""
        return f"The model read {self.read:,} tokens and wrote {self.written:,}{cost}."


def _ended(drive: Drive, spent: Spent) -> str | None:
    """Which budget is gone, if one is."""
    plan = drive.plan.model
    assert plan is not None
    if drive.spent():
        return "The time budget ended the model's work."
    if spent.tokens >= plan.max_tokens:
        return f"The token budget of {plan.max_tokens:,} ended the model's work."
    if plan.max_cost is not None and spent.dollars >= plan.max_cost:
        return f"The budget of ${plan.max_cost:g} ended the model's work."
    return None


async def _tools(desk: Desk) -> list[ToolSpec]:
    """The server's tools as a model is told of them."""
    found = (await desk.client.list_tools()).tools
    return [ToolSpec(tool.name, tool.description or "", tool.input_schema) for tool in found]


def _system(drive: Drive) -> str:
    study = drive.desk_open.study
    return render(
        "tune",
        study_id=study.study_id,
        dataset=study.brief.dataset["name"],
        backbone=study.brief.backbone,
        metric=study.brief.metric,
        trials=drive.plan.trials,
    )


async def _performed(drive: Drive, call: ToolCall, turn: Turn, told: Told) -> ToolOutcome:
    """Do what the model asked; whatever is wrong with it goes back to the model as an error."""
    if told.names is not None:
        call = replace(call, arguments=told.names.restore(call.arguments))
    text, failed = await _answer(drive, call, turn, [tool.name for tool in told.tools])
    text = text if told.names is None else told.names.hide(text)
    if len(text) > ANSWER_CHARACTERS:
        text = f"{text[:ANSWER_CHARACTERS]}… (cut; ask for less)"
    return ToolOutcome(call.id, text, failed)


async def _answer(drive: Drive, call: ToolCall, turn: Turn, known: list[str]) -> tuple[str, bool]:
    desk = drive.desk_open
    if turn.cut:
        return "Your answer was cut off at its maximum length, so this call was not made: repeat it, shorter.", True
    if call.problem is not None:
        return call.problem, True
    if call.name not in known:
        return f"Unknown tool {call.name!r}; there are {', '.join(known)}.", True
    if desk.finish is not None:
        return "The study is finished.", True
    own = desk.study.study_id
    if call.arguments.get("study_id", own) != own:
        return f"study_id must be {own!r}: that is the study you were given.", True
    try:
        if call.name == "run_trial":
            return await _run_trial(drive, call.arguments), False
        if call.name == "finish_study":
            return _json(await desk.end(call.arguments.get("summary"))), False
    except Refused as refusal:
        return str(refusal), True
    result = await desk.call(call.name, call.arguments)
    return text_of(result), result.is_error


async def _run_trial(drive: Drive, arguments: dict[str, Any]) -> str:
    desk = drive.desk_open
    changes: Any = arguments.get("changes")
    shown = Proposal(dict(changes) if isinstance(changes, dict) else {}, replicate_of=arguments.get("replicate_of"))  # pyright: ignore[reportUnknownArgumentType]
    drive.view.started(shown, len(desk.trials))
    answer = await desk.run_trial(arguments)
    drive.view.finished(answer, desk.study.brief.metric)
    return _json(answer)


def _json(answer: Any) -> str:
    return answer.model_dump_json(exclude_none=True)
