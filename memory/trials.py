"""The SQL of trials: their start, attempts, epochs and results, each function one step of its caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from memory.connection import Cursor, Row
from memory.errors import MemoryFault, UnknownAttempt, UnknownTrial
from memory.records import Attempt, NewTrial, Study, Trial
from memory.rows import as_json, checked_text, finite, new_id, now, read, shortened, stored_time, value_columns
from trainers.spec import Epoch, TrialResult

_ATTEMPTS = """
    SELECT a.attempt_id, a.trial_id, a.pid, a.create_time, a.started_at, e.ended_at, e.cause
    FROM attempts a LEFT JOIN attempt_ends e ON e.attempt_id = a.attempt_id
"""


@dataclass
class Roster:
    """What the trials of one study are called: numbers by configuration, ids by request key."""

    numbers: dict[str, int]
    keys: dict[str, str]


def roster(cursor: Cursor, study_id: str) -> Roster:
    """Read once by whoever starts trials: a scan of all of them takes longer than all else of a start."""
    sql = "SELECT trial_id, number, config_hash, request_key FROM trials WHERE study_id = $id ORDER BY position"
    rows = cursor.rows(sql, {"id": study_id})
    return Roster(
        {row["config_hash"]: row["number"] for row in reversed(rows)},
        {row["request_key"]: row["trial_id"] for row in rows if row["request_key"] is not None},
    )


def start(cursor: Cursor, study: Study, new: NewTrial, known: Roster) -> Trial:
    """Stores a trial of `study` with its values, and adds it to what is `known`.

    Answers the existing one where its request_key was seen before.
    """
    if new.request_key is not None and new.request_key in known.keys:
        return one(cursor, known.keys[new.request_key])
    if study.finished:
        raise MemoryFault(f"Study {study.study_id!r} is finished and takes no more trials; start_study begins another.")
    hypothesis = None if new.hypothesis is None else checked_text("hypothesis", new.hypothesis)
    given = new.model_dump() | {"hypothesis": hypothesis}
    trial = Trial.model_validate(
        given | {"trial_id": new_id("t"), "number": _number(cursor, new, known), "created_at": now()}
    )
    values = given | {
        "trial_id": trial.trial_id,
        "number": trial.number,
        "created_at": stored_time(trial.created_at),
        "changes": as_json(new.changes),
        "config": as_json(new.config),
        "expected": None if new.expected is None else new.expected.model_dump_json(),
        "cites": list(new.cites),
    }
    cursor.run(f"INSERT INTO trials ({', '.join(values)}) VALUES ({', '.join(f'${name}' for name in values)})", values)
    cursor.run(
        """INSERT INTO trial_values
           SELECT $trial_id, unnest($fields::VARCHAR[]), unnest($numbers::DOUBLE[]), unnest($texts::VARCHAR[]),
                  unnest($rests::VARCHAR[])""",
        {"trial_id": trial.trial_id, **value_columns(study.space, new.config)},
    )
    known.numbers.setdefault(new.config_hash, trial.number)
    if new.request_key is not None:
        known.keys[new.request_key] = trial.trial_id
    return trial


def _number(cursor: Cursor, new: NewTrial, known: Roster) -> int:
    """Replicates and equal configurations share a number; any other trial gets the study's next, from 0."""
    if new.parent is not None:
        require(cursor, (new.parent,))
    if new.replicate_of is None:
        return known.numbers.get(new.config_hash, max(known.numbers.values(), default=-1) + 1)
    row = cursor.row("SELECT study_id, number FROM trials WHERE trial_id = $id", {"id": new.replicate_of})
    if row is None:
        raise UnknownTrial(new.replicate_of)
    if row["study_id"] != new.study_id:
        raise MemoryFault(f"Trial {new.replicate_of!r} is of study {row['study_id']!r}, not of {new.study_id!r}.")
    return int(row["number"])


def one(cursor: Cursor, trial_id: str) -> Trial:
    """The trial as it stands; raises UnknownTrial."""
    row = cursor.row("SELECT * FROM trial_states WHERE trial_id = $id", {"id": trial_id})
    if row is None:
        raise UnknownTrial(trial_id)
    return _trial(row)


def of_study(cursor: Cursor, study_id: str) -> list[Trial]:
    """All trials of a study, oldest first."""
    sql = "SELECT * FROM trial_states WHERE study_id = $id ORDER BY position"
    return [_trial(row) for row in cursor.rows(sql, {"id": study_id})]


def unfinished(cursor: Cursor) -> list[Trial]:
    """The trials of any study that have no result, oldest first."""
    sql = "SELECT * FROM trial_states WHERE status IN ('queued', 'running', 'interrupted') ORDER BY position"
    return [_trial(row) for row in cursor.rows(sql)]


def equal(cursor: Cursor, study_id: str, config_hash: str, seed: int) -> Trial | None:
    """The latest trial of this configuration and seed that was neither cancelled nor crashed."""
    row = cursor.row(
        """SELECT * FROM trial_states
           WHERE study_id = $study_id AND config_hash = $config_hash AND seed = $seed
             AND status NOT IN ('cancelled', 'crashed')
           ORDER BY position DESC LIMIT 1""",
        {"study_id": study_id, "config_hash": config_hash, "seed": seed},
    )
    return _trial(row) if row else None


def trained(cursor: Cursor, fingerprint: str) -> list[str]:
    """The `ok` trials of this fingerprint, those that trained before those that reused weights, oldest first."""
    rows = cursor.rows(
        """SELECT t.trial_id FROM trials t JOIN trial_results r ON r.trial_id = t.trial_id
           WHERE t.fingerprint = $fingerprint AND r.status = 'ok'
           ORDER BY r.weights_of IS NOT NULL, t.position""",
        {"fingerprint": fingerprint},
    )
    return [row["trial_id"] for row in rows]


def require(cursor: Cursor, trial_ids: Sequence[str]) -> None:
    """Raises UnknownTrial for the first of `trial_ids` that does not exist."""
    rows = cursor.rows("SELECT trial_id FROM trials WHERE list_contains($ids, trial_id)", {"ids": list(trial_ids)})
    known = {row["trial_id"] for row in rows}
    for trial_id in trial_ids:
        if trial_id not in known:
            raise UnknownTrial(trial_id)


def start_attempt(cursor: Cursor, trial_id: str, pid: int, create_time: float) -> Attempt:
    """Stores that a process works on the trial; raises MemoryFault where the trial has its result."""
    trial = one(cursor, trial_id)
    if trial.finished:
        raise MemoryFault(f"Trial {trial_id!r} has ended ({trial.status}) and takes no new attempt.")
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
    return Attempt.model_validate(read(cursor.rows(_ATTEMPTS + "WHERE a.attempt_id = $id", {"id": attempt_id})[0]))


def end_attempt(cursor: Cursor, attempt_id: str, cause: str) -> None:
    """Stores the end of an attempt; the first end that is told stays. Raises UnknownAttempt."""
    if cursor.row("SELECT 1 FROM attempts WHERE attempt_id = $id", {"id": attempt_id}) is None:
        raise UnknownAttempt(attempt_id)
    cursor.run(
        "INSERT INTO attempt_ends VALUES ($id, $now, $cause) ON CONFLICT DO NOTHING",
        {"id": attempt_id, "now": stored_time(now()), "cause": shortened(cause)},
    )


def attempts(cursor: Cursor, trial_id: str) -> list[Attempt]:
    """All attempts of a trial, oldest first."""
    rows = cursor.rows(_ATTEMPTS + "WHERE a.trial_id = $id ORDER BY a.position", {"id": trial_id})
    return [Attempt.model_validate(read(row)) for row in rows]


def open_attempts(cursor: Cursor) -> list[Attempt]:
    """The attempts of any trial that are not known to have ended, oldest first."""
    rows = cursor.rows(_ATTEMPTS + "WHERE e.attempt_id IS NULL ORDER BY a.position")
    return [Attempt.model_validate(read(row)) for row in rows]


def add_epochs(cursor: Cursor, trial_id: str, epochs: Sequence[Epoch]) -> None:
    """Stores epochs of the trial's last attempt; those already there stay as they are. Raises UnknownTrial."""
    require(cursor, (trial_id,))
    last = cursor.row("SELECT attempt_id FROM last_attempts WHERE trial_id = $id", {"id": trial_id})
    for epoch in epochs:
        cursor.run(
            """INSERT INTO epochs
               VALUES ($trial_id, $attempt_id, $epoch, $loss, map($keys::VARCHAR[], $numbers::DOUBLE[]), $seconds,
                       $eval_seconds)
               ON CONFLICT DO NOTHING""",
            {
                "trial_id": trial_id,
                "attempt_id": last["attempt_id"] if last else "",
                **epoch.model_dump(exclude={"validation"}),
                **finite(epoch.validation),
            },
        )


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


def curves(cursor: Cursor, study_id: str, metric: str) -> dict[str, list[tuple[int, float]]]:
    """By trial the epochs of its last attempt that told the metric: (epoch, value), in order."""
    rows = cursor.rows(
        """SELECT t.trial_id, e.epoch, e.validation[$metric] AS value
           FROM trials t LEFT JOIN last_attempts a ON a.trial_id = t.trial_id
           JOIN epochs e ON e.trial_id = t.trial_id AND e.attempt_id = coalesce(a.attempt_id, '')
           WHERE t.study_id = $id AND value IS NOT NULL ORDER BY t.position, e.epoch""",
        {"id": study_id, "metric": metric},
    )
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        found.setdefault(row["trial_id"], []).append((row["epoch"], row["value"]))
    return found


def finish(cursor: Cursor, result: TrialResult) -> Trial:
    """Stores how a trial ended, unless that is known already, and answers what is stored. Raises UnknownTrial."""
    require(cursor, (result.trial_id,))
    measures = finite(result.measures)
    values: Row = result.model_dump(exclude={"validation", "measures", "versions"}) | {
        "message": shortened(result.message),
        "now": stored_time(now()),
        "names": list(result.versions),
        "versions": list(result.versions.values()),
        "measured": measures["keys"],
        "measures": measures["numbers"],
        **finite(result.validation),
    }
    cursor.run(
        """INSERT INTO trial_results
           VALUES ($trial_id, $now, $status, $message, map($keys::VARCHAR[], $numbers::DOUBLE[]), $best_epoch, $epochs,
                   $seconds, $eval_seconds, $peak_memory_mb, $parameters, $device, $threads, $trainer_version,
                   map($names::VARCHAR[], $versions::VARCHAR[]), $weights_of, $predicted_memory_mb,
                   map($measured::VARCHAR[], $measures::DOUBLE[]))
           ON CONFLICT DO NOTHING""",
        values,
    )
    return one(cursor, result.trial_id)


def record_verdict(cursor: Cursor, trial_id: str, verdict: str) -> None:
    """Stores what was told of a trial; the newest counts. Raises UnknownTrial."""
    require(cursor, (trial_id,))
    cursor.run(
        "INSERT INTO trial_verdicts (trial_id, told_at, verdict) VALUES ($id, $now, $verdict)",
        {"id": trial_id, "now": stored_time(now()), "verdict": verdict},
    )


def replicates(cursor: Cursor, backbone: str, metric: str, before: datetime) -> list[Row]:
    """`facts` (JSON) and `scores` by seed of each configuration that earlier studies trained with several seeds.

    A configuration's seeds count together over all studies of one dataset content. Trials that share a training count
    once, for the configuration that was trained.
    """
    return cursor.rows(
        """WITH trainings AS (
               SELECT s.facts, s.dataset_hash, s.filter_seen, t.config_hash, t.seed, t.position, r.trainer_version,
                      r.validation[$metric] AS score
               FROM trials t
               JOIN trial_results r ON r.trial_id = t.trial_id
               JOIN studies s ON s.study_id = t.study_id
               WHERE s.backbone = $backbone AND s.metric = $metric AND s.created_at < $before
                 AND r.status IN ('ok', 'timed_out') AND r.validation[$metric] IS NOT NULL
               QUALIFY row_number() OVER (PARTITION BY coalesce(t.fingerprint, t.trial_id)
                                          ORDER BY r.weights_of IS NOT NULL, t.position DESC) = 1),
           by_seed AS (
               SELECT dataset_hash, filter_seen, trainer_version, config_hash, seed, any_value(facts) AS facts,
                      arg_max(score, position) AS score, min(position) AS position
               FROM trainings GROUP BY ALL)
           SELECT any_value(facts) AS facts, list(score ORDER BY seed) AS scores
           FROM by_seed
           GROUP BY dataset_hash, filter_seen, trainer_version, config_hash HAVING count(*) > 1
           ORDER BY min(position)""",
        {"backbone": backbone, "metric": metric, "before": stored_time(before)},
    )


def _trial(row: Row) -> Trial:
    return Trial.model_validate(read(row, "changes", "config", "expected"))
