"""A cache of every note of the file. It stays correct because only this process writes notes."""

from __future__ import annotations

from collections.abc import Sequence

from memory.records import Note
from memory.tables import notes
from memory.tables.connection import Connection


class NoteCache:
    """Committed notes, read once. Call `refresh` after each transaction that changed notes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._notes: dict[str, Note] | None = None

    def all(self) -> list[Note]:
        """Every note, superseded ones too, oldest first."""
        with self._connection.read() as cursor:
            if self._notes is None:
                self._notes = notes.listed(cursor)
            return list(self._notes.values())

    def refresh(self, note_ids: Sequence[str]) -> None:
        """Reads these notes again."""
        with self._connection.read() as cursor:
            if self._notes is not None and note_ids:
                self._notes |= notes.listed(cursor, note_ids)
