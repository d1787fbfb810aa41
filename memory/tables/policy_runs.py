"""The runs of policies inside the owner: their limits, and how each run ended."""

from __future__ import annotations

from memory.errors import MemoryFault
from memory.records import PolicyRun, RunOutcome
from memory.tables.connection import Connection, Cursor, Row
from memory.tables.rows import now, read, stored_time

_RUNS = """
    SELECT r.* EXCLUDE (position), e.ended_at, e.outcome, coalesce(e.message, '') AS message
    FROM policy_runs r LEFT JOIN policy_run_ends e ON e.run_id = r.run_id
"""


class PolicyRuns:
    """The policy runs of one memory file. Every method is one transaction, safe from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, run: PolicyRun) -> None:
        """Stores a new run. Raises MemoryFault if the study has another run that has not ended."""
        with self._connection.write() as cursor:
            last = _last(cursor, run.study_id)
            if last is not None and last.outcome is None:
                raise MemoryFault(
                    f"Study {run.study_id!r} is being played by {last.policy!r} already; get_study shows how far it "
                    "is, cancel_study ends it."
                )
            values = run.model_dump(exclude={"ended_at", "outcome", "message"})
            values["started_at"] = stored_time(run.started_at)
            names = ", ".join(values)
            cursor.run(f"INSERT INTO policy_runs ({names}) VALUES ({', '.join(f'${name}' for name in values)})", values)

    def end(self, run_id: str, outcome: RunOutcome, message: str = "") -> None:
        """Stores how a run ended; the first end stays."""
        with self._connection.write() as cursor:
            cursor.run(
                "INSERT INTO policy_run_ends VALUES ($run_id, $now, $outcome, $message) ON CONFLICT DO NOTHING",
                {"run_id": run_id, "now": stored_time(now()), "outcome": outcome, "message": message},
            )

    def last(self, study_id: str) -> PolicyRun | None:
        """The newest run of a study."""
        with self._connection.read() as cursor:
            return _last(cursor, study_id)

    def unended(self) -> list[PolicyRun]:
        """Runs of any study that have not ended, oldest first."""
        with self._connection.read() as cursor:
            return [_run(row) for row in cursor.rows(f"{_RUNS} WHERE e.run_id IS NULL ORDER BY r.position")]


def _last(cursor: Cursor, study_id: str) -> PolicyRun | None:
    row = cursor.row(f"{_RUNS} WHERE r.study_id = $id ORDER BY r.position DESC LIMIT 1", {"id": study_id})
    return _run(row) if row else None


def _run(row: Row) -> PolicyRun:
    return PolicyRun.model_validate(read(row))
