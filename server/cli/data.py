"""The `virtualmle data` commands: add, list, show and remove datasets; none of them starts an owner."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from server.client.home import make_home
from server.settings import load_settings
from server.views.data_card import data_card, data_line
from trainers import data
from trainers.data.importing.add import REASONS
from trainers.data.importing.detect import Format

SplitKind = Literal["leave-one-out", "time"]
Ties = Literal["file", "random"]

app = typer.Typer(help="Import, list, show and remove datasets.", no_args_is_help=True)


def _checked_name(name: str) -> str:
    if re.fullmatch(data.NAME_PATTERN, name) is None:
        raise typer.BadParameter(
            f"{name!r} cannot name a dataset: start with a letter or digit, then at most 63 letters, digits, dots, "
            "dashes and underscores."
        )
    return name


Name = Annotated[str, typer.Argument(metavar="NAME", callback=_checked_name, help="Name of the dataset.")]
Home = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="Default: VIRTUALMLE_HOME, else the user-data folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(
    name: Name,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The file to import, gzipped or not.")],
    user: Annotated[
        str | None, typer.Option(help="Column of the user: its name, or its number if there is no header.")
    ] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="Column of the timestamp.")] = None,
    k_core: Annotated[
        int | None, typer.Option(min=1, help="Keep only users and items with at least this many events.")
    ] = None,
    format: Annotated[Format | None, typer.Option(help="Default: detected from the content.")] = None,
    split: Annotated[
        SplitKind,
        typer.Option(help="Hold out the last two items of each user, or everything after two points in time."),
    ] = "leave-one-out",
    valid_days: Annotated[
        float | None, typer.Option(metavar="N", help="Length of the validation period before the test, in days.")
    ] = None,
    test_days: Annotated[
        float | None, typer.Option(metavar="N", help="Length of the sealed test, the newest events, in days.")
    ] = None,
    valid_from: Annotated[
        datetime | None, typer.Option(help="Start of validation (UTC), instead of --valid-days.")
    ] = None,
    test_from: Annotated[datetime | None, typer.Option(help="Start of the test (UTC), instead of --test-days.")] = None,
    ties: Annotated[
        Ties, typer.Option(help="Order of events with equal times: as in the file, or random by --seed.")
    ] = "file",
    seed: Annotated[int, typer.Option(min=0, help="Seed of --ties random.")] = 0,
    updates: Annotated[
        str | None, typer.Option(metavar="OLD", help="The dataset of which this is a newer version.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Import a file as the dataset NAME.

    Reads `user item item …` lines, CSV, TSV, Parquet, JSON lines, Amazon reviews (2014, 2018, 2023), RecBole .inter and
    MovieLens ratings.dat. Rows that cannot be used are dropped and counted.
    """
    settings = load_settings(home)
    folder = settings.datasets_dir
    cuts = (valid_from, test_from, valid_days, test_days)
    if split == "leave-one-out" and any(cut is not None for cut in cuts):
        raise typer.BadParameter("--valid-days, --test-days, --valid-from and --test-from need --split time.")
    if path.exists():  # a failed import makes no home
        make_home(settings)
    already_stored = name in (dataset.name for dataset in data.list_datasets(folder))
    dataset = data.add(
        folder, name, path, user=user, item=item, timestamp=timestamp, k_core=k_core, format=format,
        split=data.TimeSplit(*cuts) if split == "time" else None, ties_seed=seed if ties == "random" else None,
        updates=updates,
    )  # fmt: skip
    for line in _report(dataset):
        typer.echo(line, err=True)
    if already_stored:
        typer.echo(f"{name} is there already with the same content; nothing was changed.", err=True)
    _show(dataset, as_json)


@app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List the datasets."""
    datasets = data.list_datasets(load_settings(home).datasets_dir)
    if as_json:
        typer.echo(json.dumps([data_line(dataset) for dataset in datasets], indent=1))
        return
    if not datasets:
        typer.echo(
            "No datasets yet; add one with `virtualmle data add NAME PATH`. demo is generated when asked for.", err=True
        )
        return
    table = Table("name", box=None, pad_edge=False)
    for heading in ("users", "items", "interactions", "mean length"):
        table.add_column(heading, justify="right")
    table.add_column("content", min_width=20)
    for dataset in datasets:
        facts = dataset.facts
        table.add_row(
            dataset.name + (" (synthetic)" if dataset.synthetic else ""),
            *(f"{number:,}" for number in (facts.users, facts.items, facts.interactions)),
            f"{facts.mean_length:.2f}",
            dataset.content_hash,
        )
    Console(soft_wrap=True).print(table)


@app.command()
def show(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Show the facts of the dataset NAME and what its import dropped."""
    settings = load_settings(home)
    make_home(settings)
    dataset = data.ensure(settings.datasets_dir, name)
    if not as_json:
        for line in _report(dataset):
            typer.echo(line, err=True)
    _show(dataset, as_json)


@app.command()
def remove(name: Name, home: Home = None) -> None:
    """Delete the dataset NAME. Its studies stay in memory."""
    data.remove(load_settings(home).datasets_dir, name)
    typer.echo(f"Removed {name}.", err=True)


def _show(dataset: data.Dataset, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(data_card(dataset), indent=1))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in data_line(dataset).items():
        table.add_row(name.replace("_", " "), _formatted(value))
    Console(soft_wrap=True).print(table)


def _formatted(value: object) -> str:
    if value is None:
        return "unknown (no timestamps)"
    if isinstance(value, bool):
        return "yes: generated, not real data" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _report(dataset: data.Dataset) -> list[str]:
    """What an import read and dropped, in lines for people."""
    report = dataset.report
    if dataset.synthetic:
        return [f"{dataset.name} is synthetic: {report.source}."]
    columns = ", ".join(f"{role}={column!r}" for role, column in report.columns.items())
    lines = [
        f"Read {report.rows_read:,} rows of {report.source} as {report.format}" + (f" ({columns})." if columns else ".")
    ]
    lines += [
        f"Dropped {rows:,} row{'s' if rows > 1 else ''} {REASONS[reason]}." for reason, rows in report.dropped.items()
    ]
    if report.dropped:
        lines.append(f"Lost {report.share_lost:.2%} of the rows.")
    return lines
