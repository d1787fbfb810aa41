"""How well an engineer's predictions come true: Brier skill of `expected`, against always saying the base rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from memory.connection import Cursor
from memory.records import Expected

ENOUGH = 10
"""Predictions below which skill says nothing."""
BINS = 5


@dataclass(frozen=True)
class Prediction:
    """What was said beforehand, and whether it came."""

    confidence: float
    came: bool


@dataclass(frozen=True)
class Bin:
    """The predictions of one range of confidence."""

    count: int
    confidence: float
    came: float


@dataclass(frozen=True)
class Calibration:
    """`skill` is 1 for a prophet, 0 for always saying the base rate, below it for worse; None for too few."""

    count: int
    brier: float
    base_rate: float
    skill: float | None
    bins: tuple[Bin, ...]

    @property
    def words(self) -> str:
        """One sentence."""
        said = f"{self.count} predictions, of which {self.base_rate:.0%} came true"
        if self.skill is None:
            return f"{said}: too few to say how well they are calibrated."
        better = "better" if self.skill > 0 else "no better"
        return f"{said}: Brier skill {self.skill:+.2f}, {better} than always saying so."


def calibration(predictions: Sequence[Prediction]) -> Calibration | None:
    """Brier score of the confidences (Brier 1950), and its skill over the base rate; None without any."""
    if not predictions:
        return None
    brier = fmean((one.confidence - one.came) ** 2 for one in predictions)
    rate = fmean(one.came for one in predictions)
    base = rate * (1 - rate)
    skill = 1 - brier / base if len(predictions) >= ENOUGH and base > 0 else None
    bins = [[one for one in predictions if _bin(one.confidence) == place] for place in range(BINS)]
    told = tuple(Bin(len(b), fmean(o.confidence for o in b), fmean(o.came for o in b)) for b in bins if b)
    return Calibration(len(predictions), brier, rate, skill, told)


def _bin(confidence: float) -> int:
    return min(int(confidence * BINS), BINS - 1)


def outcome(direction: Literal["up", "down", "none"], score: float | None, parent: float | None, verdict: str | None
            ) -> bool | None:  # fmt: skip
    """Whether the expected came: above or below the parent's mean as it stood, or `tied`; None where nobody knows.

    A trial without a score did not go up, and says nothing of what was expected to go down.
    """
    if direction == "none":
        return None if verdict is None else verdict == "tied"
    if score is None:
        return False if direction == "up" else None
    if parent is None:
        return None
    return score > parent if direction == "up" else score < parent


def predictions_of(cursor: Cursor, policy: str) -> list[Prediction]:
    """All predictions of studies with this policy that an outcome is known of, oldest first."""
    rows = cursor.rows(
        """SELECT t.expected, r.validation[s.metric] AS score, v.verdict, r.status,
                  (SELECT avg(q.validation[s.metric])
                   FROM trials p JOIN trials o ON o.study_id = p.study_id AND o.config_hash = p.config_hash
                   JOIN trial_results q ON q.trial_id = o.trial_id
                   WHERE p.trial_id = t.parent AND o.position < t.position
                     AND q.status IN ('ok', 'timed_out')) AS parent
           FROM trials t
           JOIN studies s ON s.study_id = t.study_id
           JOIN trial_results r ON r.trial_id = t.trial_id
           LEFT JOIN last_verdicts v ON v.trial_id = t.trial_id
           WHERE s.policy = $policy AND t.expected IS NOT NULL
           ORDER BY t.position""",
        {"policy": policy},
    )
    found: list[Prediction] = []
    for row in rows:
        expected = Expected.model_validate_json(row["expected"])
        score = row["score"] if row["status"] in ("ok", "timed_out") else None
        came = outcome(expected.direction, score, row["parent"], row["verdict"])
        if expected.confidence is not None and came is not None and row["status"] not in ("cancelled", "crashed"):
            found.append(Prediction(min(max(expected.confidence, 0.0), 1.0), came))
    return found
