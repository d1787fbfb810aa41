"""A study as one PNG: best so far, learning curves, importance. Drawn by matplotlib, which is an extra."""

from __future__ import annotations

import io
import textwrap
from typing import Any

from server.charts.numbers import StudyNumbers
from server.study.admission import ProtocolError

INK, FAINT, BEST, DEFAULT, BAND = "#1f2933", "#9aa5b1", "#0b7285", "#c05621", "#f3d9c6"
SIZE, DPI = (9.0, 6.4), 110
FIELDS = 8
ROLES = {"best": (BEST, 1.8, 3), "default": (DEFAULT, 1.8, 2), "other": (FAINT, 0.8, 1)}
"""Colour, width and drawing order of the curves in each role."""


def png(numbers: StudyNumbers) -> bytes:
    """The picture as a PNG file. Raises ProtocolError where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ProtocolError("plot_study needs matplotlib on the server: pip install 'virtualmle[plot]'.") from None
    figure: Any = Figure(figsize=SIZE, dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.1, 1.0))
    _draw_best(figure.add_subplot(grid[0, :]), numbers)
    _draw_curves(figure.add_subplot(grid[1, 0]), numbers)
    _draw_shares(figure.add_subplot(grid[1, 1]), numbers)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _style(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _count_axis(axes: Any, label: str) -> None:
    """Labels the horizontal axis and gives it whole-number ticks."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(label, fontsize=8, color=INK)


def _draw_empty(axes: Any, words: str) -> None:
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes, color=FAINT, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_best(axes: Any, numbers: StudyNumbers) -> None:
    shown = numbers.series
    _style(axes, f"{shown.title}: best {shown.metric} so far, by training")
    if not any(point.score is not None for point in shown.points):
        _draw_empty(axes, textwrap.fill(numbers.guardrails or "nothing has scored yet", 70))
        return
    if shown.band is not None:
        axes.axhspan(*shown.band, color=BAND, zorder=0, linewidth=0, label="seed noise around the default")
    if shown.default is not None:
        axes.axhline(shown.default, color=DEFAULT, linewidth=1, label="default, mean over seeds")
    best = [(point.training, point.best) for point in shown.points if point.best is not None]
    axes.step(*zip(*best, strict=True), where="post", color=BEST, linewidth=2, label="best mean over seeds")
    for replicate, marker, label in ((False, "o", "training"), (True, "x", "another seed")):
        dots = [(p.training, p.score) for p in shown.points if p.score is not None and p.replicate == replicate]
        if dots:
            axes.scatter(*zip(*dots, strict=True), s=18, marker=marker, color=INK, linewidth=1, label=label, zorder=3)
    axes.set_xlim(0.5, len(shown.points) + 0.5)
    words = "" if numbers.guardrails is None else f". {numbers.guardrails}."
    _count_axis(axes, textwrap.fill(f"trainings{words}", 120))
    axes.legend(fontsize=7, frameon=False, loc="best", ncols=2)


def _draw_curves(axes: Any, numbers: StudyNumbers) -> None:
    _style(axes, f"learning curves, validation {numbers.series.metric}")
    if not numbers.curves:
        _draw_empty(axes, "no epoch yet")
        return
    named: set[str] = set()
    for curve in numbers.curves:
        color, width, order = ROLES[curve.role]
        label = None if curve.role in named else curve.role
        named.add(curve.role)
        marker = "." if len(curve.epochs) == 1 else None
        axes.plot(
            curve.epochs, curve.scores, color=color, linewidth=width, zorder=order, label=label, marker=marker,
            alpha=0.6 if curve.role == "other" else 1.0,
        )  # fmt: skip
    _count_axis(axes, "epoch")
    axes.legend(fontsize=7, frameon=False)


def _draw_shares(axes: Any, numbers: StudyNumbers) -> None:
    _style(axes, "what set good configurations apart")
    if not numbers.shares:
        _draw_empty(axes, "shown once 8 configurations have been scored\n(PED-ANOVA, by Optuna)")
        return
    names, shares = zip(*reversed(numbers.shares[:FIELDS]), strict=True)
    axes.barh(range(len(names)), shares, color=BEST, height=0.65)
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_formatter("{x:.0%}")
