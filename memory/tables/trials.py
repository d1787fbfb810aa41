"""The SQL of trials: their start, results and verdicts, each function one step of its caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from memory.errors import MemoryFault, UnknownTrial
from memory.records import NewTrial, Study, Trial
from memory.tables.connection import Cursor, Row
from memory.tables.rows import as_json, checked_text, finite, new_id, now, read, shortened, stored_time, value_columns
from trainers.contract.wire import TrialResult


@dataclass
class Roster:
    """The numbers of one study's configurations, by hash, and the ids of its trials, by request key."""

    numbers: dict[str, int]
    keys: dict[str, str]


def roster(cursor: Cursor, study_id: str) -> Roster:
    """The roster of a study. Keep it between starts, because scanning all trials is the slowest part of a start."""
    sql = "SELECT trial_id, number, config_hash, request_key FROM trials WHERE study_id = $id ORDER BY position"
    rows = cursor.rows(sql, {"id": study_id})
    return Roster(
        {row["config_hash"]: row["number"] for row in reversed(rows)},
        {row["request_key"]: row["trial_id"] for row in rows if row["request_key"] is not None},
    )


def start(cursor: Cursor, study: Study, new: NewTrial, names: Roster, confirms: bool = False) -> Trial:
    """Stores a trial of `study` with its values, and adds it to `names`.

    Returns the existing trial if the request_key was used before. While a study closes only a trial that `confirms` its
    choice is stored.
    """
    if new.request_key is not None and new.request_key in names.keys:
        return one(cursor, names.keys[new.request_key])
    if study.finished:
        raise MemoryFault(f"Study {study.study_id!r} is finished and takes no more trials; start_study begins another.")
    if study.closing and not confirms:
        raise MemoryFault(f"Study {study.study_id!r} is being finished and takes no more trials.")
    hypothesis = None if new.hypothesis is None else checked_text("hypothesis", new.hypothesis)
    fields = new.model_dump() | {"hypothesis": hypothesis}
    trial = Trial.model_validate(
        fields | {"trial_id": new_id("t"), "number": _number(cursor, new, names), "created_at": now()}
    )
    values = fields | {
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
    names.numbers.setdefault(new.config_hash, trial.number)
    if new.request_key is not None:
        names.keys[new.request_key] = trial.trial_id
    return trial


def _number(cursor: Cursor, new: NewTrial, names: Roster) -> int:
    """Replicates and equal configurations share a number; any other trial gets the study's next, from 0."""
    if new.parent is not None:
        require(cursor, (new.parent,))
    if new.replicate_of is None:
        return names.numbers.get(new.config_hash, max(names.numbers.values(), default=-1) + 1)
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


def of_studies(cursor: Cursor, study_ids: Sequence[str]) -> list[Trial]:
    """All trials of these studies, oldest first. The view reads all trials, so one call is as dear as another."""
    sql = "SELECT * FROM trial_states WHERE list_contains($ids, study_id) ORDER BY position"
    return [_trial(row) for row in cursor.rows(sql, {"ids": list(study_ids)})]


def unfinished(cursor: Cursor) -> list[Trial]:
    """The trials of any study that have no result, oldest first."""
    sql = "SELECT * FROM trial_states WHERE status IN ('queued', 'running', 'interrupted') ORDER BY position"
    return [_trial(row) for row in cursor.rows(sql)]


def trained(cursor: Cursor, fingerprint: str) -> list[str]:
    """The ids of the `ok` trials with this fingerprint: first those that trained, then those that reused weights."""
    rows = cursor.rows(
        """SELECT t.trial_id FROM trials t JOIN trial_results r ON r.trial_id = t.trial_id
           WHERE t.fingerprint = $fingerprint AND r.status = 'ok'
           ORDER BY r.weights_of IS NOT NULL, t.position""",
        {"fingerprint": fingerprint},
    )
    return [row["trial_id"] for row in rows]


def study_of(cursor: Cursor, trial_id: str) -> str:
    """The id of the study that a trial belongs to. Raises UnknownTrial."""
    row = cursor.row("SELECT study_id FROM trials WHERE trial_id = $id", {"id": trial_id})
    if row is None:
        raise UnknownTrial(trial_id)
    return str(row["study_id"])


def require(cursor: Cursor, trial_ids: Sequence[str]) -> None:
    """Raises UnknownTrial for the first of `trial_ids` that does not exist."""
    rows = cursor.rows("SELECT trial_id FROM trials WHERE list_contains($ids, trial_id)", {"ids": list(trial_ids)})
    existing = {row["trial_id"] for row in rows}
    for trial_id in trial_ids:
        if trial_id not in existing:
            raise UnknownTrial(trial_id)


def finish(cursor: Cursor, trial: Trial, result: TrialResult) -> Trial:
    """Stores how a trial ended, and returns the trial with its result."""
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
                   map($measured::VARCHAR[], $measures::DOUBLE[]))""",
        values,
    )
    return trial.model_copy(
        update=result.model_dump(exclude={"trial_id"})
        | {
            "message": values["message"],
            "validation": dict(zip(values["keys"], values["numbers"], strict=True)),
            "measures": dict(zip(measures["keys"], measures["numbers"], strict=True)),
        }
    )


def record_verdict(cursor: Cursor, trial_id: str, verdict: str) -> None:
    """Stores a verdict of a trial. The newest verdict counts. Raises UnknownTrial."""
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
