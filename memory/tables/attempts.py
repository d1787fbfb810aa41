"""The SQL of attempts and their epochs, each function one step of its caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from memory.errors import MemoryFault, UnknownAttempt
from memory.records import Attempt
from memory.tables.connection import Cursor
from memory.tables.rows import finite, new_id, now, read, shortened, stored_time
from memory.tables.trials import require, study_of
from trainers.contract.wire import Epoch

_ATTEMPTS = """
    SELECT a.attempt_id, a.trial_id, a.pid, a.create_time, a.started_at, e.ended_at, e.cause
    FROM attempts a LEFT JOIN attempt_ends e ON e.attempt_id = a.attempt_id
"""


def start(cursor: Cursor, trial_id: str, pid: int, create_time: float) -> tuple[Attempt, str]:
    """Stores that a process works on the trial; returns the attempt and the id of the study.

    Raises UnknownTrial, and MemoryFault if the trial already has its result.
    """
    study_id = study_of(cursor, trial_id)
    result = cursor.row("SELECT status FROM trial_results WHERE trial_id = $id", {"id": trial_id})
    if result is not None:
        raise MemoryFault(f"Trial {trial_id!r} has ended ({result['status']}) and takes no new attempt.")
    attempt_id = new_id("a")
    cursor.run(
        """INSERT INTO attempts (attempt_id, trial_id, pid, create_time, started_at)
           VALUES ($attempt_id, $trial_id, $pid, $create_time, $now)""",
        {
            "attempt_id": attempt_id,
            "trial_id": trial_id,
            "pid": pid,
            "create_time": create_time,
            "now": stored_time(now()),
        },
    )
    return Attempt.model_validate(
        read(cursor.rows(_ATTEMPTS + "WHERE a.attempt_id = $id", {"id": attempt_id})[0])
    ), study_id


def end(cursor: Cursor, attempt_id: str, cause: str) -> str:
    """Stores the end of an attempt, unless one is stored already, and returns its trial's id. Raises UnknownAttempt."""
    row = cursor.row("SELECT trial_id FROM attempts WHERE attempt_id = $id", {"id": attempt_id})
    if row is None:
        raise UnknownAttempt(attempt_id)
    cursor.run(
        "INSERT INTO attempt_ends VALUES ($id, $now, $cause) ON CONFLICT DO NOTHING",
        {"id": attempt_id, "now": stored_time(now()), "cause": shortened(cause)},
    )
    return str(row["trial_id"])


def of_trial(cursor: Cursor, trial_id: str) -> list[Attempt]:
    """All attempts of a trial, oldest first."""
    rows = cursor.rows(_ATTEMPTS + "WHERE a.trial_id = $id ORDER BY a.position", {"id": trial_id})
    return [Attempt.model_validate(read(row)) for row in rows]


def unended(cursor: Cursor) -> list[Attempt]:
    """The attempts of any trial that are not known to have ended, oldest first."""
    rows = cursor.rows(_ATTEMPTS + "WHERE e.attempt_id IS NULL ORDER BY a.position")
    return [Attempt.model_validate(read(row)) for row in rows]


def add_epochs(cursor: Cursor, trial_id: str, epochs: Sequence[Epoch]) -> str:
    """Stores epochs of the trial's last attempt; those already there stay as they are. Returns the study's id.

    Raises UnknownTrial.
    """
    study_id = study_of(cursor, trial_id)
    last = cursor.row("SELECT attempt_id FROM last_attempts WHERE trial_id = $id", {"id": trial_id})
    rows = [{**epoch.model_dump(exclude={"validation"}), **finite(epoch.validation)} for epoch in epochs]
    for metrics, group in groupby(rows, key=lambda row: row["keys"]):  # usually a single group
        batch = list(group)
        columns = {
            name: [row[name] for row in batch] for name in ("epoch", "loss", "numbers", "seconds", "eval_seconds")
        }
        cursor.run(
            """INSERT INTO epochs
               SELECT $trial_id, $attempt_id, epoch, loss, map($metrics::VARCHAR[], numbers), seconds, eval_seconds
               FROM (SELECT unnest($epoch::INTEGER[]) AS epoch, unnest($loss::DOUBLE[]) AS loss,
                            unnest($numbers::DOUBLE[][]) AS numbers, unnest($seconds::DOUBLE[]) AS seconds,
                            unnest($eval_seconds::DOUBLE[]) AS eval_seconds)
               ON CONFLICT DO NOTHING""",
            {"trial_id": trial_id, "attempt_id": last["attempt_id"] if last else "", "metrics": metrics, **columns},
        )
    return study_id


def epochs(cursor: Cursor, trial_id: str) -> list[Epoch]:
    """The epochs of the trial's last attempt, in order. Raises UnknownTrial."""
    require(cursor, (trial_id,))
    rows = cursor.rows(
        """SELECT epoch, loss, validation, seconds, eval_seconds FROM epochs
           WHERE trial_id = $id
             AND attempt_id = coalesce((SELECT attempt_id FROM last_attempts WHERE trial_id = $id), '')
           ORDER BY epoch""",
        {"id": trial_id},
    )
    return [Epoch.model_validate(row) for row in rows]


def epochs_by_trial(cursor: Cursor, study_id: str) -> dict[str, list[Epoch]]:
    """The epochs of each trial's last attempt, in order, by trial of a study; trials without epochs are left out."""
    rows = cursor.rows(
        """SELECT t.trial_id, e.epoch, e.loss, e.validation, e.seconds, e.eval_seconds
           FROM trials t LEFT JOIN last_attempts a ON a.trial_id = t.trial_id
           JOIN epochs e ON e.trial_id = t.trial_id AND e.attempt_id = coalesce(a.attempt_id, '')
           WHERE t.study_id = $id ORDER BY t.position, e.epoch""",
        {"id": study_id},
    )
    epochs_by_id: dict[str, list[Epoch]] = {}
    for row in rows:  # memory wrote these rows, so they need no second validation
        epochs_by_id.setdefault(row.pop("trial_id"), []).append(Epoch.model_construct(None, **row))
    return epochs_by_id


def curves(cursor: Cursor, study_id: str, metric: str) -> dict[str, list[tuple[int, float]]]:
    """The (epoch, value) points of a metric in each trial's last attempt, in order, by trial id."""
    rows = cursor.rows(
        """SELECT t.trial_id, e.epoch, e.validation[$metric] AS value
           FROM trials t LEFT JOIN last_attempts a ON a.trial_id = t.trial_id
           JOIN epochs e ON e.trial_id = t.trial_id AND e.attempt_id = coalesce(a.attempt_id, '')
           WHERE t.study_id = $id AND value IS NOT NULL ORDER BY t.position, e.epoch""",
        {"id": study_id, "metric": metric},
    )
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        points.setdefault(row["trial_id"], []).append((row["epoch"], row["value"]))
    return points
