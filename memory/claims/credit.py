"""Measures how much a heuristic helps the studies that read it. Studies it was withheld from are the controls."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from memory.records import Note, Study
from memory.statistics.t_distribution import t_quantile
from memory.tables.connection import Connection, Cursor
from memory.tables.rows import now, stored_time

CONTROLS = 20
"""Credit is measured from this many finished studies with the heuristic, and as many without it."""
LEVEL, POWER = 0.95, 0.80


@dataclass(frozen=True)
class Credit:
    """How much one heuristic changed the gain of studies over their default, and the effect that could be detected.

    `effect` (0.02: studies with it ended 2 points higher) is None while it is unmeasured. `detectable` is the smallest
    effect that this many studies would find with POWER; None with too few studies to estimate their scatter.
    """

    heuristic_id: str
    shown: int
    withheld: int
    cited: int
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    detectable: float | None = None

    @property
    def words(self) -> str:
        """The effect with its interval and the study counts, in one line."""
        seen = f"; {self.detectable:.1%} would be seen" if self.detectable is not None else ""
        if self.effect is None:
            return f"unmeasured ({self.shown} studies with it, {self.withheld} without{seen})"
        return f"{self.effect:+.1%} ({self.low:+.1%} to {self.high:+.1%}{seen})"


def is_withheld(study: Study, note: Note) -> bool:
    """Whether the heuristic is withheld from the study: drawn once from their two ids. A study always sees its own."""
    if not study.withhold or note.kind != "heuristic" or note.study_id == study.study_id:
        return False
    digest = hashlib.sha256(f"{study.study_id}:{note.note_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < study.withhold * 2**64


def measured(heuristic_id: str, shown: Sequence[float], withheld: Sequence[float], cited: int) -> Credit:
    """Credit from the gains of studies with and without the heuristic, by Welch's interval."""
    counts = {"shown": len(shown), "withheld": len(withheld), "cited": cited}
    if len(shown) < 2 or len(withheld) < 2:
        return Credit(heuristic_id, **counts)
    parts = [variance(side) / len(side) for side in (shown, withheld)]
    error = math.sqrt(sum(parts))
    scatter = sum(part**2 / (len(side) - 1) for part, side in zip(parts, (shown, withheld), strict=True))
    df = sum(parts) ** 2 / scatter if scatter else len(shown) + len(withheld) - 2.0
    width = t_quantile((1 + LEVEL) / 2, df) * error
    detectable = width + t_quantile(POWER, df) * error
    if min(len(shown), len(withheld)) < CONTROLS:
        return Credit(heuristic_id, **counts, detectable=detectable)
    effect = fmean(shown) - fmean(withheld)
    return Credit(heuristic_id, **counts, effect=effect, low=effect - width, high=effect + width, detectable=detectable)


class ExposureLog:
    """Which heuristics each study was shown. Every method is one transaction, safe from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def expose(self, study: Study, notes: Collection[Note]) -> None:
        """Stores which heuristics were due in a study, and which of them were withheld. Only the first time counts.

        A finished study stores nothing, because what it reads can no longer change it.
        """
        due = [note for note in notes if note.kind == "heuristic" and note.study_id != study.study_id]
        if not study.withhold or study.finished or not due:
            return
        with self._connection.write() as cursor:
            cursor.run(
                """INSERT INTO exposures SELECT $study_id, unnest($ids), $now, unnest($withheld)
                   ON CONFLICT DO NOTHING""",
                {
                    "study_id": study.study_id,
                    "ids": [note.note_id for note in due],
                    "now": stored_time(now()),
                    "withheld": [is_withheld(study, note) for note in due],
                },
            )

    def credits(self) -> list[Credit]:
        """The credit of every heuristic that was due in a finished study, or cited; most studies first."""
        with self._connection.read() as cursor:
            gains, citations = _gains(cursor), _citations(cursor)
        credits = [
            measured(name, *gains.get(name, ([], [])), citations.get(name, 0))
            for name in dict.fromkeys([*gains, *citations])
        ]
        return sorted(credits, key=lambda credit: -(credit.shown + credit.withheld))


def _gains(cursor: Cursor) -> dict[str, tuple[list[float], list[float]]]:
    """By heuristic id: the gains of finished studies that were shown it, and of those it was withheld from."""
    rows = cursor.rows(
        """WITH means AS (
               SELECT t.study_id, t.number, avg(r.validation[s.metric]) AS mean
               FROM trials t JOIN trial_results r ON r.trial_id = t.trial_id JOIN studies s ON s.study_id = t.study_id
               WHERE r.status IN ('ok', 'timed_out') AND t.study_id IN (SELECT study_id FROM exposures)
               GROUP BY ALL),
           gains AS (
               SELECT m.study_id, max(m.mean) / any_value(d.mean) - 1 AS gain
               FROM means m JOIN means d ON d.study_id = m.study_id AND d.number = 0 AND d.mean > 0
               JOIN study_ends e ON e.study_id = m.study_id GROUP BY m.study_id)
           SELECT x.heuristic_id, x.withheld, list(g.gain ORDER BY x.told_at) AS gains
           FROM exposures x JOIN gains g ON g.study_id = x.study_id GROUP BY ALL ORDER BY ALL"""
    )
    gains: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        shown, withheld = gains.setdefault(row["heuristic_id"], ([], []))
        (withheld if row["withheld"] else shown).extend(row["gains"])
    return gains


def _citations(cursor: Cursor) -> dict[str, int]:
    """By heuristic id: the number of trials that cited it."""
    rows = cursor.rows(
        "SELECT heuristic_id, count(*) AS cited FROM (SELECT unnest(cites) AS heuristic_id FROM trials) GROUP BY ALL"
    )
    return {row["heuristic_id"]: row["cited"] for row in rows}
