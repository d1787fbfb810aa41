"""The `virtualmle study` and `virtualmle memory` commands: what the owner remembers, read through its tools."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import anyio
import typer
import yaml
from mcp_types import TextContent
from rich import box
from rich.console import Console
from rich.table import Table

from memory.pack import Imported, Pack
from server import packs
from server.home import CREDIT_PATH, PACK_PATH, asked, connect
from server.settings import load_settings
from trainers.data import find

study = typer.Typer(help="List, show and report studies.", no_args_is_help=True)
memory = typer.Typer(help="List and show what was learned.", no_args_is_help=True)

Home = Annotated[Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else user data.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StudyId = Annotated[str, typer.Argument(metavar="S", help="A study_id, s-….")]

_STUDY_COLUMNS = ("study_id", "dataset", "backbone", "metric", "policy", "trainings", "default", "best", "finished")
_PAGE = 200


class ToolRefusal(RuntimeError):
    """A tool said no; the message is what it said."""


@study.command("list")
def list_studies(home: Home = None, as_json: Json = False) -> None:
    """List the studies."""
    studies = _call(home, "read_memory", limit=_PAGE).get("studies", [])
    if not as_json and not studies:
        typer.echo("No studies yet; `virtualmle drive` makes one, and so does an MCP client.", err=True)
        return
    _show(studies, _STUDY_COLUMNS, as_json)


@study.command("show")
def show_study(study_id: StudyId, home: Home = None, as_json: Json = False) -> None:
    """Show a study and its trials."""
    trials = _items(home, study_id=study_id, level="trial")
    found = _call(home, "read_memory", limit=_PAGE).get("studies", [])
    line = next((known for known in found if known["study_id"] == study_id), {"study_id": study_id})
    if as_json:
        typer.echo(json.dumps({**line, "trials": trials}, indent=1, ensure_ascii=False))
        return
    _show([line], (*_STUDY_COLUMNS, "early_stop"), as_json)
    rows = [{**trial.get("facts", {}), **trial, "result": trial["text"]} for trial in trials]
    _show(rows, ("id", "number", "status", "verdict", "seconds", "result"), as_json)


@study.command("report")
def report_study(
    study_id: StudyId,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Default: HOME/reports/STUDY_ID.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a study's report again, as it stands in memory."""
    from server.drive.again import report_again

    folder = report or load_settings(home).reports / study_id

    async def write() -> str:
        async with connect(home) as client:
            return (await report_again(client, study_id, folder)).model_dump_json()

    written = anyio.run(write)
    typer.echo(written if as_json else folder / "report.md")


def compare(
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial_id, t-….")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Another one, of the same data.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Compare two trainings user by user: the difference of the study's metric with an interval over users."""
    found = _call(home, "get_trial", trial_id=trial, wait_seconds=0, compare_to=other)["users"]
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else found["words"])


@memory.command("list")
def list_memory(
    home: Home = None,
    level: Annotated[str | None, typer.Option(help="reflection, heuristic, summary or trial.")] = None,
    study_id: Annotated[str | None, typer.Option("--study", metavar="S", help="Of one study.")] = None,
    as_json: Json = False,
) -> None:
    """List what was learned."""
    asked = {"level": level, "study_id": study_id}
    items = _items(home, **{name: value for name, value in asked.items() if value is not None})
    if not as_json and not items:
        typer.echo("Nothing was learned yet.", err=True)
        return
    _show(items, ("id", "level", "dataset", "backbone", "verdict", "text"), as_json)


@memory.command("claims")
def list_claims(home: Home = None, as_json: Json = False) -> None:
    """List the claims of heuristics with what all trials say of them."""
    items = [item for item in _items(home, level="heuristic") if item.get("facts")]
    if not as_json and not items:
        typer.echo("No heuristic claims anything yet; write_heuristic(claim=…) does.", err=True)
        return
    columns = ("id", "verdict", "transfer", "effect", "low", "high", "n_pairs", "n_datasets", "forced", "claim")
    rows = [{name: {**item, **item["facts"]}.get(name) for name in columns} for item in items]
    if as_json:
        _show(rows, columns, True)
        return
    shown = [{**row, "effect": _interval(row), "pairs": row["n_pairs"], "datasets": row["n_datasets"]} for row in rows]
    _show(shown, ("id", "verdict", "effect", "pairs", "datasets", "claim"), False)


def _interval(row: dict[str, Any]) -> str:
    if row["effect"] is None:
        return ""
    forced = ", forced" if row["forced"] else ""
    return f"{row['effect']:+.1%} ({row['low']:+.1%} to {row['high']:+.1%}){forced}"


@memory.command("credit")
def list_credit(home: Home = None, as_json: Json = False) -> None:
    """List what heuristics were worth to studies that were told of them, against those from which chance kept them."""
    found = json.loads(anyio.run(asked, home, "GET", CREDIT_PATH))
    if not as_json and not found:
        typer.echo(
            "Nothing to tell yet: no study was kept from a heuristic (drive --withhold), and none was cited.", err=True
        )
        return
    _show(found, ("heuristic_id", "credit", "shown", "withheld", "cited"), as_json)


@memory.command("show")
def show_memory(
    id: Annotated[str, typer.Argument(metavar="ID", help="A heuristic_id, h-…, or a trial_id, t-….")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show one thing that was learned, or one trial."""
    if id.startswith("t-"):
        found = _call(home, "get_trial", trial_id=id, wait_seconds=0)
    else:
        found = next((item for item in _items(home) if item["id"] == id), None)
    if found is None:
        raise ToolRefusal(f"Unknown heuristic {id!r}; `virtualmle memory list` lists them.")
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        typer.echo(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=100), nl=False)


def _call(home: Path | None, tool: str, **arguments: Any) -> dict[str, Any]:
    return anyio.run(functools.partial(_ask, home, tool, arguments))[0]


def _items(home: Path | None, **arguments: Any) -> list[dict[str, Any]]:
    """Every item of a read, however many pages."""
    pages = anyio.run(functools.partial(_ask, home, "read_memory", {**arguments, "limit": _PAGE}))
    return [item for page in pages for item in page.get("items", [])]


@memory.command("export")
def export_memory(
    folder: Annotated[Path, typer.Argument(metavar="PATH", help="A new or empty folder.")],
    name: Annotated[str, typer.Option(help="What the pack is called.")] = "memory",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write what was learned to PATH, for another home: heuristics, validation scores, no events and no test scores."""
    pack = Pack.model_validate_json(anyio.run(asked, home, "GET", f"{PACK_PATH}?{urlencode({'name': name})}"))
    packs.write(pack, folder)
    told = {"path": str(folder), "heuristics": len(pack.heuristics), "trials": len(pack.trials), "digest": pack.digest}
    typer.echo(json.dumps(told) if as_json else _counted(f"{folder}:", len(pack.heuristics), len(pack.trials)))


@memory.command("import")
def import_memory(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A pack's folder; paper; or optuna://STORAGE?study=NAME.")
    ],
    dataset: Annotated[str | None, typer.Option(help="Of a study of Optuna: the dataset it tuned on.")] = None,
    backbone: Annotated[str, typer.Option(help="Of a study of Optuna: what it tuned.")] = "sasrec",
    metric: Annotated[str, typer.Option(help="Of a study of Optuna: what its values are.")] = "ndcg@10",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take in what was learned elsewhere. Its claims count as insufficient until trials of this home speak for them."""
    passed_over: list[str] = []
    if path.startswith(packs.OPTUNA):
        if dataset is None:
            raise typer.BadParameter("name the dataset that the study tuned on with --dataset.")
        known = find(load_settings(home).datasets, dataset)
        pack, passed_over = packs.from_optuna(path, known, backbone, metric)
    else:
        pack = packs.shipped() if path == packs.SHIPPED and not Path(path).exists() else packs.read(Path(path))
    answer = Imported.model_validate_json(anyio.run(asked, home, "POST", PACK_PATH, pack.model_dump_json()))
    if passed_over:
        typer.echo(
            f"Passed over, since they are no fields here or hold other values: {', '.join(passed_over)}.", err=True
        )
    for line in answer.left_out:
        typer.echo(f"Left out: {line}", err=True)
    typer.echo(
        answer.model_dump_json() if as_json else _counted("Imported, unverified:", answer.heuristics, answer.trials)
    )


def _counted(what: str, heuristics: int, trials: int) -> str:
    notes = "1 heuristic" if heuristics == 1 else f"{heuristics} heuristics"
    return f"{what} {notes}, {trials} trainings."


async def _ask(home: Path | None, tool: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """A tool's answer, and the pages after it."""
    pages: list[dict[str, Any]] = []
    async with connect(home) as client:
        cursor: str | None = None
        while cursor is not None or not pages:
            answer = await client.call_tool(tool, arguments | ({"cursor": cursor} if cursor else {}))
            if answer.is_error:
                said = [block.text for block in answer.content if isinstance(block, TextContent)]
                raise ToolRefusal(" ".join(said))
            pages.append(answer.structured_content or {})
            cursor = pages[-1].get("cursor")
    return pages


def _show(rows: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    console = Console(soft_wrap=False)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "study_id", "verdict"))
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
