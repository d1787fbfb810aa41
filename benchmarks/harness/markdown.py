"""Markdown tables, and the format of numbers in them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import fmean, median, stdev
from typing import TypeVar

from benchmarks.harness.rows import Row

Group = TypeVar("Group", bound=Hashable)


def table(headings: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table. The first `left` columns are left-aligned words, the others right-aligned numbers."""
    marks = ["---"] * left + ["---:"] * (len(headings) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, marks, *lines))


def grouped(rows: Iterable[Row], by: Callable[[Row], Group]) -> dict[Group, list[Row]]:
    """Rows by group; groups and rows keep the order in which they were measured."""
    groups: dict[Group, list[Row]] = {}
    for row in rows:
        groups.setdefault(by(row), []).append(row)
    return groups


def newest(rows: Sequence[Row]) -> list[Row]:
    """The rows that were measured with the same spec, commit and versions as the last row."""
    code = (rows[-1].spec_hash, rows[-1].commit, rows[-1].versions)
    return [row for row in rows if (row.spec_hash, row.commit, row.versions) == code]


def between(rows: Sequence[Row]) -> str:
    """When rows were measured, and with which versions."""
    dates = sorted({row.date for row in rows})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"measured {span}; versions: {'; '.join(sorted({row.versions for row in rows}))}."


def short(value: float) -> str:
    """A number with three significant digits, and with thousands separators."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def centre(values: Sequence[float]) -> str:
    """The median and the range, as text."""
    if len(values) == 1:
        return short(values[0])
    return f"{short(median(values))} ({short(min(values))}–{short(max(values))})"


def mean_and_sd(values: Sequence[float], digits: int = 4) -> str:
    """The mean, as text, with the standard deviation of several values."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def times(other: float | None, ours: float) -> str:
    """The ratio of `other` seconds to `ours`, as text; a dash without `other`."""
    return "–" if other is None else f"{short(other / ours)}×"


def duration(seconds: float) -> str:
    """Seconds as text: in seconds below two minutes, in minutes above."""
    return f"{short(seconds)} s" if seconds < 120 else f"{short(seconds / 60)} min"
