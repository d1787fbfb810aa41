"""The share of studies that reached a target, by trainings, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.replay.measures import Run, expected_running_time

WIDTH, HEIGHT = 860, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 52, 52
INK, SOFT, GRID_LINE = "#1f2933", "#616e7c", "#e4e7eb"
COLORS = ("#0b7a75", "#b7791f", "#2b6cb0", "#c53030", "#6b46c1", "#4a5568", "#b83280", "#2f855a", "#975a16", "#718096")
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'
LABEL_STEP = 19


def shares(runs: Sequence[Run], target: float, budget: int) -> list[float]:
    """The share of runs whose leader was worth the target after 1, 2, … trainings."""
    hits = [run.hit(target) for run in runs]
    return [sum(hit is not None and hit <= count for hit in hits) / len(hits) for count in range(1, budget + 1)]


def picture(runs: Mapping[str, Sequence[Run]], budget: int, target: float, title: str) -> str:
    """An SVG with a step curve for each policy, labelled at its end; the fewest trainings to the target first."""
    order = sorted(runs, key=lambda name: expected_running_time(runs[name], target, budget) or float("inf"))
    curves = {name: shares(runs[name], target, budget) for name in order}
    parts = [_text(LEFT, 28, title, 16, INK)]
    for percent in range(0, 101, 25):
        y = _y(percent / 100)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{GRID_LINE}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{percent} %", 12, SOFT, "end"))
    for count in range(5, budget + 1, 5):
        parts.append(_text(_x(count, budget), HEIGHT - BOTTOM + 20, str(count), 12, SOFT, "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "trainings, replicates included", 12, SOFT, "middle"))
    places = _label_heights([_y(curve[-1]) for curve in curves.values()])
    for number, (name, curve) in enumerate(curves.items()):
        color, place = COLORS[number % len(COLORS)], places[number]
        steps = [f"{_x(1, budget):.1f},{_y(curve[0]):.1f}"]
        for count, share in enumerate(curve[1:], 2):
            steps += [f"{_x(count, budget):.1f},{_y(curve[count - 2]):.1f}", f"{_x(count, budget):.1f},{_y(share):.1f}"]
        parts.append(f'<polyline points="{" ".join(steps)}" fill="none" stroke="{color}" stroke-width="2"/>')
        end = _x(budget, budget)
        parts.append(
            f'<line x1="{end:.1f}" y1="{_y(curve[-1]):.1f}" x2="{end + 22:.1f}" y2="{place:.1f}" stroke="{color}"/>'
        )
        parts.append(_text(end + 26, place + 4, name, 13, color))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _label_heights(ends: Sequence[float]) -> list[float]:
    """The heights of the labels: near the ends of their curves, without overlap."""
    heights = [0.0] * len(ends)
    free = float(TOP)
    for number in sorted(range(len(ends)), key=lambda number: (ends[number], number)):
        heights[number] = max(free, ends[number])
        free = heights[number] + LABEL_STEP
    below = max(0.0, free - LABEL_STEP - (HEIGHT - 14))
    return [place - below for place in heights]


def _x(count: float, budget: int) -> float:
    return LEFT + (count - 1) / max(1, budget - 1) * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, words: str, size: int, color: str, anchor: str = "start") -> str:
    style = f'{FONT} font-size="{size}" fill="{color}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
