"""The MCP tools of a study: list_datasets, start_study, finish_study."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult

from memory.off_loop import off_loop
from memory.records import Study
from memory.tables.rows import checked_text
from server import answers
from server.answers import Brief
from server.study.opening import open_study
from server.study.requests import StudyRequest
from server.tools.call import Seconds, result, runtime_of, takes_fields_of, tool_errors
from server.views.brief import shortened, write_brief
from server.views.finish import finish_answer
from server.views.items import dataset_line
from server.views.replay import replayed_list
from server.views.summary import summarize
from trainers.data import list_datasets


async def list_datasets_tool(ctx: Context[Any, Any]) -> Annotated[CallToolResult, answers.DatasetList]:
    """List the datasets that can be tuned on, with sizes. `demo` is synthetic and made on first use.

    Not for importing: the user does that with `virtualmle data add NAME PATH`.
    """
    runtime = runtime_of(ctx)
    with tool_errors():
        datasets = await off_loop(list_datasets, runtime.settings.datasets_dir)
    if runtime.tables is not None:
        return result(replayed_list(runtime.tables, datasets))
    lines = [dataset_line(dataset) for dataset in datasets]
    demo = "" if any(line.name == "demo" for line in lines) else " `demo` (synthetic) is made when a study names it."
    return result(answers.DatasetList(datasets=lines, next=f"start_study(dataset=NAME).{demo}"))


@takes_fields_of(StudyRequest)
async def start_study(ctx: Context[Any, Any], request: StudyRequest) -> Annotated[CallToolResult, answers.StudyAnswer]:
    """Open a study and return its brief: dataset facts, space with bounds, default, baselines, noise, what memory says.

    Trains nothing: run_trial without changes trains the default, trial 0.
    `backbone`: sasrec, hstu or the user's own. `space` narrows fields: {"dropout": 0.2, "hidden_dim":
    [64, 128], "learning_rate": {"low": 0.0005, "high": 0.005}}. `early_stop` "auto" ends hopeless trainings, `stopped`.
    `min_gain`: the smallest relative gain that matters (0.02 is 2 %); within it two configurations are `equivalent`.
    `confirm_seeds`: fresh seeds of the choice and of the default, trained at the end for an unbiased test (2; 0: none).
    `guardrails`: {"coverage@10": {"min": 0.2}}; what violates them is never chosen. `withhold`: chance to hide a
    heuristic, to measure it. `allow_small`: fewer than 30 users. Example: start_study(dataset="demo", max_trials=8).
    """
    runtime = runtime_of(ctx)

    def open_with_brief() -> tuple[Study, Brief]:
        study = open_study(runtime.memory, runtime.settings, request, runtime.tables)
        return study, write_brief(runtime.memory, study)

    with tool_errors():
        study, brief = await off_loop(open_with_brief)
    following = f"run_trial(study_id={study.study_id!r}) trains the default configuration: trial 0."
    if brief.previous is not None and brief.previous.changes:
        changes = brief.previous.changes
        following += f" Then run_trial(changes={changes!r}): what won on the older version of the dataset."
    return result(answers.StudyAnswer(study_id=study.study_id, brief=shortened(brief, study), next=following))


async def finish_study(
    ctx: Context[Any, Any], study_id: str, summary: str | None = None, wait_seconds: Seconds = 45
) -> Annotated[CallToolResult, answers.FinishAnswer]:
    """End a study: train choice and default with fresh seeds, then evaluate the sealed test split once for both.

    Returns both with validation and test, and the checkpoint. Not for a look in between: no trial follows it. Say in
    `summary` what the study taught, or one is put together from numbers.
    """
    runtime = runtime_of(ctx)
    memory, settings = runtime.memory, runtime.settings

    def write_summary(study: Study) -> None:
        if summary:
            memory.add_note(study.study_id, "summary", summary)
        else:
            summarize(memory, study)

    with tool_errors():
        if summary:
            checked_text("summary", summary)  # a refused call must leave the study open
        await runtime.autopilot.end_before_finish(study_id)
        await runtime.sealed_tests.finish(study_id, min(wait_seconds, settings.max_wait_seconds), write_summary)
        return result(await off_loop(lambda: finish_answer(memory, settings, memory.study(study_id))))
