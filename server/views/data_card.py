"""Describes a dataset to people and clients in one flat form, and with the report of its import."""

from __future__ import annotations

from typing import Any

from trainers.data import Dataset
from trainers.data.importing.add import REASONS


def data_line(dataset: Dataset) -> dict[str, Any]:
    """The flat form of a dataset: name and hash, then its facts."""
    return {
        "name": dataset.name,
        **dataset.facts.model_dump(),
        "content_hash": dataset.content_hash,
        "split": dataset.split,
        **{f"cold_{name}": number for name, number in dataset.cold.items()},
        **({"updates": dataset.updates} if dataset.updates else {}),
        **({"recipe": dataset.recipe} if dataset.recipe else {}),
        "synthetic": dataset.synthetic,
    }


def understood(dataset: Dataset) -> list[str]:
    """What an import read, understood and dropped, and what is odd, in lines for people."""
    report = dataset.report
    if dataset.synthetic:
        return [f"{dataset.name} is synthetic: {report.source}."]
    columns = ", ".join(f"{role}={column!r}" for role, column in report.columns.items())
    lines = [
        f"Read {report.rows_read:,} rows of {report.source} as {report.format}" + (f" ({columns})." if columns else ".")
    ]
    if report.ignored:
        lines.append(f"Ignored the columns {', '.join(map(repr, report.ignored))}.")
    if report.time_format:
        lines.append(f"Read times as {report.time_format}.")
    lines += [
        f"Event: user {event.user!r}, item {event.item!r}" + (f", {event.time} UTC." if event.time else ".")
        for event in report.examples
    ]
    if report.span:
        lines.append(f"Times from {report.span[0]} to {report.span[1]} UTC.")
    elif report.examples:
        lines.append("No timestamps: events keep the order of the file.")
    lines += [
        f"Dropped {rows:,} row{'s' if rows > 1 else ''} {REASONS[reason]}." for reason, rows in report.dropped.items()
    ]
    if report.share_lost:
        lines.append(f"Lost {report.share_lost:.2%} of the rows.")
    lines += [f"Warning: {warning}" for warning in report.warnings]
    if report.heaviest_user is not None:
        lines.append(f"The user with the most events is {report.heaviest_user!r}.")
    return lines


def data_card(dataset: Dataset, ids: bool = False) -> dict[str, Any]:
    """The flat form of a dataset, and the report of its import; with `ids` also what holds ids of users and items."""
    hidden = None if ids else {"examples", "heaviest_user"}
    return {**data_line(dataset), "report": dataset.report.model_dump(exclude=hidden)}
