"""The MCP tools around studies and trials: each validates, calls one thing and shapes the answer."""

from __future__ import annotations

from datetime import UTC, datetime
from inspect import getdoc
from typing import Annotated, Any, Literal

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import Field

from memory.records import EarlyStop, Expected, Study, Trial
from server import admission, answers
from server.admission import ProtocolError
from server.brief import new_study, shortened, study_space, write_brief
from server.calls import result, runtime_of, told
from server.comparing import compared_with
from server.dashboard.routes import APP
from server.guardrails import checked
from server.lineage import previous_best
from server.memory_tools import read_memory, write_heuristic
from server.policy_tools import cancel_study, get_study, plot_study, run_policy, suggest_trial
from server.reveal import finish_answer
from server.run_directory import check_room
from server.runtime import Runtime
from server.summary import summarize
from server.views import dataset_line, judgement_of, trial_answer
from trainers.data import ensure, find_by_hash, list_datasets
from trainers.spec import FilterSeen, Preset

Metric = Literal["ndcg@10", "ndcg@5", "ndcg@20", "recall@5", "recall@10", "recall@20", "mrr@10"]
Seconds = Annotated[float, Field(ge=0)]
_READ = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_WRITE = ToolAnnotations(destructive_hint=False, open_world_hint=False)
_END = ToolAnnotations(idempotent_hint=True, open_world_hint=False)
"""Where a hint is not given, a client takes the worst: it changes things, destroys, and may not be repeated."""


def register(server: MCPServer[Any]) -> None:
    """Register the tools, in the order in which an engineer meets them."""
    for tool, hints in (
        (list_datasets_tool, _READ),
        (start_study, _WRITE),
        (run_trial, _WRITE),
        (get_trial, _READ),
        (cancel_trial, _END),
        (suggest_trial, _READ),
        (run_policy, _WRITE),
        (get_study, _READ),
        (cancel_study, _END),
        (plot_study, _READ),
        (read_memory, _READ),
        (write_heuristic, _WRITE),
        (finish_study, _END),
    ):
        # A picture beside structured content would not be shown by clients that show the model only that.
        structured = None if tool is not plot_study else False
        name = tool.__name__.removesuffix("_tool")
        page = {"ui": {"resourceUri": APP}} if tool is get_study else None
        server.add_tool(
            tool, name=name, description=getdoc(tool), annotations=hints, structured_output=structured, meta=page
        )


async def list_datasets_tool(ctx: Context[Any, Any]) -> Annotated[CallToolResult, answers.DatasetList]:
    """List the datasets that can be tuned on, with sizes. `demo` is synthetic and made on first use.

    Not for importing: the user does that with `virtualmle data add NAME PATH`.
    """
    with told():
        found = [dataset_line(dataset) for dataset in list_datasets(runtime_of(ctx).settings.datasets)]
    demo = "" if any(line.name == "demo" for line in found) else " `demo` (synthetic) is made when a study names it."
    return result(answers.DatasetList(datasets=found, next=f"start_study(dataset=NAME).{demo}"))


async def start_study(
    ctx: Context[Any, Any],
    dataset: str,
    backbone: str = "sasrec",
    metric: Metric = "ndcg@10",
    preset: Preset = "strong",
    space: dict[str, Any] | None = None,
    filter_seen: FilterSeen = "auto",
    max_trials: Annotated[int, Field(ge=1)] | None = None,
    budget_seconds: Annotated[float, Field(gt=0)] | None = None,
    trial_seconds: Annotated[float, Field(gt=0)] | None = None,
    gpu_seconds: Annotated[float, Field(gt=0)] | None = None,
    policy: str = "client",
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
    early_stop: EarlyStop = "auto",
    guardrails: dict[str, dict[str, float]] | None = None,
    withhold: Annotated[float, Field(ge=0, le=0.9)] | None = None,
) -> Annotated[CallToolResult, answers.StudyAnswer]:
    """Open a study and return its brief: dataset facts, space with bounds, default, baselines, noise, what memory says.

    Trains nothing: run_trial without changes trains the default, trial 0.
    `backbone`: sasrec, hstu or the user's own. `space` narrows fields: {"dropout": 0.2, "hidden_dim":
    [64, 128], "learning_rate": {"low": 0.0005, "high": 0.005}}. `early_stop` "auto" ends hopeless trainings, `stopped`.
    `guardrails`: {"coverage@10": {"min": 0.2}}; what violates them is never chosen. `withhold`: chance to hide a
    heuristic, to measure it. Example: start_study(dataset="demo", max_trials=8).
    """
    runtime = runtime_of(ctx)
    with told():
        found = await anyio.to_thread.run_sync(ensure, runtime.settings.datasets, dataset)
        limits = checked(guardrails or {})
        limited = study_space(backbone, preset, found, space or {}, runtime.settings.trainers)
        admission.check_trainer(backbone, filter_seen, runtime.settings.executor)

        previous = previous_best(runtime.memory, found, limited, metric)

        def prepare() -> Study:
            return new_study(
                found, limited, metric=metric, preset_name=preset, filter_seen=filter_seen, max_trials=max_trials,
                budget_seconds=budget_seconds, trial_seconds=trial_seconds, policy=policy, seed=seed,
                gpu_seconds=gpu_seconds,
                early_stop=early_stop, guardrails=limits, previous=previous,
                withhold=runtime.settings.withhold if withhold is None else withhold,
            )  # fmt: skip

        study = await anyio.to_thread.run_sync(prepare)
        runtime.memory.add_study(study)
        brief = shortened(write_brief(runtime.memory, study), study)
    following = f"run_trial(study_id={study.study_id!r}) trains the default configuration: trial 0."
    if previous is not None and previous.changes:
        following += f" Then run_trial(changes={previous.changes!r}): what won on the older version of the dataset."
    return result(answers.StudyAnswer(study_id=study.study_id, brief=brief, next=following))


async def run_trial(
    ctx: Context[Any, Any],
    study_id: str,
    changes: dict[str, Any] | None = None,
    parent: str | None = None,
    hypothesis: str | None = None,
    expected: Expected | None = None,
    cites: list[str] | None = None,
    snapshot_id: str | None = None,
    replicate_of: str | None = None,
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None,
    wait_seconds: Seconds = 45,
    request_key: str | None = None,
) -> Annotated[CallToolResult, answers.TrialAnswer]:
    """Train one configuration; return validation metrics, delta, verdict against seed noise, curve and diagnosis.

    `changes` apply to `parent` (a trial_id; default: the incumbent); `replicate_of` trains a trial again with a fresh
    seed. After wait_seconds the answer is status "running" and the trial goes on: then use get_trial. `request_key`
    makes a retried call safe. Example: run_trial(study_id="s-…", changes={"dropout": 0.3}, hypothesis="…").
    """
    runtime = runtime_of(ctx)
    with told():
        study = runtime.memory.study(study_id)
        trials = runtime.memory.trials(study_id)
        retried = next((t for t in trials if request_key and t.request_key == request_key), None)
        if retried is None:
            new = admission.plan_trial(study, trials, changes or {}, parent, replicate_of, seed)
            new = new.model_copy(
                update={
                    "hypothesis": hypothesis,
                    "expected": expected,
                    "cites": tuple(runtime.memory.note(note_id).heuristic_id for note_id in cites or ()),
                    "snapshot_id": snapshot_id or runtime.memory.latest_snapshot(study_id),
                    "request_key": request_key,
                }
            )
            known = runtime.memory.find_trial(study_id, new.config_hash, new.seed)
        else:
            new, known = retried, retried
        if known is not None and known.status != "interrupted":
            trial, duplicate = known, retried is None
        else:
            held = runtime.memory.slot_seconds(study_id) if study.gpu_seconds is not None else 0.0
            admission.check_open(study, trials, new.config_hash, datetime.now(UTC), held)
            find_by_hash(runtime.settings.datasets, study.dataset_hash)
            check_room(runtime.settings.trials, runtime.settings.least_free_gb)
            trial, duplicate = known or runtime.memory.start_trial(new), False
            await runtime.supervisor.submit(trial, study)
        await _wait(ctx, runtime, trial, wait_seconds)
        return result(_answer(runtime, trial.trial_id, duplicate=duplicate))


async def get_trial(
    ctx: Context[Any, Any],
    trial_id: str,
    wait_seconds: Seconds = 0,
    detail: Literal["summary", "full"] = "summary",
    compare_to: str | None = None,
) -> Annotated[CallToolResult, answers.TrialAnswer]:
    """Return a trial as run_trial does, waiting up to wait_seconds while it runs. Starts nothing.

    detail="full" adds the configuration, every epoch, and a bootstrap over users against the incumbent or `compare_to`.
    """
    runtime = runtime_of(ctx)
    with told():
        await _wait(ctx, runtime, runtime.memory.trial(trial_id), wait_seconds)
        answer = _answer(runtime, trial_id, detail=detail == "full")
        if detail == "full" or compare_to:
            users = await anyio.to_thread.run_sync(_over_users, runtime, trial_id, compare_to)
            answer = answer.model_copy(update={"users": users})
        return result(answer)


def _over_users(runtime: Runtime, trial_id: str, compare_to: str | None) -> answers.UserComparison | None:
    """Against the trial that was asked for, or where none was, against the incumbent if that can be."""
    memory, settings = runtime.memory, runtime.settings
    trial = memory.trial(trial_id)
    if compare_to is not None:
        return compared_with(memory, settings, trial, compare_to)
    against = judgement_of(memory, memory.study(trial.study_id), trial).against if trial.scored else None
    try:
        return compared_with(memory, settings, trial, against.best_trial.trial_id) if against else None
    except ProtocolError:
        return None


async def cancel_trial(ctx: Context[Any, Any], trial_id: str) -> Annotated[CallToolResult, answers.TrialStatusAnswer]:
    """End a queued or running trial; it keeps its books as `cancelled`."""
    runtime = runtime_of(ctx)
    with told():
        if not runtime.memory.trial(trial_id).finished:
            await runtime.supervisor.cancel(trial_id)
        trial = runtime.memory.trial(trial_id)
    following = f"run_trial(study_id={trial.study_id!r}, changes={{…}}) goes on with the study."
    return result(answers.TrialStatusAnswer(trial_id=trial_id, status=trial.status, next=following))


async def finish_study(
    ctx: Context[Any, Any], study_id: str, summary: str | None = None, wait_seconds: Seconds = 45
) -> Annotated[CallToolResult, answers.FinishAnswer]:
    """End a study: evaluate the sealed test split once, for the best configuration and for the default, all seeds.

    Returns both with validation and test, and the checkpoint. Not for a look in between: no trial follows it. Say in
    `summary` what the study taught, or one is put together from numbers.
    """
    runtime = runtime_of(ctx)
    with told():
        study = runtime.memory.study(study_id)
        if summary:
            runtime.memory.add_note(study_id, "summary", summary, (), ())
        else:
            await anyio.to_thread.run_sync(summarize, runtime.memory, study)
        await runtime.reveals.finish(study, min(wait_seconds, runtime.settings.max_wait_seconds))
        return result(finish_answer(runtime.memory, runtime.settings, runtime.memory.study(study_id)))


async def _wait(ctx: Context[Any, Any], runtime: Runtime, trial: Trial, seconds: float) -> None:
    """Wait on a trial with progress; the trial goes on whatever becomes of the caller."""
    if trial.finished or seconds <= 0:
        return
    total = float(trial.config.get("max_epochs", 0)) or None
    shown = 0.0

    async def on_progress(epochs: int) -> None:
        nonlocal shown
        shown = max(shown + 0.001, float(epochs))  # progress has to increase, also within an epoch
        await ctx.report_progress(shown, total, f"{trial.trial_id}: {epochs} epoch{'' if epochs == 1 else 's'} done")

    await runtime.supervisor.wait(trial.trial_id, min(seconds, runtime.settings.max_wait_seconds), on_progress)


def _answer(runtime: Runtime, trial_id: str, *, duplicate: bool = False, detail: bool = False) -> answers.TrialAnswer:
    failure = runtime.supervisor.failure(trial_id)
    trial = runtime.memory.trial(trial_id)
    if trial.status == "interrupted" and runtime.supervisor.holds(trial_id):
        trial = trial.model_copy(update={"status": "queued"})  # its new attempt has not begun
    return trial_answer(runtime.memory, trial, duplicate=duplicate, detail=detail, failure=failure)
