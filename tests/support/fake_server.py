"""A fake of the MCP server for tests of its clients: the same tools and answers, scores from a function, no disk."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
from mcp import Client
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent

from memory.statistics.decide import Contender, Rule
from memory.statistics.noise import prior
from server import answers
from server.answers import Answer, Finished, MemoryItem, Noise, NoteLine, TrialAnswer
from server.views.items import gain_line
from tests.support.examples import FACTS
from trainers.contract.fields import space_of
from trainers.contract.space import Config, Space, SpaceError
from trainers.contract.specs import SPECS

METRIC = "ndcg@10"
SKILL = "12 predictions, of which 50% came true."
Score = Callable[[Config, int], float | str]
"""Of a configuration and a seed: the metric, or the status that a failed training ends with."""


def by_learning_rate(config: Config, seed: int) -> float | str:
    """Best at 0.003; a seed moves the score by a thousandth."""
    rate = float(config["learning_rate"])
    return (0.08 if 0.002 <= rate <= 0.005 else 0.05) * (1 + 0.001 * seed)


class FakeServer:
    """One study at a time. `slow` answers run_trial with `running` first; `on_trial` is called before each training."""

    def __init__(self, score: Score = by_learning_rate, *, slow: bool = False, synthetic: bool = False) -> None:
        self.score = score
        self.slow = slow
        self.synthetic = synthetic
        self.on_trial: Callable[[int], None] = lambda count: None
        self.hang_at: int | None = None
        self.seconds = 3.0
        self.memory: list[NoteLine] = []
        self.previous: answers.Previous | None = None
        self.space: Space = space_of(SPECS["sasrec"])
        self.arguments: dict[str, Any] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.trials: dict[str, TrialAnswer] = {}
        self.configs: dict[str, Config] = {}
        self.notes: list[MemoryItem] = []
        self.cancelled: list[str] = []
        self.finishes = 0
        self.app = MCPServer("fake", log_level="WARNING")
        for tool in (
            self.list_datasets, self.start_study, self.run_trial, self.get_trial, self.cancel_trial,
            self.read_memory, self.write_heuristic, self.finish_study,
        ):  # fmt: skip
            self.app.add_tool(tool, name=tool.__name__)
        self.app.resource("virtualmle://studies/{study_id}/space", mime_type="application/json")(self.study_space)
        self.app.resource("virtualmle://studies/{study_id}/brief", mime_type="application/json")(self.study_brief)
        self.app.resource("virtualmle://studies/{study_id}/trials", mime_type="application/json")(self.study_trials)
        self.app.resource("virtualmle://studies/{study_id}/notes", mime_type="application/json")(self.study_notes)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        async with Client(self.app) as client:
            yield client

    def study_space(self, study_id: str) -> str:
        """The space of the study."""
        return self.space.model_dump_json(exclude_none=True)

    def study_brief(self, study_id: str) -> str:
        """The brief of the study."""
        return self.brief.model_dump_json()

    def study_trials(self, study_id: str) -> str:
        """The trials of the study."""
        lines = [
            answers.TrialLine(trial_id=name, status=one.status, config=self.configs[name])
            for name, one in self.trials.items()
        ]
        return answers.StudyTrials(trials=lines).model_dump_json()

    def study_notes(self, study_id: str) -> str:
        """The notes of the study."""
        return answers.StudyNotes(notes=self.notes, calibration=SKILL).model_dump_json()

    async def list_datasets(self) -> Annotated[CallToolResult, answers.DatasetList]:
        """List the datasets."""
        return _result(answers.DatasetList(datasets=[], next="start_study"))

    async def start_study(
        self, dataset: str, backbone: str = "sasrec", metric: str = METRIC, preset: str = "strong",
        space: dict[str, Any] | None = None, filter_seen: str = "auto", max_trials: int | None = None,
        budget_seconds: float | None = None, trial_seconds: float | None = None, policy: str = "client", seed: int = 0,
    ) -> Annotated[CallToolResult, answers.StudyAnswer]:  # fmt: skip
        """Open a study."""
        self.arguments = {
            "dataset": dataset, "backbone": backbone, "preset": preset, "space": space, "filter_seen": filter_seen,
            "max_trials": max_trials, "budget_seconds": budget_seconds, "trial_seconds": trial_seconds,
            "policy": policy, "seed": seed,
        }  # fmt: skip
        if dataset not in ("demo", "beauty"):
            raise ToolError(f"No dataset {dataset!r}; there are demo, beauty.")
        try:
            self.space = space_of(SPECS[backbone]).restrict(space or {})
        except SpaceError as error:
            raise ToolError(str(error)) from error
        facts = {
            "name": dataset,
            "split": "leave-one-out",
            "content_hash": "abc",
            **FACTS.model_dump(exclude_none=True),
        }
        self.brief = answers.Brief(
            dataset=facts | ({"synthetic": True} if self.synthetic else {}), backbone=backbone, metric=metric,
            filter_seen=filter_seen, space={}, default=self.space.default(), memory=self.memory,
            baselines={"popularity": {METRIC: 0.01}}, noise=self._noise(), min_gain=0.05, budget={}, snapshot_id="m-1",
            previous=self.previous,
        )  # fmt: skip
        return _result(answers.StudyAnswer(study_id="s-1", brief=self.brief, next="run_trial"))

    def _noise(self) -> Noise:
        sigma = prior(FACTS.users)
        return Noise(sigma=sigma.sigma, df=sigma.df)

    async def run_trial(
        self, study_id: str, changes: dict[str, Any] | None = None, parent: str | None = None,
        hypothesis: str | None = None, expected: dict[str, Any] | None = None, cites: list[str] | None = None,
        snapshot_id: str | None = None, replicate_of: str | None = None, seed: int | None = None,
        wait_seconds: float = 45, request_key: str | None = None,
    ) -> Annotated[CallToolResult, TrialAnswer]:  # fmt: skip
        """Train one configuration."""
        self.calls.append(("run_trial", {"changes": changes, "parent": parent, "replicate_of": replicate_of,
                                         "expected": expected, "cites": cites, "hypothesis": hypothesis}))  # fmt: skip
        self.on_trial(len(self.trials))
        trial_id = f"t-{len(self.trials)}"
        changes, config, parent = self._planned(changes or {}, parent, replicate_of)
        group = [answer for answer in self.trials.values() if self._same(self.configs[answer.trial_id], config)]
        most = self.arguments["max_trials"]
        if not group and most is not None and self._left() == 0:
            raise ToolError(f"All {most} configurations of this study are used; finish_study ends it.")
        if group and replicate_of is None:
            return _result(group[0].model_copy(update={"duplicate": True}))
        chosen = seed if seed is not None else self.arguments["seed"] + len(group)
        number = group[0].number if group else len({answer.number for answer in self.trials.values()})
        self.configs[trial_id] = config
        self.trials[trial_id] = TrialAnswer(
            study_id=study_id, trial_id=trial_id, status="ok", number=number, seed=chosen, changes=changes,
            parent=parent, replicate_of=group[0].trial_id if group else None, hypothesis=hypothesis, epochs=5,
            next="…",
        )  # fmt: skip
        self.trials[trial_id] = self._judged(trial_id, self.score(config, chosen))
        if self.hang_at == len(self.trials):
            return _result(self.trials[trial_id].model_copy(update={"status": "running", "metrics": {}}))
        if self.slow:
            return _result(self.trials[trial_id].model_copy(update={"status": "running", "metrics": {}}))
        return _result(self.trials[trial_id])

    def _planned(
        self, changes: dict[str, Any], parent: str | None, replicate_of: str | None
    ) -> tuple[Config, Config, str | None]:
        if replicate_of is not None:
            if replicate_of not in self.configs:
                raise ToolError(f"replicate_of={replicate_of!r} is not a trial of study 's-1'.")
            return self.trials[replicate_of].changes, self.configs[replicate_of], self.trials[replicate_of].parent
        if parent is not None and parent not in self.configs:
            raise ToolError(f"parent={parent!r} is not a trial of study 's-1'.")
        base = self.configs[parent] if parent else self.space.default()
        try:
            return changes, self.space.apply(base, changes), parent
        except SpaceError as error:
            raise ToolError(str(error)) from error

    def _same(self, one: Config, other: Config) -> bool:
        return self.space.hash(one) == self.space.hash(other)

    def _left(self) -> int:
        return int(self.arguments["max_trials"]) - len({answer.number for answer in self.trials.values()})

    def _judged(self, trial_id: str, score: float | str) -> TrialAnswer:
        answer = self.trials[trial_id]
        facts: dict[str, Any] = {"seconds": self.seconds, "eval_seconds": 0.0, "trainings": len(self.trials)}
        facts["trials_left"] = self._left() if self.arguments["max_trials"] else None
        if isinstance(score, str):
            return answer.model_copy(update={**facts, "status": score, "message": f"it ended {score}"})
        facts |= {"metrics": {METRIC: score, "recall@10": 2 * score}, "best_epoch": 4, "noise": self._noise()}
        groups: dict[int, list[float]] = {}
        for other in self.trials.values():
            if METRIC in other.metrics:
                groups.setdefault(other.number, []).append(other.metrics[METRIC])
        own = [*groups.pop(answer.number, []), score]
        means = {number: sum(scores) / len(scores) for number, scores in groups.items()}
        if groups:
            rival = max(means, key=lambda number: means[number])
            mine, theirs = (
                Contender(number, str(number), {str(place): math.log(value) for place, value in enumerate(scores)})
                for number, scores in ((answer.number, own), (rival, groups[rival]))
            )
            found = Rule(prior(FACTS.users), max(mine.mean, theirs.mean)).compare(mine, theirs)
            facts |= {"verdict": found.verdict, "gain": gain_line(found)}
            facts["delta"] = {"incumbent": score / means[rival] - 1}
            if 0 in means:
                facts["delta"]["default"] = score / means[0] - 1
        return answer.model_copy(update=facts)

    async def get_trial(
        self, trial_id: str, wait_seconds: float = 0, detail: str = "summary"
    ) -> Annotated[CallToolResult, TrialAnswer]:
        """Return a trial."""
        self.calls.append(("get_trial", {"trial_id": trial_id}))
        if trial_id not in self.trials:
            raise ToolError(f"Unknown trial {trial_id!r}; read_memory lists the trials there are.")
        if self.hang_at == len(self.trials) and trial_id not in self.cancelled:
            await anyio.sleep_forever()
        status = {"status": "cancelled", "metrics": {}} if trial_id in self.cancelled else {}
        return _result(self.trials[trial_id].model_copy(update=status))

    async def cancel_trial(self, trial_id: str) -> Annotated[CallToolResult, answers.TrialStatusAnswer]:
        """End a trial."""
        self.cancelled.append(trial_id)
        return _result(answers.TrialStatusAnswer(trial_id=trial_id, status="cancelled", next="…"))

    async def read_memory(
        self, study_id: str | None = None, dataset: str | None = None, level: str | None = None,
        query: str | None = None, limit: int = 20, detail: str = "summary", cursor: str | None = None,
    ) -> Annotated[CallToolResult, answers.MemoryAnswer]:  # fmt: skip
        """Return what was learned."""
        items = [note for note in self.notes if level in (None, note.level)]
        whole = answers.Digest(coverage="", calibration=SKILL)
        about = whole if level is None else None
        return _result(answers.MemoryAnswer(snapshot_id="m-2", items=items, digest=about, next="…"))

    async def write_heuristic(
        self,
        study_id: str,
        kind: str,
        text: str,
        evidence: list[str] | None = None,
        supersedes: list[str] | None = None,
    ) -> Annotated[CallToolResult, answers.NoteAnswer]:
        """Store what was learned."""
        verdict = "insufficient" if kind == "heuristic" else None
        self.notes.append(
            MemoryItem(
                id=f"h-{len(self.notes)}", level=kind, text=text, study_id=study_id, dataset="demo", backbone="sasrec",
                evidence=evidence or [], verdict=verdict,
            )
        )  # fmt: skip
        return _result(answers.NoteAnswer(note_id=self.notes[-1].id, verdict=verdict, next="…"))

    async def finish_study(
        self, study_id: str, summary: str | None = None, wait_seconds: float = 45
    ) -> Annotated[CallToolResult, answers.FinishAnswer]:
        """End a study."""
        self.finishes += 1
        if not any(note.level == "summary" for note in self.notes):
            await self.write_heuristic(study_id, "summary", summary or "What the study came to.")
        if self.slow and self.finishes == 1:
            return _result(answers.FinishAnswer(study_id=study_id, status="running", next="finish_study"))
        groups: dict[int, list[TrialAnswer]] = {}
        for answer in self.trials.values():
            if METRIC in answer.metrics and answer.trial_id not in self.cancelled:
                groups.setdefault(answer.number, []).append(answer)
        finished = {number: self._finished(group) for number, group in groups.items()}
        if not finished:
            words = "No training scored, so there was nothing to evaluate; the test split stays sealed."
            return _result(answers.FinishAnswer(study_id=study_id, status="finished", words=words, next="…"))
        chosen = max(finished.values(), key=lambda one: one.validation[METRIC])
        return _result(
            answers.FinishAnswer(
                study_id=study_id, status="finished", chosen=chosen, default=finished.get(0), test_delta=0.6,
                words="The chosen configuration beats the default on the sealed test by more than seed noise.",
                test_reveal=2, checkpoint="trials/t/checkpoint.safetensors", trainings=len(self.trials), next="…",
            )
        )  # fmt: skip

    def _finished(self, group: list[TrialAnswer]) -> Finished:
        mean = {name: sum(one.metrics[name] for one in group) / len(group) for name in group[0].metrics}
        config = self.configs[group[0].trial_id]
        return Finished(
            trial_ids=[one.trial_id for one in group], config=config, changes=group[0].changes, validation=mean,
            test={name: value * 0.9 for name, value in mean.items()},
        )  # fmt: skip


def _result(answer: Answer) -> CallToolResult:
    facts = answer.model_dump(mode="json", exclude_none=True)
    text = answer.model_dump_json(exclude_none=True)
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=facts)
