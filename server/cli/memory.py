"""The commands `virtualmle study`, `memory` and `compare`: what the owner remembers, read through its tools."""

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

from memory.exchange.pack_format import Imported, Pack
from server.client.home import CREDIT_PATH, PACK_PATH, PACKS_PATH, connect, request_owner
from server.portability import optuna_study, packs
from server.settings import load_settings
from server.study.replayed import NOTICE
from trainers.data import find

study = typer.Typer(help="List and show studies, and write their reports.", no_args_is_help=True)
memory = typer.Typer(help="List, show, export and import what was learned.", no_args_is_help=True)

Home = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else the user-data folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StudyId = Annotated[str, typer.Argument(metavar="S", help="A study_id, s-….")]

_STUDY_COLUMNS = ("study_id", "dataset", "backbone", "metric", "policy", "trainings", "default", "best", "finished")
_PAGE = 200


class ToolRefusal(RuntimeError):
    """A tool refused; the message is the tool's."""


@study.command("list")
def list_studies(home: Home = None, as_json: Json = False) -> None:
    """List the studies."""
    studies = _call_tool(home, "read_memory", limit=_PAGE).get("studies", [])
    if not as_json and not studies:
        typer.echo("No studies yet; `virtualmle drive` makes one, and so does an MCP client.", err=True)
        return
    if any(line.get("replayed") for line in studies):
        typer.echo(NOTICE, err=True)
    _print_rows(studies, _STUDY_COLUMNS, as_json)


@study.command("show")
def show_study(study_id: StudyId, home: Home = None, as_json: Json = False) -> None:
    """Show a study and its trials."""
    trials = _read_items(home, study_id=study_id, level="trial")
    studies = _call_tool(home, "read_memory", limit=_PAGE).get("studies", [])
    line = next((candidate for candidate in studies if candidate["study_id"] == study_id), {"study_id": study_id})
    if as_json:
        typer.echo(json.dumps({**line, "trials": trials}, indent=1, ensure_ascii=False))
        return
    _print_rows([line], (*_STUDY_COLUMNS, "early_stop"), as_json)
    rows = [{**trial.get("facts", {}), **trial, "result": trial["text"]} for trial in trials]
    _print_rows(rows, ("id", "number", "status", "verdict", "seconds", "result"), as_json)


@study.command("report")
def report_study(
    study_id: StudyId,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Folder of the report. Default: HOME/reports/STUDY_ID."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a study's report again, from memory."""
    from server.drive.report.rewrite import report_again

    folder = report or load_settings(home).reports_dir / study_id

    async def write() -> str:
        async with connect(home) as client:
            return (await report_again(client, study_id, folder, home)).model_dump_json()

    written = anyio.run(write)
    typer.echo(written if as_json else folder / "report.md")


def compare(
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial_id, t-….")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Another trial_id, on the same dataset.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Compare two trials user by user: the difference in the study's metric, with an interval over users."""
    comparison = _call_tool(home, "get_trial", trial_id=trial, wait_seconds=0, compare_to=other)["users"]
    typer.echo(json.dumps(comparison, indent=1, ensure_ascii=False) if as_json else comparison["words"])


@memory.command("list")
def list_memory(
    home: Home = None,
    level: Annotated[str | None, typer.Option(help="reflection, heuristic, summary or trial.")] = None,
    study_id: Annotated[str | None, typer.Option("--study", metavar="S", help="Only this study.")] = None,
    as_json: Json = False,
) -> None:
    """List what was learned."""
    filters = {"level": level, "study_id": study_id}
    items = _read_items(home, **{name: value for name, value in filters.items() if value is not None})
    if not as_json and not items:
        typer.echo("Nothing was learned yet.", err=True)
        return
    _print_rows(items, ("id", "level", "dataset", "backbone", "verdict", "text"), as_json)


@memory.command("claims")
def list_claims(home: Home = None, as_json: Json = False) -> None:
    """List the claims of heuristics, with the evidence of all trials."""
    items = [item for item in _read_items(home, level="heuristic") if item.get("facts")]
    if not as_json and not items:
        typer.echo("No heuristic claims anything yet; write_heuristic(claim=…) does.", err=True)
        return
    columns = ("id", "verdict", "transfer", "effect", "low", "high", "n_pairs", "n_datasets", "forced", "claim")
    rows = [{name: {**item, **item["facts"]}.get(name) for name in columns} for item in items]
    if as_json:
        _print_rows(rows, columns, True)
        return
    shown = [{**row, "effect": _interval(row), "pairs": row["n_pairs"], "datasets": row["n_datasets"]} for row in rows]
    _print_rows(shown, ("id", "verdict", "effect", "pairs", "datasets", "claim"), False)


def _interval(row: dict[str, Any]) -> str:
    if row["effect"] is None:
        return ""
    forced = ", forced" if row["forced"] else ""
    return f"{row['effect']:+.1%} ({row['low']:+.1%} to {row['high']:+.1%}){forced}"


@memory.command("credit")
def list_credit(home: Home = None, as_json: Json = False) -> None:
    """List what each heuristic was worth: studies that saw it against studies from which it was withheld by chance."""
    rows = json.loads(anyio.run(request_owner, home, "GET", CREDIT_PATH))
    if not as_json and not rows:
        typer.echo(
            "Nothing to tell yet: no study was kept from a heuristic (drive --withhold), and none was cited.", err=True
        )
        return
    _print_rows(rows, ("heuristic_id", "credit", "shown", "withheld", "cited"), as_json)


@memory.command("show")
def show_memory(
    id: Annotated[str, typer.Argument(metavar="ID", help="A note_id, h-…, or a trial_id, t-….")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show one note or one trial."""
    if id.startswith("t-"):
        entry = _call_tool(home, "get_trial", trial_id=id, wait_seconds=0)
    else:
        entry = next((item for item in _read_items(home) if item["id"] == id), None)
    if entry is None:
        raise ToolRefusal(f"Unknown note {id!r}; `virtualmle memory list` lists them.")
    if as_json:
        typer.echo(json.dumps(entry, indent=1, ensure_ascii=False))
    else:
        typer.echo(yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=100), nl=False)


def _call_tool(home: Path | None, tool: str, **arguments: Any) -> dict[str, Any]:
    return anyio.run(functools.partial(_read_pages, home, tool, arguments))[0]


def _read_items(home: Path | None, **arguments: Any) -> list[dict[str, Any]]:
    """Every item that a read returns, over all its pages."""
    pages = anyio.run(functools.partial(_read_pages, home, "read_memory", {**arguments, "limit": _PAGE}))
    return [item for page in pages for item in page.get("items", [])]


@memory.command("export")
def export_memory(
    folder: Annotated[Path, typer.Argument(metavar="PATH", help="A new or empty folder.")],
    name: Annotated[str, typer.Option(help="Name of the pack.")] = "memory",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write what was learned to PATH, for another home: heuristics and validation scores, no events, no test scores."""
    pack = Pack.model_validate_json(anyio.run(request_owner, home, "GET", f"{PACK_PATH}?{urlencode({'name': name})}"))
    packs.write(pack, folder)
    summary = {
        "path": str(folder),
        "heuristics": len(pack.heuristics),
        "trials": len(pack.trials),
        "digest": pack.digest,
    }
    typer.echo(json.dumps(summary) if as_json else _count_line(f"{folder}:", len(pack.heuristics), len(pack.trials)))


@memory.command("import")
def import_memory(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="A pack's folder, paper (a shipped pack), or optuna://STORAGE?study=NAME."),
    ],
    dataset: Annotated[str | None, typer.Option(help="Optuna: the dataset that the study tuned on.")] = None,
    backbone: Annotated[str, typer.Option(help="Optuna: the backbone that the study tuned.")] = "sasrec",
    metric: Annotated[str, typer.Option(help="Optuna: the metric of its values.")] = "ndcg@10",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Import what was learned elsewhere. Its claims count as insufficient until trials of this home support them."""
    if path.startswith(optuna_study.OPTUNA):
        if dataset is None:
            raise typer.BadParameter("name the dataset that the study tuned on with --dataset.")
        study_read = optuna_study.read(path, find(load_settings(home).datasets_dir, dataset), backbone, metric)
        pack = study_read.pack
        if study_read.unknown:
            typer.echo(f"Passed over, since {backbone} has no such field: {', '.join(study_read.unknown)}.", err=True)
        for line in study_read.dropped:
            typer.echo(f"Left out: {line}.", err=True)
    else:
        pack = packs.shipped() if path == packs.SHIPPED and not Path(path).exists() else packs.read(Path(path))
    answer = Imported.model_validate_json(anyio.run(request_owner, home, "POST", PACK_PATH, pack.model_dump_json()))
    for line in answer.left_out:
        typer.echo(f"Left out: {line}", err=True)
    if as_json:
        typer.echo(answer.model_dump_json())
    if answer.quarantined:
        raise packs.PackError(
            f"Pack {answer.name!r} is quarantined, and nothing of it was imported: {'; '.join(answer.quarantined)}. "
            "Update virtualmle, or add the missing trainer with `virtualmle trainer add`, and import it again; "
            "`virtualmle memory packs` lists it."
        )
    if not as_json:
        typer.echo(_count_line("Imported, unverified:", answer.heuristics, answer.trials))


@memory.command("packs")
def list_packs(home: Home = None, as_json: Json = False) -> None:
    """List the packs that were imported, and those in quarantine with the reasons."""
    lines = json.loads(anyio.run(request_owner, home, "GET", PACKS_PATH))
    if not as_json and not lines:
        typer.echo("No pack was imported yet; `virtualmle memory import` takes one.", err=True)
        return
    if not as_json:
        lines = [
            {
                **line,
                "state": "quarantined" if line["quarantined"] else "imported",
                "why": "; ".join(line["quarantined"]),
            }
            for line in lines
        ]
    columns = ("name", "digest", "imported_at", "heuristics", "trials", "quarantined")
    _print_rows(lines, columns if as_json else ("name", "state", "heuristics", "trials", "why"), as_json)


def _count_line(what: str, heuristics: int, trials: int) -> str:
    notes = "1 heuristic" if heuristics == 1 else f"{heuristics} heuristics"
    return f"{what} {notes}, {trials} trainings."


async def _read_pages(home: Path | None, tool: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Every page of a tool's answer. Raises ToolRefusal."""
    pages: list[dict[str, Any]] = []
    async with connect(home) as client:
        cursor: str | None = None
        while cursor is not None or not pages:
            answer = await client.call_tool(tool, arguments | ({"cursor": cursor} if cursor else {}))
            if answer.is_error:
                texts = [block.text for block in answer.content if isinstance(block, TextContent)]
                raise ToolRefusal(" ".join(texts))
            pages.append(answer.structured_content or {})
            cursor = pages[-1].get("cursor")
    return pages


def _print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
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
