"""`virtualmle export` and `virtualmle recommend`: export a study's tuned model, and recommend items with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeVar

import anyio
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from server.client.home import EXPORT_PATH, RECOMMEND_PATH, request_owner
from server.portability.export import ExportAnswer, ExportRequest, RecommendRequest
from trainers.contract.wire import Recommendations

Home = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else the user-data folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StudyId = Annotated[str, typer.Argument(metavar="STUDY", help="A study_id, s-….")]
Answered = TypeVar("Answered", bound=BaseModel)


def export(
    study_id: StudyId,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    refit: Annotated[
        bool, typer.Option("--refit", help="Train anew on all events first. Such weights have no test score.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write the chosen model of a study to DIR: weights, item ids and embeddings, an ONNX encoder and a model card."""
    if refit:
        typer.echo("A refit takes about as long as the trial did; Ctrl-C ends it.", err=True)
    request = ExportRequest(study_id=study_id, folder=folder.absolute(), refit=refit)
    answer = _ask_owner(home, EXPORT_PATH, request, ExportAnswer)
    if answer.missing:
        typer.echo(answer.missing, err=True)
    typer.echo(answer.model_dump_json() if as_json else answer.folder)


def recommend(
    study_id: StudyId,
    items: Annotated[list[str] | None, typer.Argument(metavar="[ITEM …]", help="More items of the history.")] = None,
    history: Annotated[
        list[str] | None, typer.Option("--history", metavar="ITEM …", help="Items of a user, the oldest first.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many items to recommend.")] = 10,
    seen: Annotated[
        bool | None, typer.Option("--exclude-seen/--include-seen", help="Default: as in the study.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Recommend items for a user's history with the chosen model of a study."""
    item_ids = (*(history or ()), *(items or ()))
    if items and len(history or ()) > 1:
        raise typer.BadParameter("give one --history with all its items, or one --history for each.")
    if not item_ids:
        raise typer.BadParameter("--history needs at least one item.")
    request = RecommendRequest(study_id=study_id, history=item_ids, k=k, exclude_seen=seen)
    answer = _ask_owner(home, RECOMMEND_PATH, request, Recommendations)
    if answer.unknown:
        typer.echo(f"Passed over, since the dataset has no such item: {', '.join(answer.unknown)}.", err=True)
    if as_json:
        typer.echo(json.dumps([item.model_dump() for item in answer.items]))
        return
    table = Table("", "item", box=None, pad_edge=False)
    table.add_column("score", justify="right")
    for place, item in enumerate(answer.items, 1):
        table.add_row(str(place), item.item, f"{item.score:.4f}")
    Console(soft_wrap=True).print(table)


def _ask_owner(home: Path | None, path: str, request: BaseModel, kind: type[Answered]) -> Answered:
    """The answer of the home's owner. Raises OwnerRefused with the owner's message."""
    return kind.model_validate_json(anyio.run(request_owner, home, "POST", path, request.model_dump_json()))
