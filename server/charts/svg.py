"""The best score so far over trainings: the numbers of the picture, and separately its drawing as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from memory.statistics.noise import Sigma, half_width, relative
from server.policies.base import Observation, configurations, ranked
from trainers.contract.space import Config


@dataclass(frozen=True)
class Point:
    """One training, counted from 1. `best` is the best mean over seeds after it had ended."""

    training: int
    number: int
    score: float | None
    best: float | None
    replicate: bool
    violates: bool = False
    """Whether its configuration violates a guardrail; then it has no score here."""


@dataclass(frozen=True)
class Series:
    """All numbers of the picture. A single training within `band` cannot be distinguished from the default."""

    points: tuple[Point, ...]
    default: float | None
    band: tuple[float, float] | None
    metric: str
    title: str


def series(
    history: Sequence[Observation], sigma: Sigma, metric: str, title: str, default_config: Config | None = None
) -> Series:
    """Works out the numbers of the picture from a study's trainings. None: the first trained the default."""
    points: list[Point] = []
    for count, trial in enumerate(history, 1):
        best = next(iter(ranked(history[:count])), None)
        replicate = any(other.number == trial.number for other in history[: count - 1])
        violates = bool(trial.violations)
        points.append(Point(count, trial.number, trial.score, best.mean if best else None, replicate, violates))
    trained = configurations(history)
    first = next((one for one in trained if default_config in (None, one.config)), None)
    default = first.mean if first else None
    band = None
    if first is not None and default is not None:
        width = half_width(sigma, 1, len(first.scores))
        band = (default * (1 + relative(-width)), default * (1 + relative(width)))
    return Series(tuple(points), default, band, metric, title)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """About `most` evenly spaced round numbers, from at most `low` to at least `high`."""
    span = max(high - low, abs(high) * 1e-6, 1e-9)
    rough = span / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(start, end + 1)]


WIDTH, HEIGHT = 860, 440
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 64, 92
INK, SOFT, GRID_LINE = "#1f2933", "#616e7c", "#e4e7eb"
BEST, TRAINING, DEFAULT, BAND, FAILED = "#0b7a75", "#7b8794", "#b7791f", "#f6e3b4", "#c53030"
VIOLATING = "#6b46c1"
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'


@dataclass(frozen=True)
class Frame:
    """Maps trainings and scores to places on the canvas."""

    trainings: int
    low: float
    high: float

    def x(self, training: float) -> float:
        """The middle of a training's column; all columns have the same width."""
        return LEFT + (training - 0.5) / max(1, self.trainings) * (WIDTH - LEFT - RIGHT)

    def y(self, score: float) -> float:
        height = HEIGHT - TOP - BOTTOM
        return TOP + (1 - (score - self.low) / (self.high - self.low)) * height


def draw(numbers: Series) -> str:
    """The picture as an SVG document."""
    levels = _levels(numbers)
    frame = Frame(max(1, len(numbers.points)), levels[0], levels[-1])
    body = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 28, numbers.title, size=17, weight=600),
        _text(LEFT, 48, f"validation {numbers.metric}, best mean over seeds so far", size=12.5, color=SOFT),
        *_grid(frame, levels, numbers.metric),
        *_default(frame, numbers),
        *_dots(frame, numbers),
        *_steps(frame, numbers),
        *_legend(numbers),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" {FONT} role="img">'
    )
    return "\n".join([head, f"<title>{escape(numbers.title)}</title>", *body, "</svg>", ""])


def _levels(numbers: Series) -> list[float]:
    shown = [value for point in numbers.points for value in (point.score, point.best) if value is not None]
    if numbers.default is not None and numbers.band is not None:
        reach = max(abs(value - numbers.default) for value in [*shown, numbers.default]) or 0.02
        shown += [max(numbers.band[0], numbers.default - reach), min(numbers.band[1], numbers.default + 2 * reach)]
    if not shown:
        return [0.0, 0.5, 1.0]
    low, high = min(shown), max(shown)
    margin = 0.06 * ((high - low) or high or 1.0)
    return ticks(max(0.0, low - margin), high + margin)


def _grid(frame: Frame, levels: Sequence[float], metric: str) -> list[str]:
    lines: list[str] = []
    digits = max(2, -math.floor(math.log10(levels[1] - levels[0])) + (1 if _needs_half(levels) else 0))
    for level in levels:
        y = frame.y(level)
        lines.append(_line(LEFT, y, WIDTH - RIGHT, y, GRID_LINE))
        lines.append(_text(LEFT - 10, y + 4, f"{level:.{digits}f}", anchor="end", size=12, color=SOFT))
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, frame.trainings) if frame.trainings / step <= 20)
    bottom = HEIGHT - BOTTOM
    for training in range(1, frame.trainings + 1):
        if training % every == 0 or training == 1:
            lines.append(_text(frame.x(training), bottom + 20, str(training), anchor="middle", size=12, color=SOFT))
    lines.append(_line(LEFT, bottom, WIDTH - RIGHT, bottom, SOFT))
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(_text(middle, bottom + 42, "training", anchor="middle", size=13))
    turn = f'transform="rotate(-90 20 {(TOP + bottom) / 2:.1f})"'
    lines.append(_text(20, (TOP + bottom) / 2, metric, anchor="middle", size=13, extra=turn))
    return lines


def _needs_half(levels: Sequence[float]) -> bool:
    step = levels[1] - levels[0]
    return round(step / 10 ** math.floor(math.log10(step)), 6) == 2.5


def _default(frame: Frame, numbers: Series) -> list[str]:
    if numbers.default is None or numbers.band is None:
        return []
    low, high = (min(max(edge, frame.low), frame.high) for edge in numbers.band)
    y, top = frame.y(numbers.default), frame.y(high)
    width, height = WIDTH - LEFT - RIGHT, frame.y(low) - top
    return [
        f'<rect x="{LEFT}" y="{top:.1f}" width="{width}" height="{height:.1f}" fill="{BAND}" fill-opacity="0.55"/>',
        _line(LEFT, y, WIDTH - RIGHT, y, DEFAULT, width=1.6, dash="6 4"),
    ]


def _dots(frame: Frame, numbers: Series) -> list[str]:
    marks: list[str] = []
    for point in numbers.points:
        x = frame.x(point.training)
        if point.score is None:
            marks.append(_cross(x, HEIGHT - BOTTOM - 10, VIOLATING if point.violates else FAILED))
        else:
            marks.append(_dot(x, frame.y(point.score), hollow=point.replicate))
    return marks


def _steps(frame: Frame, numbers: Series) -> list[str]:
    best_points = [(point.training, point.best) for point in numbers.points if point.best is not None]
    if not best_points:
        return []
    half = (WIDTH - LEFT - RIGHT) / frame.trainings / 2
    path = [f"M {frame.x(best_points[0][0]):.1f} {frame.y(best_points[0][1]):.1f}"]
    for training, best in best_points[1:]:
        path += [f"H {frame.x(training):.1f}", f"V {frame.y(best):.1f}"]
    path.append(f"h {half:.1f}")
    return [
        f'<path d="{" ".join(path)}" fill="none" stroke="{BEST}" stroke-width="2.6" stroke-linejoin="round" '
        'stroke-linecap="round"/>'
    ]


def _legend(numbers: Series) -> list[str]:
    y = HEIGHT - 20.0
    entries = [(_line(0, y - 4, 22, y - 4, BEST, width=2.6), "best so far")]
    entries.append((_dot(11, y - 4, hollow=False), "a training"))
    if any(point.replicate and point.score is not None for point in numbers.points):
        entries.append((_dot(11, y - 4, hollow=True), "another seed"))
    if numbers.default is not None:
        entries.append((_line(0, y - 4, 22, y - 4, DEFAULT, width=1.6, dash="6 4"), "default"))
        box = f'<rect x="0" y="{y - 10:.1f}" width="22" height="12" fill="{BAND}" fill-opacity="0.55"/>'
        entries.append((box, "seed noise"))
    if any(point.score is None and not point.violates for point in numbers.points):
        entries.append((_cross(11, y - 4, FAILED), "no score"))
    if any(point.violates for point in numbers.points):
        entries.append((_cross(11, y - 4, VIOLATING), "violates a guardrail"))
    drawn: list[str] = []
    x = float(LEFT)
    for mark, words in entries:
        drawn.append(f'<g transform="translate({x:.1f} 0)">{mark}{_text(30, y, words, size=12.5)}</g>')
        x += 30 + 7 * len(words) + 26
    return drawn


def _dot(x: float, y: float, *, hollow: bool) -> str:
    fill = "#ffffff" if hollow else TRAINING
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{TRAINING}" stroke-width="1.6"/>'


def _cross(x: float, y: float, color: str) -> str:
    arms = f"M {x - 4.5:.1f} {y - 4.5:.1f} l 9 9 m 0 -9 l -9 9"
    return f'<path d="{arms}" stroke="{color}" stroke-width="2.2" stroke-linecap="round"/>'


def _line(x1: float, y1: float, x2: float, y2: float, color: str, *, width: float = 1, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
        f'stroke-width="{width:g}"{dashed}/>'
    )


def _text(
    x: float, y: float, words: str, *, size: float, anchor: str = "start", color: str = INK, weight: int = 400,
    extra: str = "",
) -> str:  # fmt: skip
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{color}" '
        f'font-weight="{weight}" {extra}>{escape(words)}</text>'
    )
