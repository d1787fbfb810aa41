"""What a client offers while somebody types an argument of a prompt or a resource: ids and names that there are."""

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

from trainers import registry
from trainers.data import list_datasets
from trainers.spec import METRICS, SPECS

if TYPE_CHECKING:
    from server.runtime import Runtime

MOST = 100
"""The protocol's limit of one answer."""
STUDIES = 20
"""The newest ones, whose trials are offered where no study is named."""


def register(server: MCPServer[Any], runtime: Runtime) -> None:
    """Complete every argument that names something which is there."""
    known: dict[str, Callable[[str | None], list[str]]] = {
        "study_id": lambda _: [study.study_id for study in runtime.memory.studies()],
        "trial_id": lambda study_id: _trials(runtime, study_id),
        "dataset": lambda _: sorted({"demo", *(found.name for found in list_datasets(runtime.settings.datasets))}),
        "backbone": lambda _: [*SPECS, *sorted(registry.names(runtime.settings.trainers))],
        "snapshot_id": lambda study_id: _snapshots(runtime, study_id),
        "metric": lambda _: list(METRICS),
    }

    @server.completion()
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        if argument.name not in known:
            return None
        study_id = (context.arguments or {}).get("study_id") if context else None
        fitting = [value for value in known[argument.name](study_id) if value.startswith(argument.value)]
        return Completion(values=fitting[:MOST], total=len(fitting), has_more=len(fitting) > MOST)


def _snapshots(runtime: Runtime, study_id: str | None) -> list[str]:
    """The latest of each study."""
    studies = [study.study_id for study in runtime.memory.studies()]
    chosen = [study_id] if study_id in studies else studies[:STUDIES]
    return [found for one in chosen if (found := runtime.memory.latest_snapshot(one)) is not None]


def _trials(runtime: Runtime, study_id: str | None) -> list[str]:
    """Newest first."""
    studies = [study.study_id for study in runtime.memory.studies()]
    chosen = [study_id] if study_id in studies else studies[:STUDIES]
    return [trial.trial_id for one in chosen for trial in reversed(runtime.memory.trials(one))]
