"""The SQL of studies. Each study is read once, because only its end changes, and only this process writes it."""

from __future__ import annotations

from functools import lru_cache

from memory.errors import MemoryFault, UnknownStudy
from memory.records import Study
from memory.tables.connection import Cursor, Row
from memory.tables.rows import as_json, now, read, stored_time
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Space


class Studies:
    """The studies of one memory file. Each method is one step of its caller's transaction."""

    def __init__(self) -> None:
        self._cached: dict[str, Study] = {}

    def add(self, cursor: Cursor, study: Study) -> None:
        """Stores a new study. `end` stores later that it is finished."""
        values = study.model_dump(exclude={"facts", "space", "guardrails", "closing", "finished"}) | {
            "created_at": stored_time(study.created_at),
            "facts": study.facts.model_dump_json(),
            "space": study.space.model_dump_json(),
            "guardrails": as_json(study.limits),
        }
        if cursor.row("SELECT 1 FROM studies WHERE study_id = $id", {"id": study.study_id}):
            raise MemoryFault(f"Study {study.study_id!r} exists already.")
        names = ", ".join(values)
        cursor.run(f"INSERT INTO studies ({names}) VALUES ({', '.join(f'${name}' for name in values)})", values)

    def known(self, study_id: str) -> Study | None:
        """The study if it has been read before, else None."""
        return self._cached.get(study_id)

    def one(self, cursor: Cursor, study_id: str) -> Study:
        """The study as it stands; raises UnknownStudy."""
        if study_id not in self._cached:
            row = cursor.row("SELECT * FROM study_states WHERE study_id = $id", {"id": study_id})
            if row is None:
                raise UnknownStudy(study_id)
            self._cached[study_id] = _study(row)
        return self._cached[study_id]

    def all(self, cursor: Cursor) -> list[Study]:
        """All studies, newest first."""
        ids = [
            row["study_id"]
            for row in cursor.rows("SELECT study_id FROM studies ORDER BY created_at DESC, position DESC")
        ]
        if new := [study_id for study_id in ids if study_id not in self._cached]:
            rows = cursor.rows("SELECT * FROM study_states WHERE list_contains($ids, study_id)", {"ids": new})
            self._cached |= {row["study_id"]: _study(row) for row in rows}
        return [self._cached[study_id] for study_id in ids]

    def slot_seconds(self, cursor: Cursor, study_id: str) -> float:
        """The seconds that the study's trainings have held a slot so far, including running ones."""
        row = cursor.row(
            """SELECT sum(epoch(coalesce(e.ended_at, $now) - a.started_at)) AS seconds
               FROM trials t JOIN attempts a ON a.trial_id = t.trial_id
               LEFT JOIN attempt_ends e ON e.attempt_id = a.attempt_id WHERE t.study_id = $id""",
            {"id": study_id, "now": stored_time(now())},
        )
        return float(row["seconds"] or 0.0) if row else 0.0

    def end(self, cursor: Cursor, study_id: str) -> None:
        """Stores the end of a study, which then takes no more trials. A second call does nothing."""
        self.one(cursor, study_id)
        values = {"id": study_id, "now": stored_time(now())}
        cursor.run("INSERT INTO study_ends VALUES ($id, $now) ON CONFLICT DO NOTHING", values)
        self.changed(study_id)

    def changed(self, study_id: str) -> None:
        """Drops a study from the cache, since it closes or ends."""
        self._cached.pop(study_id, None)


def _study(row: Row) -> Study:
    return Study.model_validate(
        {**read(row, "guardrails"), "facts": _facts(row["facts"]), "space": _space(row["space"])}
    )


@lru_cache(maxsize=256)
def _facts(text: str) -> DatasetFacts:
    return DatasetFacts.model_validate_json(text)


@lru_cache(maxsize=256)
def _space(text: str) -> Space:
    """Parses a space. It is cached, because many studies share a space and its text is long."""
    return Space.model_validate_json(text)
