"""What a heuristic is worth to studies that are told of it; those from which chance kept it are the controls."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from memory.connection import Connection, Cursor
from memory.records import Note, Study
from memory.rows import now, stored_time
from memory.student import t_quantile

CONTROLS = 20
"""Finished studies without a heuristic, and as many with it, below which nothing is said of its credit."""
LEVEL, POWER = 0.95, 0.80


@dataclass(frozen=True)
class Credit:
    """Of one heuristic: the difference it made to the gain of studies over their default, and what could be seen.

    `effect` (0.02: studies that knew of it ended 2 points higher) is None while it is unmeasured; `detectable` is the
    smallest effect that so many studies would find four times in five, None where they do not tell how they scatter.
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
        """In one line."""
        seen = f"; {self.detectable:.1%} would be seen" if self.detectable is not None else ""
        if self.effect is None:
            return f"unmeasured ({self.shown} studies with it, {self.withheld} without{seen})"
        return f"{self.effect:+.1%} ({self.low:+.1%} to {self.high:+.1%}{seen})"


def is_withheld(study: Study, note: Note) -> bool:
    """Whether chance keeps the heuristic from the study: for good, by their two ids. Its own are never kept from it."""
    if not study.withhold or note.kind != "heuristic" or note.study_id == study.study_id:
        return False
    drawn = hashlib.sha256(f"{study.study_id}:{note.heuristic_id}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") < study.withhold * 2**64


def measured(heuristic_id: str, shown: Sequence[float], withheld: Sequence[float], cited: int) -> Credit:
    """Credit from the gains of the studies of both kinds, by Welch's interval."""
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


class Ledger:
    """Who was told what. Every method is one transaction, safe from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def expose(self, study: Study, notes: Collection[Note]) -> None:
        """Stores that these heuristics were due in a study, and which chance withheld; the first time counts.

        What is read once the study has finished changed nothing in it, and is not stored.
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
                    "ids": [note.heuristic_id for note in due],
                    "now": stored_time(now()),
                    "withheld": [is_withheld(study, note) for note in due],
                },
            )

    def credits(self) -> list[Credit]:
        """Of every heuristic that was due in a finished study, or cited; those with most studies first."""
        with self._connection.read() as cursor:
            gains, cited = _gains(cursor), _cited(cursor)
        found = [
            measured(name, *gains.get(name, ([], [])), cited.get(name, 0)) for name in dict.fromkeys([*gains, *cited])
        ]
        return sorted(found, key=lambda one: -(one.shown + one.withheld))


def _gains(cursor: Cursor) -> dict[str, tuple[list[float], list[float]]]:
    """By heuristic: the gains of finished studies that were told of it, and of those that were not."""
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
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        shown, withheld = found.setdefault(row["heuristic_id"], ([], []))
        (withheld if row["withheld"] else shown).extend(row["gains"])
    return found


def _cited(cursor: Cursor) -> dict[str, int]:
    """By heuristic: how many trials said that they followed it."""
    rows = cursor.rows(
        "SELECT heuristic_id, count(*) AS cited FROM (SELECT unnest(cites) AS heuristic_id FROM trials) GROUP BY ALL"
    )
    return {row["heuristic_id"]: row["cited"] for row in rows}
