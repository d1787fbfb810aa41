"""The `virtualmle data` commands: add, list, show and remove datasets, and print recipes; none starts an owner."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from server.client.home import make_home
from server.settings import load_settings
from server.views.data_card import data_card, data_line, understood
from trainers import data
from trainers.data.importing.options import Duplicates, Format

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
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="The file to import, packed (gzip, zip) or not, or a folder of parts."),
    ],
    user: Annotated[
        str | None, typer.Option(help="Column of the user: its name, or its number if there is no header.")
    ] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item.")] = None,
    timestamp: Annotated[
        str | None, typer.Option(help="Column of the timestamp; `none` takes the order of the file.")
    ] = None,
    format: Annotated[Format | None, typer.Option(help="Default: detected from the content.")] = None,
    delimiter: Annotated[
        str | None, typer.Option(metavar="C", help="What separates cells: the character, or tab, space, pipe …")
    ] = None,
    no_header: Annotated[
        bool, typer.Option("--no-header", help="The first line is an event, not column names.")
    ] = False,
    timestamp_format: Annotated[
        str | None, typer.Option(metavar="F", help="iso, unix, s, ms, us, ns, excel, or a pattern such as '%d/%m/%Y'.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="EXPR", help="Keep only such rows: \"event_type = 'purchase'\".")
    ] = None,
    min_rating: Annotated[
        float | None, typer.Option(metavar="X", help="Keep only rows with at least this rating.")
    ] = None,
    max_events_per_user: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep the newest N events of each user.")
    ] = None,
    collapse_repeats: Annotated[
        bool,
        typer.Option("--collapse-repeats", help="Keep one of several events in a row of a user with the same item."),
    ] = False,
    drop_duplicates: Annotated[
        Duplicates | None,
        typer.Option(help="Drop rows that repeat user, item and time (exact, the default), or user, item and day."),
    ] = None,
    k_core: Annotated[
        int | None, typer.Option(min=1, help="Keep only users and items with at least this many events.")
    ] = None,
    max_lost: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="Share of rows that may be lost before exit code 3.")
    ] = 0.1,
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be understood, and store nothing.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Import a file, or a folder of parts, as the dataset NAME, and say what was understood.

    Reads `user item item …` lines, CSV, TSV, Parquet, JSON lines, a JSON object of lists, Amazon reviews (2014, 2018,
    2023), RecBole .inter and MovieLens ratings.dat. Rows that cannot be used are dropped and counted; exit code 3 says
    that more of them were lost than --max-lost allows.
    """
    settings = load_settings(home)
    folder = settings.datasets_dir
    cuts = (valid_from, test_from, valid_days, test_days)
    if split == "leave-one-out" and any(cut is not None for cut in cuts):
        raise typer.BadParameter("--valid-days, --test-days, --valid-from and --test-from need --split time.")
    if path.exists() and not dry_run:  # a failed import makes no home
        make_home(settings)
    already_stored = name in (dataset.name for dataset in data.list_datasets(folder))
    scratch = None
    if dry_run and not folder.exists():
        scratch = tempfile.TemporaryDirectory(prefix="virtualmle-")
        folder = Path(scratch.name)
    dataset = data.add(
        folder, name, path, user=user, item=item, timestamp=timestamp, format=format, delimiter=delimiter,
        no_header=no_header, timestamp_format=timestamp_format, where=where, min_rating=min_rating,
        max_events_per_user=max_events_per_user, collapse_repeats=collapse_repeats, drop_duplicates=drop_duplicates,
        k_core=k_core, split=data.TimeSplit(*cuts) if split == "time" else None,
        ties_seed=seed if ties == "random" else None, updates=updates, dry_run=dry_run,
    )  # fmt: skip
    if scratch is not None:
        scratch.cleanup()
    for line in understood(dataset):
        typer.echo(line, err=True)
    if dry_run:
        typer.echo("Nothing was stored (--dry-run).", err=True)
    elif already_stored:
        typer.echo(f"{name} is there already with the same content; nothing was changed.", err=True)
    _show(dataset, as_json)
    lost = dataset.report.share_lost
    if lost > max_lost:
        typer.echo(
            f"{lost:.1%} of the rows were lost, more than --max-lost {max_lost:g} allows (exit code 3); the reasons "
            "are above.",
            err=True,
        )
        raise typer.Exit(3)


@app.command()
def recipe(
    name: Name,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print the command that makes the dataset NAME from its file again."""
    dataset = data.find(load_settings(home).datasets_dir, name)
    if as_json:
        typer.echo(json.dumps({"name": name, "source": dataset.report.source, "options": dataset.recipe}, indent=1))
    elif dataset.recipe is None:
        raise data.DataError(f"Dataset {name!r} has no recipe: it was generated, or added by an older version.")
    else:
        words = ["virtualmle data add", name, shlex.quote(dataset.report.source), dataset.recipe]
        typer.echo(" ".join(filter(None, words)))


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
        for line in understood(dataset):
            typer.echo(line, err=True)
    _show(dataset, as_json)


@app.command()
def remove(name: Name, home: Home = None) -> None:
    """Delete the dataset NAME. Its studies stay in memory."""
    data.remove(load_settings(home).datasets_dir, name)
    typer.echo(f"Removed {name}.", err=True)


def _show(dataset: data.Dataset, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(data_card(dataset, ids=True), indent=1))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in data_line(dataset).items():
        if name == "recipe":  # `data recipe` prints it whole
            continue
        table.add_row(name.replace("_", " "), _formatted(name, value))
    Console(soft_wrap=True).print(table)


def _formatted(name: str, value: object) -> str:
    if value is None:
        return "unknown (no timestamps)" if name == "timestamp_tie_rate" else "all"
    if isinstance(value, bool):
        return "yes: generated, not real data" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
