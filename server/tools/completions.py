"""Completes arguments of prompts and resources while somebody types them, with existing ids and names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcp.server import MCPServer
from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from memory.off_loop import off_loop
from trainers.contract.metrics import METRICS
from trainers.contract.specs import SPECS
from trainers.data import list_datasets
from trainers.external import registry

if TYPE_CHECKING:
    from server.runtime import Runtime

MAX_VALUES = 100
"""The protocol's limit on the values of one completion."""
NEWEST_STUDIES = 20
"""How many of the newest studies offer their trials where no study is named."""


def register(server: MCPServer[Any], runtime: Runtime) -> None:
    """Complete every argument that names something stored."""
    completers: dict[str, Callable[[str | None], list[str]]] = {
        "study_id": lambda _: [study.study_id for study in runtime.memory.studies()],
        "trial_id": lambda study_id: _trials(runtime, study_id),
        "dataset": lambda _: sorted(
            {"demo", *(stored.name for stored in list_datasets(runtime.settings.datasets_dir))}
        ),
        "backbone": lambda _: [*SPECS, *sorted(registry.names(runtime.settings.trainers_dir))],
        "snapshot_id": lambda study_id: _snapshots(runtime, study_id),
        "metric": lambda _: list(METRICS),
    }

    @server.completion()
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        if argument.name not in completers:
            return None
        study_id = (context.arguments or {}).get("study_id") if context else None
        values = await off_loop(completers[argument.name], study_id)
        fitting = [value for value in values if value.startswith(argument.value)]
        return Completion(values=fitting[:MAX_VALUES], total=len(fitting), has_more=len(fitting) > MAX_VALUES)


def _snapshots(runtime: Runtime, study_id: str | None) -> list[str]:
    """The latest snapshot of the named study, else of each of the newest studies."""
    studies = [study.study_id for study in runtime.memory.studies()]
    chosen = [study_id] if study_id in studies else studies[:NEWEST_STUDIES]
    snapshots = (runtime.memory.snapshots.latest(chosen_id) for chosen_id in chosen)
    return [snapshot_id for snapshot_id in snapshots if snapshot_id is not None]


def _trials(runtime: Runtime, study_id: str | None) -> list[str]:
    """The trials of the named study, else of the newest studies; the newest first within a study."""
    studies = [study.study_id for study in runtime.memory.studies()]
    chosen = [study_id] if study_id in studies else studies[:NEWEST_STUDIES]
    return [trial.trial_id for chosen_id in chosen for trial in reversed(runtime.memory.trials(chosen_id))]
