"""The SQL of studies. Each is read once: nothing of a study changes but its end, which only this process writes."""

from __future__ import annotations

from functools import lru_cache

from memory.connection import Cursor, Row
from memory.errors import MemoryFault, UnknownStudy
from memory.records import Study
from memory.rows import as_json, now, read, stored_time
from trainers.space import Space
from trainers.spec import DatasetFacts


class Studies:
    """Each method is one step of its caller's transaction."""

    def __init__(self) -> None:
        self._known: dict[str, Study] = {}

    def add(self, cursor: Cursor, study: Study) -> None:
        """Stores a new study; `finished` is a later fact of its own."""
        values = study.model_dump(exclude={"facts", "space", "guardrails", "finished"}) | {
            "created_at": stored_time(study.created_at),
            "facts": study.facts.model_dump_json(),
            "space": study.space.model_dump_json(),
            "guardrails": as_json(study.limits),
        }
        if cursor.row("SELECT 1 FROM studies WHERE study_id = $id", {"id": study.study_id}):
            raise MemoryFault(f"Study {study.study_id!r} exists already.")
        names = ", ".join(values)
        cursor.run(f"INSERT INTO studies ({names}) VALUES ({', '.join(f'${name}' for name in values)})", values)

    def one(self, cursor: Cursor, study_id: str) -> Study:
        """The study as it stands; raises UnknownStudy."""
        if study_id not in self._known:
            row = cursor.row("SELECT * FROM study_states WHERE study_id = $id", {"id": study_id})
            if row is None:
                raise UnknownStudy(study_id)
            self._known[study_id] = _study(row)
        return self._known[study_id]

    def all(self, cursor: Cursor) -> list[Study]:
        """Newest first."""
        ids = [
            row["study_id"]
            for row in cursor.rows("SELECT study_id FROM studies ORDER BY created_at DESC, position DESC")
        ]
        if new := [one for one in ids if one not in self._known]:
            rows = cursor.rows("SELECT * FROM study_states WHERE list_contains($ids, study_id)", {"ids": new})
            self._known |= {row["study_id"]: _study(row) for row in rows}
        return [self._known[one] for one in ids]

    def slot_seconds(self, cursor: Cursor, study_id: str) -> float:
        """How long its trainings have held a slot so far, those under way included."""
        row = cursor.row(
            """SELECT sum(epoch(coalesce(e.ended_at, $now) - a.started_at)) AS seconds
               FROM trials t JOIN attempts a ON a.trial_id = t.trial_id
               LEFT JOIN attempt_ends e ON e.attempt_id = a.attempt_id WHERE t.study_id = $id""",
            {"id": study_id, "now": stored_time(now())},
        )
        return float(row["seconds"] or 0.0) if row else 0.0

    def end(self, cursor: Cursor, study_id: str) -> None:
        """It takes no more trials. A second call does nothing."""
        self.one(cursor, study_id)
        values = {"id": study_id, "now": stored_time(now())}
        cursor.run("INSERT INTO study_ends VALUES ($id, $now) ON CONFLICT DO NOTHING", values)
        del self._known[study_id]


def _study(row: Row) -> Study:
    return Study.model_validate(
        {**read(row, "guardrails"), "facts": _facts(row["facts"]), "space": _space(row["space"])}
    )


@lru_cache(maxsize=256)
def _facts(text: str) -> DatasetFacts:
    return DatasetFacts.model_validate_json(text)


@lru_cache(maxsize=256)
def _space(text: str) -> Space:
    """Studies share their spaces, as they share datasets, and a space is long."""
    return Space.model_validate_json(text)
