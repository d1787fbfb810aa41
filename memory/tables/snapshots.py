"""Snapshots: which ids each read of memory showed, so that a trial can name what it was planned from."""

from __future__ import annotations

from collections.abc import Sequence

from memory.errors import MemoryFault
from memory.tables.connection import Connection
from memory.tables.rows import new_id, now, stored_time
from memory.tables.studies import Studies


class Snapshots:
    """Every method is one transaction, safe from any thread."""

    def __init__(self, connection: Connection, studies: Studies) -> None:
        self._connection = connection
        self._studies = studies

    def take(self, study_id: str | None, shown: Sequence[str]) -> str:
        """Stores the ids that one read showed, in their order, and returns the snapshot's id.

        A read that shows a study the same ids again is the same snapshot. Raises UnknownStudy.
        """
        with self._connection.write() as cursor:
            if study_id is not None:
                self._studies.one(cursor, study_id)
            known = cursor.row(
                """SELECT snapshot_id FROM snapshots
                   WHERE study_id IS NOT DISTINCT FROM $study_id AND shown = $shown::VARCHAR[]
                   ORDER BY position LIMIT 1""",
                {"study_id": study_id, "shown": list(shown)},
            )
            if known is not None:
                return str(known["snapshot_id"])
            snapshot_id = new_id("r")
            cursor.run(
                """INSERT INTO snapshots (snapshot_id, study_id, taken_at, shown)
                   VALUES ($id, $study_id, $now, $shown::VARCHAR[])""",
                {"id": snapshot_id, "study_id": study_id, "now": stored_time(now()), "shown": list(shown)},
            )
            return snapshot_id

    def forget_study(self, study_id: str) -> None:
        """Removes a study in which nothing was done, with its snapshots. Raises MemoryFault where something was."""
        with self._connection.write() as cursor:
            self._studies.one(cursor, study_id)
            for table in ("trials", "notes", "policy_runs", "study_closings", "study_ends"):
                if cursor.row(f"SELECT 1 FROM {table} WHERE study_id = $id LIMIT 1", {"id": study_id}):
                    raise MemoryFault(f"Something was done in study {study_id!r}, so it stays.")
            for table in ("snapshots", "exposures", "studies"):
                cursor.run(f"DELETE FROM {table} WHERE study_id = $id", {"id": study_id})
        self._studies.changed(study_id)

    def latest(self, study_id: str) -> str | None:
        """The id of the study's newest snapshot."""
        sql = "SELECT arg_max(snapshot_id, position) AS latest FROM snapshots WHERE study_id = $id"
        with self._connection.read() as cursor:
            row = cursor.row(sql, {"id": study_id})
        return row["latest"] if row else None

    def shown(self, snapshot_id: str) -> tuple[str, ...] | None:
        """The ids that a snapshot showed, in their order; None for an unknown snapshot."""
        with self._connection.read() as cursor:
            row = cursor.row("SELECT shown FROM snapshots WHERE snapshot_id = $id", {"id": snapshot_id})
        return tuple(row["shown"]) if row else None
