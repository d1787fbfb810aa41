"""Every note of the file, kept in memory once somebody asked: only this process writes them."""

from __future__ import annotations

from collections.abc import Sequence

from memory import notes
from memory.connection import Connection
from memory.records import Note


class Notebook:
    """Reads what is committed; `refresh` follows each transaction that changed notes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._notes: dict[str, Note] | None = None

    def all(self) -> list[Note]:
        """Every note, superseded ones too, oldest first."""
        with self._connection.read() as cursor:
            if self._notes is None:
                self._notes = notes.listed(cursor)
            return list(self._notes.values())

    def refresh(self, heuristic_ids: Sequence[str]) -> None:
        """Reads these notes again."""
        with self._connection.read() as cursor:
            if self._notes is not None and heuristic_ids:
                self._notes |= notes.listed(cursor, heuristic_ids)
