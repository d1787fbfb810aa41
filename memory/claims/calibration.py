"""How well an engineer's predictions come true: the Brier skill of `expected` over always predicting the base rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from memory.records import Expected
from memory.statistics.decide import DECIDED
from memory.tables.connection import Cursor

ENOUGH = 10
"""The skill is computed only from at least this many predictions."""
BINS = 5


@dataclass(frozen=True)
class Prediction:
    """The confidence of a prediction (0 to 1), and whether it came true."""

    confidence: float
    came_true: bool


@dataclass(frozen=True)
class Bin:
    """One range of confidence: the number of predictions, their mean confidence, and the share that came true."""

    count: int
    confidence: float
    came_true: float


@dataclass(frozen=True)
class Calibration:
    """`skill` is 1 for perfect predictions, 0 for always predicting the base rate, None with too few predictions."""

    count: int
    brier: float
    base_rate: float
    skill: float | None
    bins: tuple[Bin, ...]

    @property
    def words(self) -> str:
        """One sentence."""
        summary = f"{self.count} predictions, of which {self.base_rate:.0%} came true"
        if self.skill is None:
            return f"{summary}: too few to say how well they are calibrated."
        better = "better" if self.skill > 0 else "no better"
        return f"{summary}: Brier skill {self.skill:+.2f}, {better} than always saying so."


def calibration(predictions: Sequence[Prediction]) -> Calibration | None:
    """Brier score of the confidences (Brier 1950), and its skill over the base rate; None without any."""
    if not predictions:
        return None
    brier = fmean((prediction.confidence - prediction.came_true) ** 2 for prediction in predictions)
    rate = fmean(prediction.came_true for prediction in predictions)
    base = rate * (1 - rate)
    skill = 1 - brier / base if len(predictions) >= ENOUGH and base > 0 else None
    groups = [[item for item in predictions if _bin(item.confidence) == place] for place in range(BINS)]
    bins = tuple(
        Bin(len(g), fmean(item.confidence for item in g), fmean(item.came_true for item in g)) for g in groups if g
    )
    return Calibration(len(predictions), brier, rate, skill, bins)


def _bin(confidence: float) -> int:
    return min(int(confidence * BINS), BINS - 1)


def outcome(direction: Literal["up", "down", "none"], score: float | None, parent: float | None, verdict: str | None
            ) -> bool | None:  # fmt: skip
    """Whether an expected direction came true, against the parent's mean at that time; None where that is unknown.

    "none" comes true with the verdict `equivalent`, and is unknown while a verdict is open. A trial without a score did
    not go "up", and leaves "down" unknown.
    """
    if direction == "none":
        return verdict == "equivalent" if verdict in DECIDED else None
    if score is None:
        return False if direction == "up" else None
    if parent is None:
        return None
    return score > parent if direction == "up" else score < parent


def predictions_of(cursor: Cursor, policy: str) -> list[Prediction]:
    """The predictions with a known outcome, of all studies with this policy, oldest first."""
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
    predictions: list[Prediction] = []
    for row in rows:
        expected = Expected.model_validate_json(row["expected"])
        score = row["score"] if row["status"] in ("ok", "timed_out") else None
        came_true = outcome(expected.direction, score, row["parent"], row["verdict"])
        if expected.confidence is not None and came_true is not None and row["status"] not in ("cancelled", "crashed"):
            predictions.append(Prediction(min(max(expected.confidence, 0.0), 1.0), came_true))
    return predictions
