"""Reveals: how a study closes, and its one look at the sealed test split of its dataset."""

from __future__ import annotations

from collections.abc import Sequence

from memory.errors import MemoryFault
from memory.records import Closing, NewReveal, Reveal
from memory.tables.connection import Connection, Cursor
from memory.tables.rows import as_json, now, read, stored_time
from memory.tables.studies import Studies

Seeds = tuple[Sequence[int], Sequence[int]]


class Reveals:
    """Every method is one transaction, safe from any thread. Nothing here is part of what read_memory shows."""

    def __init__(self, connection: Connection, studies: Studies) -> None:
        self._connection = connection
        self._studies = studies

    def close(self, study_id: str, chosen: Sequence[str], default: Sequence[str], seeds: Seeds = ((), ())) -> None:
        """Stores the choice of a study, which admits only its fresh seeds from then on. The first choice stays.

        `seeds`: the fresh seeds of the choice and of the default. Raises UnknownStudy, and MemoryFault where a trial is
        queued or running.
        """
        with self._connection.write() as cursor:
            self._studies.one(cursor, study_id)
            row = cursor.row(
                """SELECT trial_id, status FROM trial_states
                   WHERE study_id = $id AND status IN ('queued', 'running') ORDER BY position LIMIT 1""",
                {"id": study_id},
            )
            if row is not None:
                raise MemoryFault(f"Trial {row['trial_id']!r} is still {row['status']}, so the study cannot close.")
            cursor.run(
                """INSERT INTO study_closings
                   (study_id, closed_at, chosen, "default", chosen_seeds, default_seeds)
                   VALUES ($id, $now, $chosen::VARCHAR[], $default::VARCHAR[], $seeds::INTEGER[], $others::INTEGER[])
                   ON CONFLICT DO NOTHING""",
                {
                    "id": study_id,
                    "now": stored_time(now()),
                    "chosen": list(chosen),
                    "default": list(default),
                    "seeds": list(seeds[0]),
                    "others": list(seeds[1]),
                },
            )
            self._studies.changed(study_id)

    def closing(self, study_id: str) -> Closing | None:
        """The choice with which the study closes, or has closed; None where none is made."""
        with self._connection.read() as cursor:
            row = cursor.row(
                """SELECT study_id, chosen, "default", coalesce(chosen_seeds, []) AS chosen_seeds,
                          coalesce(default_seeds, []) AS default_seeds
                   FROM study_closings WHERE study_id = $id""",
                {"id": study_id},
            )
        return Closing.model_validate(row) if row else None

    def look(self, study_id: str, dataset_hash: str) -> int:
        """Counts the study's look at the test of a dataset content; returns its number, from 1.

        Call it before the evaluation starts. A second call for the study returns the same number.
        """
        with self._connection.write() as cursor:
            self._studies.one(cursor, study_id)
            return _look(cursor, study_id, dataset_hash)

    def add(self, reveal: NewReveal) -> Reveal:
        """Stores what a study saw of the sealed test, with the number of its look (see `look`).

        A second call for the study returns the stored one. Raises UnknownStudy.
        """
        with self._connection.write() as cursor:
            self._studies.one(cursor, reveal.study_id)
            if (stored := _reveal(cursor, reveal.study_id)) is not None:
                return stored
            ordinal = _look(cursor, reveal.study_id, reveal.dataset_hash)
            added = Reveal(**dict(reveal), ordinal=ordinal, created_at=now())
            cursor.run(
                """INSERT INTO reveals (study_id, created_at, dataset_hash, ordinal, chosen, "default", test, baselines,
                                        users, user_variance, apart, apart_users)
                   VALUES ($study_id, $created_at, $dataset_hash, $ordinal, $chosen::VARCHAR[], $default::VARCHAR[],
                           $test, $baselines, $users, $user_variance, $apart, $apart_users)""",
                added.model_dump()
                | {
                    "created_at": stored_time(added.created_at),
                    "chosen": list(added.chosen),
                    "default": list(added.default),
                    "test": as_json(added.test),
                    "baselines": as_json(added.baselines),
                    "apart": as_json(added.apart),
                },
            )
            return added

    def of_study(self, study_id: str) -> Reveal | None:
        """The study's look at the sealed test; None where it had none."""
        with self._connection.read() as cursor:
            return _reveal(cursor, study_id)


def _look(cursor: Cursor, study_id: str, dataset_hash: str) -> int:
    cursor.run(
        """INSERT INTO looks
           SELECT $id, $now, $hash, 1 + count(*) FROM looks WHERE dataset_hash = $hash
           ON CONFLICT DO NOTHING""",
        {"id": study_id, "now": stored_time(now()), "hash": dataset_hash},
    )
    row = cursor.row("SELECT ordinal FROM looks WHERE study_id = $id", {"id": study_id})
    assert row is not None
    return int(row["ordinal"])


def _reveal(cursor: Cursor, study_id: str) -> Reveal | None:
    row = cursor.row("SELECT * FROM reveals WHERE study_id = $id", {"id": study_id})
    if row is None:
        return None
    values = read(row, "test", "baselines", "apart")
    return Reveal.model_validate({**values, "baselines": values["baselines"] or {}, "apart": values["apart"] or {}})
